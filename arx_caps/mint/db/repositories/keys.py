# SPDX-License-Identifier: Apache-2.0
"""Root keys, the number of each audience's key, and the keys that each service has fetched.  SPEC 9, CONTROL 3.

Keys are derived in ``keys.root_keys``; of a later root key the sealed form is kept.
"""

import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import bindparam, exists, func, insert, or_, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from arx_caps.mint.db.database import Database, now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import AUDIENCE_KEYS, HOLDER_KEYS, KEY_FETCHES, ROOT_KEYS
from arx_caps.mint.db.unit_of_work import UnitOfWork

BY_FILE: Final = "file:"  # in place of an own key: an operator carried the file
_NUMBERING: Final = 2  # what one mint of several does at a time


class SealedRoot(NamedTuple):
    """A root key that was made later, as the database keeps it."""

    name: str
    nonce: str
    sealed: str


class RootRow(NamedTuple):
    """A root key.  Times are ms.

    Attributes:
        name: Its name.
        created_at: When services could first fetch keys of it.
        mints_from: From when on it mints; None for not at all yet.
        waits: Whether it waits for services that have not fetched it.
        used_at: When it last minted anything, to the minute.
        retired_at: When it was retired, or None.
        nonce: Of the sealed form; None for one of the file, and for a retired one.
        sealed: The sealed form.
    """

    name: str
    created_at: int
    mints_from: int | None
    waits: int
    used_at: int
    retired_at: int | None
    nonce: str | None
    sealed: str | None


class NumberRow(NamedTuple):
    """A number of an audience's key.  Times are ms."""

    audience: str
    n: int
    created_at: int
    used_at: int
    retired_at: int | None


class FetchRow(NamedTuple):
    """What somebody fetched last, and when, ms."""

    holder_key: str
    audience: str
    kids: str
    at: int


class KeyRows(NamedTuple):
    """Everything that is known of keys, as it was at one moment."""

    roots: tuple[RootRow, ...]
    numbers: tuple[NumberRow, ...]
    fetches: tuple[FetchRow, ...]


def retired_targets(rows: KeyRows) -> set[str]:
    """Return the target of every key that is retired.

    A number that audiences share, as those of the first version do, is no target: it would end the others.
    """
    targets: set[str] = set()
    live = {0, *(row.n for row in rows.numbers if row.retired_at is None)}
    for root in rows.roots:
        if root.retired_at is None:
            targets |= {f"key:{root.name}.{row.n}" for row in rows.numbers if row.n not in live}
        else:
            met = {0, *(row.n for row in rows.numbers if row.created_at <= root.retired_at)}
            targets |= {f"key:{root.name}.{n}" for n in met}
    return targets


_SEALED: Final = select(*(ROOT_KEYS.c[name] for name in SealedRoot._fields)).where(ROOT_KEYS.c.sealed.is_not(None))
_ROOTS: Final = select(ROOT_KEYS).order_by(ROOT_KEYS.c.created_at, ROOT_KEYS.c.name)
_NUMBERS: Final = select(AUDIENCE_KEYS).order_by(AUDIENCE_KEYS.c.n)
# A key that was taken away from its service is waited for by nobody.
_FETCHES: Final = select(KEY_FETCHES).where(
    or_(KEY_FETCHES.c.holder_key.startswith(BY_FILE), exists().where(HOLDER_KEYS.c.kid == KEY_FETCHES.c.holder_key))
)
_ITS_ROOT: Final = ROOT_KEYS.c.name == bindparam("which")
_ADD_ROOT, _CHANGE_ROOT = insert(ROOT_KEYS), update(ROOT_KEYS).where(_ITS_ROOT)
_CHANGE_LIVE_ROOT: Final = _CHANGE_ROOT.where(ROOT_KEYS.c.retired_at.is_(None))
_LIVE_NUMBERS: Final = (AUDIENCE_KEYS.c.audience == bindparam("whose"), AUDIENCE_KEYS.c.retired_at.is_(None))
_LIVE_NUMBER: Final = select(AUDIENCE_KEYS.c.n).where(*_LIVE_NUMBERS)
_HIGHEST: Final = select(func.max(AUDIENCE_KEYS.c.n))
_ADD_NUMBER, _RETIRE_NUMBERS = insert(AUDIENCE_KEYS), update(AUDIENCE_KEYS).where(*_LIVE_NUMBERS)
_CHANGE_NUMBER: Final = update(AUDIENCE_KEYS).where(
    AUDIENCE_KEYS.c.audience == bindparam("whose"), AUDIENCE_KEYS.c.n == bindparam("which")
)
_ADD_FETCH, _CHANGE_FETCH = (
    insert(KEY_FETCHES),
    update(KEY_FETCHES).where(KEY_FETCHES.c.holder_key == bindparam("whose")),
)


