# SPDX-License-Identifier: Apache-2.0
"""The enrolled public keys of agents, operators and services."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Column, bindparam, delete, insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.credentials.keyfile import PublicKey, public_key
from arx_caps.mint.db.cursor import Order, Text
from arx_caps.mint.db.database import PAGE, Database, StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.rows import RowReader
from arx_caps.mint.db.statement import CompiledStatement, insert_new
from arx_caps.mint.db.tables import AGENTS, HOLDER_KEYS, META, OPERATORS, SERVICES, HolderKeyRow
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError

HOLDER_KEY_ROWS: Final = RowReader(HolderKeyRow, HOLDER_KEYS)
_OWNERS: Final[dict[str, Column[Any]]] = {
    "agent": AGENTS.c.path,
    "operator": OPERATORS.c.id,
    "service": SERVICES.c.audience,
}
KEYS_ORDER: Final = Order((HOLDER_KEYS.c.holder, HOLDER_KEYS.c.kid), tuple[Text, Text])
NOTE_MS: Final = 60_000  # how often the use of a key is stored
_NOTED: Final = 4096  # keys whose last note is remembered
_ITS: Final = HOLDER_KEYS.c.kid == bindparam("which")
_THEIRS: Final = HOLDER_KEYS.c.holder == bindparam("whose")
_ENDED: Final = HOLDER_KEYS.c.until <= bindparam("now")
_FIND: Final = CompiledStatement(HOLDER_KEY_ROWS.select().where(_ITS, _THEIRS))
_PRUNE: Final = delete(HOLDER_KEYS).where(_THEIRS, _ENDED)
_LIST: Final = HOLDER_KEY_ROWS.select().where(_THEIRS).order_by(HOLDER_KEYS.c.added_at)
_USE: Final = update(HOLDER_KEYS).where(_ITS)
_OF_VERSION: Final = "version/"  # what the names of its rows in META begin with
_CHANGE_VERSION: Final = update(META).where(META.c.name == bindparam("named")).values(value=bindparam("text"))
_ADD_VERSION: Final = CompiledStatement(insert(META))
_ADD, _REMOVE = CompiledStatement(insert(HOLDER_KEYS)), CompiledStatement(delete(HOLDER_KEYS).where(_ITS, _THEIRS))


class HolderKeyRepository(StructRepository[HolderKeyRow], reader=HOLDER_KEY_ROWS, key=HOLDER_KEYS.c.kid):
    """The public keys of all holders."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._noted: dict[tuple[str, str | None], int] = {}

    def note_use(self, kid: str, version: str | None = None) -> None:
        """Store that a key signed a call, at most once a minute for each version.

        Args:
            kid: The key's thumbprint.
            version: The version of ARx that called; "" for another program; None to store none.
        """
        now, used = now_ms(), (kid, version)
        if now - self._noted.get(used, 0) < NOTE_MS:
            return
        if len(self._noted) >= _NOTED:
            self._noted.clear()
        self._noted[used] = now
        with self._database.write() as c:
            c.execute(_USE.values(used_at=now), {"which": kid})
            if version is not None:
                _put_version(c, _row_name(kid), version)

    def versions(self, kids: Iterable[str]) -> dict[str, str]:
        """Return by thumbprint the version of ARx that used each key last; a key whose user reported none is left out.

        Args:
            kids: The keys' thumbprints.
        """
        names = {_row_name(kid): kid for kid in kids}
        found = self._database.pairs(select(META.c.name, META.c.value).where(META.c.name.in_(names)))
        return {names[name]: version for name, version in found.items() if version}

    def page(self, *, after: str | None = None, limit: int = PAGE) -> list[HolderKeyRow]:
        """Return the keys of all holders, ordered by holder.

        Args:
            after: A page's ``next``: only keys after it.
            limit: At most this number.
        """
        return self._listed(HOLDER_KEY_ROWS.select(), KEYS_ORDER, after, limit)

    def change(
        self, holder: str, add: PublicKey | None, remove: str | None, what: Event, *, keep_one: bool = True
    ) -> None:
        """Enrol another key of a holder, remove one, or both in one transaction.

        Args:
            holder: The holder, as ``acme/bot``, ``operator:alice`` or ``service:billing``.
            add: The key to enrol, or None. One that the holder has changes nothing.
            remove: Thumbprint of the key to remove, or None.
            what: The event.
            keep_one: Whether the holder must have a key afterwards.

        Raises:
            GrantError: ``key_enrolled``; ``not_found``; ``conflict``: the holder would have no key.
        """
        with self._database.write(what) as c:
            _lock(c, holder)
            # A caller whose answer was lost retries, and must find its key enrolled.
            if add is not None and _FIND.first(c, {"which": add.kid, "whose": holder}) is None:
                add_key(c, holder, add)
            if remove is not None and _REMOVE.run(c, {"which": remove, "whose": holder}) == 0:
                raise GrantError(f"{holder} has no key {remove!r:.60}", code="not_found")
            if remove is not None:
                forget_versions(c, [remove])
            if keep_one and c.execute(_LIST, {"whose": holder}).first() is None:
                raise GrantError("a holder keeps one key; add another first", code="conflict")

    def key_of(self, holder: str, kid: str) -> PublicKey | None:
        """Return a holder's public key by its thumbprint, or None."""
        row = self.row_of(holder, kid)
        return public_key({"kty": "OKP", "crv": "Ed25519", "x": row.x}) if row is not None else None

    def row_of(self, holder: str, kid: str) -> HolderKeyRow | None:
        """Return the row of a holder's key by its thumbprint; None if there is none, or it has ended."""
        row = self.find(kid)
        # By both: a key authenticates its own holder alone.
        if row is None or row.holder != holder or (row.until is not None and row.until <= now_ms()):
            return None
        return row

    def holder_of(self, kid: str) -> str | None:
        """Return the holder of a key by its thumbprint, or None."""
        row = self.find(kid)
        return row.holder if row is not None else None

    def list(self, holder: str) -> list[HolderKeyRow]:
        """Return a holder's keys, the oldest first."""
        return self._all(_LIST, whose=holder)

    def kids(self, holder: str) -> Sequence[str]:
        """Return the thumbprints of a holder's keys."""
        return [row.kid for row in self.list(holder)]

    def by_holder(self, holders: Iterable[str]) -> Mapping[str, Sequence[HolderKeyRow]]:
        """Return the keys of several holders by holder, the oldest first."""
        keys: dict[str, list[HolderKeyRow]] = {holder: [] for holder in holders}
        # One query for a page of holders, not one for each of them.
        wanted = HOLDER_KEY_ROWS.select().where(HOLDER_KEYS.c.holder.in_(keys)).order_by(HOLDER_KEYS.c.added_at)
        for row in self._all(wanted):
            keys[row.holder].append(row)
        return keys


