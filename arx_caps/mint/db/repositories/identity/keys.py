# SPDX-License-Identifier: Apache-2.0
"""Root keys, audience key numbers, and the keys that services fetched. SPEC 9, CONTROL 3.

Keys are derived in ``arx_caps.mint.keys.root_keys``, and scheduled in ``arx_caps.mint.keys.key_schedule``.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Column, Select, Table, bindparam, exists, func, insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.database import Repository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.statement import CompiledStatement, insert_new
from arx_caps.mint.db.tables import (
    AUDIENCE_KEYS,
    HOLDER_KEYS,
    KEY_FETCHES,
    MEMORY_KEYS,
    PERSON_KEYS,
    ROOT_KEYS,
    SIGNING_KEYS,
    WEBHOOKS,
)
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.clock import now_ms

SIGNING_NAME: Final = "sign/"  # of what the seal of a signing key is bound to; no root key has such a name
WEBHOOK_NAME: Final = "webhook/"  # the same, of a receiver of notifications
MEMORY_NAME: Final = "memory/"  # the same, of a memory key
PERSON_NAME: Final = "person/"  # the same, of a person's key
_NUMBERING: Final = 2  # of the lock with which one mint at a time gives numbers


class SealedRoot(NamedTuple):
    """A root key of the database, or another secret, sealed."""

    name: str
    nonce: str
    sealed: str


class RootRow(NamedTuple):
    """A root key's row. Times are in ms since the Unix epoch.

    Attributes:
        name: Its name.
        created_at: When services could first fetch audience keys of it.
        mints_from: When it begins to mint; None if that is not scheduled.
        waits: 1 if it mints only after all services have fetched it.
        used_at: When it last minted, to the minute.
        retired_at: When it was retired, or None.
        nonce: Nonce of the sealed form; None for a key of the file, and for a retired one.
        sealed: The sealed form, or None like ``nonce``.
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
    """A number of an audience's key. Times are in ms since the Unix epoch."""

    audience: str
    n: int
    created_at: int
    used_at: int
    retired_at: int | None


class FetchRow(NamedTuple):
    """The key ids that a service's own key fetched last, and when, in ms since the Unix epoch."""

    holder_key: str
    audience: str
    kids: str
    at: int


class KeyRows(NamedTuple):
    """All rows of root keys, numbers and fetches, read at one moment."""

    roots: tuple[RootRow, ...]
    numbers: tuple[NumberRow, ...]
    fetches: tuple[FetchRow, ...]


def retired_targets(rows: KeyRows) -> set[str]:
    """Return the target of every retired key."""
    targets: set[str] = set()
    # A number that several audiences share, such as 0, is no target: its freeze would refuse the other audiences'
    # tokens.
    live = {0, *(row.n for row in rows.numbers if row.retired_at is None)}
    for root in rows.roots:
        if root.retired_at is None:
            targets |= {f"key:{root.name}.{row.n}" for row in rows.numbers if row.n not in live}
        else:
            # Later numbers were never combined with this root key.
            met = {0, *(row.n for row in rows.numbers if row.created_at <= root.retired_at)}
            targets |= {f"key:{root.name}.{n}" for n in met}
    return targets


_SEALED: Final = select(*(ROOT_KEYS.c[name] for name in SealedRoot._fields)).where(ROOT_KEYS.c.sealed.is_not(None))
# Other sealed secrets: what their seals are bound to, their table, and the column of their ids.
_SECRETS: Final = (
    (SIGNING_NAME, SIGNING_KEYS, SIGNING_KEYS.c.kid),
    (WEBHOOK_NAME, WEBHOOKS, WEBHOOKS.c.id),
    (MEMORY_NAME, MEMORY_KEYS, MEMORY_KEYS.c.kid),
    (PERSON_NAME, PERSON_KEYS, PERSON_KEYS.c.subject),
)
# By number: the newest one is not frozen when the others were stolen, whatever the clock was when they were made.
_MEMORY_KEYS: Final = select(MEMORY_KEYS).order_by(func.length(MEMORY_KEYS.c.kid), MEMORY_KEYS.c.kid)
_ROOTS: Final = select(ROOT_KEYS).order_by(ROOT_KEYS.c.created_at, ROOT_KEYS.c.name)
_NUMBERS: Final = select(AUDIENCE_KEYS).order_by(AUDIENCE_KEYS.c.n)
# Without own keys that were removed: a rotation must not wait for a service that cannot fetch.
_FETCHES: Final = select(KEY_FETCHES).where(exists().where(HOLDER_KEYS.c.kid == KEY_FETCHES.c.holder_key))
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
_ADD_FETCH: Final = CompiledStatement(insert(KEY_FETCHES))
_CHANGE_FETCH: Final = update(KEY_FETCHES).where(KEY_FETCHES.c.holder_key == bindparam("whose"))