class Keys:
    """Root keys, numbers, and fetches."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rows(self) -> KeyRows:
        """Return everything, roots and numbers in the order in which they were made."""
        with self._database.read() as c:
            return KeyRows(
                tuple(RootRow(*row) for row in c.execute(_ROOTS)),
                tuple(NumberRow(*row) for row in c.execute(_NUMBERS)),
                tuple(FetchRow(*row) for row in c.execute(_FETCHES)),
            )

    def know_roots(self, names: Sequence[str]) -> None:
        """Take the root keys of the file over, if they are not known: they mint."""
        now = now_ms()
        with self._database.alone(_NUMBERING), self._database.write() as c:
            known = set(c.execute(select(ROOT_KEYS.c.name)).scalars())
            for place, name in enumerate(each for each in names if each not in known):
                row = {"name": name, "created_at": now + place, "mints_from": 0, "waits": 0, "used_at": now}
                c.execute(_ADD_ROOT, row)

    def add_root(self, unit: UnitOfWork, sealed: SealedRoot, what: Event) -> None:
        """Keep a new root key; it mints nothing yet.

        Raises:
            GrantError: ``conflict``: somebody else made one of that name at the same time.
        """
        row = {"created_at": now_ms(), "waits": 1, "used_at": 0, **sealed._asdict()}
        with unit.change(what) as c:
            c.execute(_ADD_ROOT, row)

    def sealed_roots(self) -> list[SealedRoot]:
        """Return the root keys that are kept here, sealed."""
        with self._database.read() as c:
            return [SealedRoot(*row) for row in c.execute(_SEALED)]

    def reseal_roots(self, again: Callable[[SealedRoot], SealedRoot], what: Event) -> None:
        """Seal every root key that is kept here anew, all or none.

        Args:
            again: Seals one.
            what: The event.
        """
        with self._database.write(what) as c:
            for row in c.execute(_SEALED.with_for_update()).all():
                sealed = again(SealedRoot(*row))
                c.execute(_CHANGE_ROOT, {"which": sealed.name, "nonce": sealed.nonce, "sealed": sealed.sealed})

    def let_root_mint(self, unit: UnitOfWork, name: str, mints_from: int, what: Event, *, waits: bool) -> None:
        """Say from when on a root key mints, ms, and whether it waits for services that have not fetched it."""
        with unit.change(what) as c:
            c.execute(_CHANGE_LIVE_ROOT, {"which": name, "mints_from": mints_from, "waits": int(waits)})

    def retire_root(self, name: str, what: Event) -> None:
        """Retire a root key for good: what was sealed of it is forgotten.  To repeat it changes nothing."""
        with self._database.write(what) as c:
            c.execute(_CHANGE_LIVE_ROOT, {"which": name, "retired_at": now_ms(), "nonce": None, "sealed": None})

    def number_audience(self, audience: str) -> None:
        """Give an audience its first number, unless it has one."""
        with self._database.alone(_NUMBERING), self._database.write() as c:
            if c.execute(_LIVE_NUMBER, {"whose": audience}).first() is None:
                _add_number(c, audience)

    def replace_audience_key(self, unit: UnitOfWork, audience: str, what: Event, *, stolen: bool) -> None:
        """Give an audience its next number.

        Args:
            unit: The call's.
            audience: The audience.
            what: The event.
            stolen: Whether the numbers before it are retired, at once.
        """
        with self._database.alone(_NUMBERING), unit.change(what) as c:
            if stolen:
                _retire_numbers(c, audience)
            _add_number(c, audience)

    def retire_audience(self, audience: str, what: Event) -> None:
        """Retire every number of an audience."""
        with self._database.write(what) as c:
            _retire_numbers(c, audience)

    def note_fetch(self, holder_key: str, audience: str, kids: Collection[str]) -> None:
        """Remember what somebody fetched now: an own key's thumbprint, or ``file:`` and the audience."""
        row = {"audience": audience, "kids": msgspec.json.encode(sorted(kids)).decode(), "at": now_ms()}
        with self._database.write() as c:
            known = c.execute(_CHANGE_FETCH, {"whose": holder_key, **row})
            if known.rowcount == 0:
                # Two processes of a service may ask for the first time at once; both got the same.
                with contextlib.suppress(IntegrityError), c.begin_nested():
                    c.execute(_ADD_FETCH, {"holder_key": holder_key, **row})

    def note_used(self, roots: Collection[str], numbers: Collection[tuple[str, int]]) -> None:
        """Remember that these root keys and these numbers are minted with now."""
        now = now_ms()
        with self._database.write() as c:
            c.execute(update(ROOT_KEYS).where(ROOT_KEYS.c.name.in_(list(roots))).values(used_at=now))
            for audience, n in numbers:
                c.execute(_CHANGE_NUMBER, {"whose": audience, "which": n, "used_at": now})


def _add_number(c: Connection, audience: str) -> None:
    highest: Any = c.execute(_HIGHEST).scalar()
    now = now_ms()
    row = {"audience": audience, "n": (highest or 0) + 1, "created_at": now, "used_at": now}
    c.execute(_ADD_NUMBER, row)


def _retire_numbers(c: Connection, audience: str) -> None:
    c.execute(_RETIRE_NUMBERS, {"whose": audience, "retired_at": now_ms()})