def add_key(c: Connection, holder: str, key: PublicKey, until: int | None = None) -> None:
    """Enrol a key in an open transaction, and delete the holder's keys that have ended.

    Args:
        c: The connection.
        holder: The holder.
        key: The key.
        until: When it ends, ms since the Unix epoch; None for no end.

    Raises:
        GrantError: ``key_enrolled``: a holder has this key already.
    """
    if not insert_new(c, _ADD, HOLDER_KEY_ROWS.values(HolderKeyRow(key.kid, holder, key.x, now_ms(), until=until))):
        # It names no holder: a caller could find out whose key it has seen.
        raise GrantError("this key is enrolled already; make a fresh one", code="key_enrolled")
    if until is not None:
        c.execute(_PRUNE, {"whose": holder, "now": now_ms()})


def forget_versions(c: Connection, kids: Iterable[str]) -> None:
    """Delete in an open transaction the versions that are stored of keys.

    Args:
        c: The connection.
        kids: The thumbprints of the keys, which are removed.
    """
    c.execute(delete(META).where(META.c.name.in_([_row_name(kid) for kid in kids])))


def _put_version(c: Connection, name: str, version: str) -> None:
    if c.execute(_CHANGE_VERSION, {"named": name, "text": version}).rowcount == 0:
        # Two mints may note the first use of a key at once.
        insert_new(c, _ADD_VERSION, {"name": name, "value": version})


def _row_name(kid: str) -> str:
    return _OF_VERSION + kid[:24]  # the column has 32 characters; 144 bits of the digest are left


def _lock(c: Connection, holder: str) -> None:
    """Lock a holder's row."""
    # Of two calls that remove the last two keys of a holder, the second must see what the first has left.
    kind, colon, name = holder.partition(":")
    column = _OWNERS[kind if colon else "agent"]
    c.execute(select(column).where(column == (name if colon else holder)).with_for_update())