class KeyRepository(Repository):
    """Root keys, audience key numbers, and fetches."""

    def rows(self) -> KeyRows:
        """Return all rows; root keys in order of creation, numbers ascending."""
        with self._database.read() as c:
            # In one transaction: a number without its root key would be decided on wrongly.
            return KeyRows(
                tuple(RootRow(*row) for row in c.execute(_ROOTS)),
                tuple(NumberRow(*row) for row in c.execute(_NUMBERS)),
                tuple(FetchRow(*row) for row in c.execute(_FETCHES)),
            )

    def know_roots(self, names: Sequence[str]) -> None:
        """Add rows for the root keys of the file that have none; these keys mint at once.

        Args:
            names: Names of the file's keys, the oldest first.
        """
        now = now_ms()
        with self._database.alone(_NUMBERING), self._database.write() as c:
            known = set(c.execute(select(ROOT_KEYS.c.name)).scalars())
            for place, name in enumerate(name for name in names if name not in known):
                # A millisecond apart, so that their order is unambiguous.
                row = {"name": name, "created_at": now + place, "mints_from": 0, "waits": 0, "used_at": now}
                c.execute(_ADD_ROOT, row)

    def add_root(self, unit: UnitOfWork, sealed: SealedRoot, what: Event) -> None:
        """Store a new root key, which does not mint yet.

        Raises:
            GrantError: ``conflict``: another call stored a key of that name at the same time.
        """
        row = {"created_at": now_ms(), "waits": 1, "used_at": 0, **sealed._asdict()}
        with unit.change(what) as c:
            c.execute(_ADD_ROOT, row)

    def sealed_roots(self) -> list[SealedRoot]:
        """Return the sealed root keys of the database."""
        with self._database.read() as c:
            return [SealedRoot(*row) for row in c.execute(_SEALED)]

    def sealed_secrets(self) -> list[SealedRoot]:
        """Return all other secrets that the root keys seal, by the names that their seals are bound to."""
        with self._database.read() as c:
            return [
                SealedRoot(about + str(row[0]), *row[1:])
                for about, table, its in _SECRETS
                for row in c.execute(_rows_of(table, its))
            ]

    def reseal_roots(self, again: Callable[[SealedRoot], SealedRoot], what: Event) -> None:
        """Seal every root key, and each secret of the database that the root keys seal, again, in one transaction.

        Args:
            again: Returns a key with a new seal.
            what: The event.
        """
        with self._database.write(what) as c:
            # All or none: with two seals in the table, no single passphrase would open it.
            for row in c.execute(_SEALED.with_for_update()).all():
                sealed = again(SealedRoot(*row))
                c.execute(_CHANGE_ROOT, {"which": sealed.name, "nonce": sealed.nonce, "sealed": sealed.sealed})
            for about, table, its in _SECRETS:
                for which, *box in c.execute(_rows_of(table, its).with_for_update()).all():
                    sealed = again(SealedRoot(about + which, *box))
                    changed = update(table).where(its == which)
                    c.execute(changed.values(nonce=sealed.nonce, sealed=sealed.sealed))

    def memory_keys(self) -> list[tuple[str, int, SealedRoot]]:
        """Return key id, time of creation in ms since the Unix epoch, and sealed form, the oldest first."""
        with self._database.read() as c:
            return [
                (kid, created_at, SealedRoot(MEMORY_NAME + kid, *box))
                for kid, created_at, *box in c.execute(_MEMORY_KEYS)
            ]

    def add_memory_key(self, seal: Callable[[str], SealedRoot], *, first: bool = False) -> None:
        """Make the next memory key.

        Args:
            seal: Returns a new key that is bound to a name.
            first: Whether to make it only if there is none.
        """
        with self._database.alone(_NUMBERING), self._database.write() as c:
            number = len(c.execute(_MEMORY_KEYS).all()) + 1
            if first and number > 1:
                return
            kid = f"memory.{number}"
            box = seal(MEMORY_NAME + kid)
            c.execute(
                insert(MEMORY_KEYS), {"kid": kid, "created_at": now_ms(), "nonce": box.nonce, "sealed": box.sealed}
            )

    def let_root_mint(self, unit: UnitOfWork, name: str, mints_from: int, what: Event, *, waits: bool) -> None:
        """Schedule when a root key begins to mint.

        Args:
            unit: The call's unit of work.
            name: The root key's name.
            mints_from: When it begins, in ms since the Unix epoch.
            what: The event.
            waits: Whether it also waits until all services have fetched it.
        """
        with unit.change(what) as c:
            c.execute(_CHANGE_LIVE_ROOT, {"which": name, "mints_from": mints_from, "waits": int(waits)})

    def retire_root(self, name: str, what: Event) -> None:
        """Retire a root key for good and delete its sealed form. It is idempotent."""
        gone = {"which": name, "retired_at": now_ms(), "nonce": None, "sealed": None}
        self._database.change(_CHANGE_LIVE_ROOT, gone, what)

    def number_audience(self, audience: str) -> None:
        """Give an audience its first key number, unless it has one."""
        with self._database.alone(_NUMBERING), self._database.write() as c:
            if c.execute(_LIVE_NUMBER, {"whose": audience}).first() is None:
                _add_number(c, audience)

    def replace_audience_key(self, unit: UnitOfWork, audience: str, what: Event, *, stolen: bool) -> None:
        """Give an audience its next key number.

        Args:
            unit: The call's unit of work.
            audience: The audience.
            what: The event.
            stolen: Whether to retire the numbers before it at once.
        """
        with self._database.alone(_NUMBERING), unit.change(what) as c:
            if stolen:
                _retire_numbers(c, audience)
            _add_number(c, audience)

    def retire_audience(self, audience: str, what: Event) -> None:
        """Retire every key number of an audience."""
        with self._database.write(what) as c:
            _retire_numbers(c, audience)

    def note_fetch(self, holder_key: str, audience: str, kids: Collection[str]) -> None:
        """Record which key ids a service has fetched now.

        Args:
            holder_key: Thumbprint of the service's own key.
            audience: The audience.
            kids: The key ids.
        """
        row = {"audience": audience, "kids": msgspec.json.encode(sorted(kids)).decode(), "at": now_ms()}
        with self._database.write() as c:
            if c.execute(_CHANGE_FETCH, {"whose": holder_key, **row}).rowcount == 0:
                # Two processes of a service may fetch for the first time at once; both got the same keys.
                insert_new(c, _ADD_FETCH, {"holder_key": holder_key, **row})

    def note_used(self, roots: Collection[str], numbers: Collection[tuple[str, int]]) -> None:
        """Record that these root keys and audience key numbers mint now.

        Args:
            roots: Names of root keys.
            numbers: Audiences and key numbers.
        """
        now = now_ms()
        with self._database.write() as c:
            c.execute(update(ROOT_KEYS).where(ROOT_KEYS.c.name.in_(list(roots))).values(used_at=now))
            for audience, n in numbers:
                c.execute(_CHANGE_NUMBER, {"whose": audience, "which": n, "used_at": now})


def _rows_of(table: Table, its: Column[Any]) -> Select[Any]:
    return select(its, table.c.nonce, table.c.sealed).where(table.c.sealed.is_not(None))


def _add_number(c: Connection, audience: str) -> None:
    # The highest of all audiences, retired numbers included: a kill of an old key id must never affect a new key.
    highest: Any = c.execute(_HIGHEST).scalar()
    now = now_ms()
    row = {"audience": audience, "n": (highest or 0) + 1, "created_at": now, "used_at": now}
    c.execute(_ADD_NUMBER, row)


def _retire_numbers(c: Connection, audience: str) -> None:
    c.execute(_RETIRE_NUMBERS, {"whose": audience, "retired_at": now_ms()})
