# SPDX-License-Identifier: Apache-2.0
"""Keys of people, their accounts at upstreams, and the links by which they connect these.  CONTROL 9."""

from collections.abc import Callable, Collection, Sequence
from hashlib import sha256
from typing import Any, Final, TypeAlias

import msgspec
from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.cursor import Order
from arx_caps.mint.db.database import PAGE, StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.rows import RowReader, as_json
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import CONNECTION_LINKS, CONNECTIONS, PERSON_KEYS, ConnectionRow, LinkRow, StoredKey
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError


class ConnectionUse(msgspec.Struct, frozen=True):
    """The columns of a connection that a count of connections reads."""

    name: str
    issuer: str
    created_at: int
    used_at: int | None
    refresher: str | None
    refresh_until: int


AccountRow: TypeAlias = ConnectionRow | LinkRow
PERSON_KEY_ROWS: Final = RowReader(StoredKey, PERSON_KEYS)
CONNECTION_ROWS: Final = RowReader(ConnectionRow, CONNECTIONS)
CONNECTION_USES: Final = RowReader(ConnectionUse, CONNECTIONS)
LINK_ROWS: Final = RowReader(LinkRow, CONNECTION_LINKS)
MOST_LINKS: Final = 16  # of one person, unused: a model may call a tool again and again
CONNECTIONS_ORDER: Final = Order((CONNECTIONS.c.created_at, CONNECTIONS.c.id), tuple[int, str])
KEPT_MS: Final = 30 * 86_400_000  # a connection that has ended
ACCOUNTS_LOCK: Final = 0x61727A  # of an advisory lock; no other part of ARx uses this number
_SWEEP_MS: Final = 30_000  # between two looks for what is over
_C: Final = CONNECTIONS.c
_L: Final = CONNECTION_LINKS.c
_KEY: Final = PERSON_KEY_ROWS.select().where(PERSON_KEYS.c.subject == bindparam("whose"))
_READ_KEY: Final = CompiledStatement(_KEY)
_SUBJECTS: Final = (
    select(PERSON_KEYS.c.subject).where(PERSON_KEYS.c.subject > bindparam("after")).order_by(PERSON_KEYS.c.subject)
)
_LINK: Final = CompiledStatement(LINK_ROWS.select().where(_L.digest == bindparam("which")))
_BY_COOKIE: Final = CompiledStatement(LINK_ROWS.select().where(_L.cookie == bindparam("which")))
_OVER: Final = LINK_ROWS.select().where(_L.until < bindparam("now")).limit(PAGE)
_OLD: Final = delete(CONNECTIONS).where(
    _C.created_at < bindparam("before"), _C.status == "ended", _C.ended_at < bindparam("before")
)
_UNUSED: Final = (
    select(_L.digest)
    .where(_L.subject == bindparam("whose"), _L.cookie.is_(None))
    .order_by(_L.until.desc())
    .offset(MOST_LINKS - 1)
)
_BEGIN: Final = update(CONNECTION_LINKS).where(
    _L.digest == bindparam("which"), _L.cookie.is_(None), _L.until > bindparam("now")
)
_ITS: Final = _L.cookie == bindparam("which")
_REDEEM: Final = update(CONNECTION_LINKS).where(_ITS, _L.used_at.is_(None), _L.until > bindparam("now"))
_HOLD: Final = update(CONNECTION_LINKS).where(_ITS, _L.sealed.is_(None))
_DROP: Final = delete(CONNECTION_LINKS).where(_ITS)
_LATEST: Final = CompiledStatement(
    CONNECTION_ROWS.select()
    .where(_C.subject == bindparam("whose"), _C.name == bindparam("name"))
    .order_by(_C.created_at.desc(), _C.id)
    .limit(1)
)
_OPEN: Final = CONNECTION_ROWS.select().where(_C.name == bindparam("name"), _C.status == "open")
_FORMER: Final = _OPEN.where(_C.subject == bindparam("subject"))
_TAKEN: Final = _OPEN.where(
    _C.issuer == bindparam("issuer"),
    _C.account.in_(bindparam("accounts", expanding=True)),
    _C.subject != bindparam("subject"),
).limit(1)
_COUNTED: Final = CONNECTION_USES.select().where(_C.status == "open")
_CHANGE_OPEN: Final = update(CONNECTIONS).where(_C.id == bindparam("which"), _C.status == "open")
_LOCK: Final = _CHANGE_OPEN.where(_C.refresh_until < bindparam("now"))
_LOCKED: Final = _CHANGE_OPEN.where(_C.refresher == bindparam("own"))


Sealer = Callable[[AccountRow], dict[str, str]]  # returns the columns of a row's tokens, sealed anew
Seal = Callable[[StoredKey | None], dict[str, str]]  # returns the columns of tokens that it seals with a key


class ConnectionRepository(StructRepository[ConnectionRow], reader=CONNECTION_ROWS, key=CONNECTIONS.c.id):
    """The connections, their links, and the keys of people."""

    _swept_ms = 0

    def person_key(self, subject: str) -> StoredKey | None:
        """Return a person's sealed key, or None."""
        return self._database.first(PERSON_KEY_ROWS, _READ_KEY, whose=subject)

    def subjects(self, after: str, limit: int) -> list[str]:
        """Return the targets of people who have a key, in order, from one on."""
        return self._database.column(_SUBJECTS.limit(limit), after=after)

    def rotate_key(
        self, subject: str, again: Callable[[StoredKey], tuple[StoredKey, Sealer]], what: Event
    ) -> bool | None:
        """Replace a person's key, and what it seals, in one transaction; return False if there is none.

        Args:
            subject: The person's target.
            again: Returns the new key, and what returns the columns of a row's new seal.
            what: The event.

        Returns:
            None, and nothing was changed, while a refresh of the person's tokens runs.
        """
        with self._database.write() as c:
            before = locked_key(c, subject)
            if before is None:
                return False
            links, accounts = locked_accounts(c, subject)
            if any(row.refresh_until > now_ms() for row in accounts if row.sealed is not None):
                return None
            key, seal = again(before)
            c.execute(update(PERSON_KEYS).where(PERSON_KEYS.c.subject == subject), PERSON_KEY_ROWS.values(key))
            for its, rows in ((_L.digest, links), (_C.id, accounts)):
                for row in rows:
                    if row.sealed is not None:
                        c.execute(update(its.table).where(its == row.key), seal(row))
            self._database.record_in(c, what)
        return True

    def add_link(self, row: LinkRow, key: StoredKey) -> None:
        """Store a link, and delete a person's oldest unused ones beyond ``MOST_LINKS``.

        Args:
            row: The link.
            key: A key of the person, unless there is one.
        """
        with self._database.write() as c:
            # An erasure waits for the key's row. Agents call tools again and again, and must not wait for each other.
            if locked_key(c, row.subject) is not None:
                _add_link(c, row)
                return
        # With the link, and not beside an erasure: no key comes back without anything that it could seal.
        with self._database.alone(ACCOUNTS_LOCK), self._database.write() as c:
            if locked_key(c, row.subject) is None:
                c.execute(insert(PERSON_KEYS), PERSON_KEY_ROWS.values(key))
            _add_link(c, row)

    def link(self, digest: str) -> LinkRow | None:
        """Return the link with a digest, or None."""
        return self._database.first(LINK_ROWS, _LINK, which=digest)

    def link_of(self, cookie: str) -> LinkRow | None:
        """Return the link that a browser has used, by the digest of its cookie, or None."""
        return self._database.first(LINK_ROWS, _BY_COOKIE, which=cookie)

    def begin(self, digest: str, cookie: str) -> bool:
        """Use a link up, for one browser; return False if it was used before, or is over."""
        return self._database.change(_BEGIN, {"which": digest, "now": now_ms(), "cookie": cookie}) == 1

    def redeem(self, cookie: str) -> bool:
        """Use the issuer's answer to a browser; return False if one was used before, or too late."""
        return self._database.change(_REDEEM, {"which": cookie, "now": now_ms(), "used_at": now_ms()}) == 1

    def hold(self, row: LinkRow, seal: Seal) -> bool:
        """Store the ``account`` and ``granted`` that wait for the person, sealed; return False if the link is over."""
        held = {"which": row.cookie, "account": row.account, "granted": as_json(row.granted)}
        with self._database.write() as c:
            return c.execute(_HOLD, held | seal(locked_key(c, row.subject))).rowcount == 1

    def drop(self, cookie: str, what: Event) -> bool:
        """Delete a link, with what waits for the person; return False if there is none."""
        return self._database.change_once(_DROP, {"which": cookie}, what)

    def sweep(self) -> Sequence[LinkRow]:
        """Delete old connections that have ended, and return the links that are over, at most every half minute."""
        now = now_ms()
        # A clock set back must not stop this until it has caught up.
        if abs(now - self._swept_ms) <= _SWEEP_MS:
            return []
        self._swept_ms = now
        self._database.change(_OLD, {"before": now - KEPT_MS})
        return self._database.all(LINK_ROWS, _OVER, now=now)

    def remove_link(self, row: LinkRow) -> bool:
        """Delete a link; return False if another mint did, or an account was held since."""
        own = (_L.digest == row.digest, _L.sealed.is_not_distinct_from(row.sealed))
        return self._database.change(delete(CONNECTION_LINKS).where(*own), {}) == 1

    def add(
        self, cookie: str, row: ConnectionRow, seal: Seal, what: Event, accounts: Collection[str], *, shared: bool
    ) -> Sequence[ConnectionRow]:
        """Store a connection in the place of its link and of the person's connection before.

        Args:
            cookie: The digest of the browser's cookie.
            row: The connection.
            seal: Seals its tokens.
            what: The event.
            accounts: The account in each form that a row may have.
            shared: Whether another person may have connected the same account.

        Returns:
            The connections that it replaces, as they were.

        Raises:
            GrantError: ``conflict``: the page was answered before, or another person has the account.
        """
        its = {"name": row.name, "subject": row.subject, "issuer": row.issuer, "accounts": sorted(accounts)}
        # Two people who connect one account at once: the second must see the row of the first.
        with self._database.alone(account_lock(row.name, min(accounts))), self._database.write() as c:
            columns = seal(locked_key(c, row.subject))
            if not shared and c.execute(_TAKEN, its).first() is not None:
                raise GrantError("another person has connected this account", code="conflict")
            if c.execute(_DROP, {"which": cookie}).rowcount != 1:
                raise GrantError("this page was answered before", code="conflict")
            former = CONNECTION_ROWS.all(c, _FORMER, {"name": row.name, "subject": row.subject})
            for each in former:
                c.execute(_CHANGE_OPEN, _ended(each.id, "replaced"))
            c.execute(insert(CONNECTIONS), CONNECTION_ROWS.values(row) | columns)
            self._database.record_in(c, what)
        return former

    def latest(self, subject: str, name: str) -> ConnectionRow | None:
        """Return a person's newest connection of a name, open or over, or None."""
        return self._database.first(CONNECTION_ROWS, _LATEST, whose=subject, name=name)

    def list_open(self) -> Sequence[ConnectionUse]:
        """Return what a count reads of all open connections: neither people nor tokens."""
        return self._database.all(CONNECTION_USES, _COUNTED)

    def list(self, *, subject: str | None, name: str | None, after: str | None, limit: int) -> Sequence[ConnectionRow]:
        """Return a page of connections, the oldest first.

        Args:
            subject: Of this person alone.
            name: Of this name alone.
            after: The ``next`` of the page before.
            limit: At most this number.
        """
        wanted = [column == value for column, value in ((_C.subject, subject), (_C.name, name)) if value is not None]
        return self._listed(CONNECTION_ROWS.select().where(*wanted), CONNECTIONS_ORDER, after, limit)

    def end(self, which: str, why: str, what: Event) -> bool:
        """End a connection and delete its tokens; return False if it was over."""
        return self._database.change_once(_CHANGE_OPEN, _ended(which, why), what)

    def lock(self, which: str, own: str, until: int) -> bool:
        """Begin a refresh, unless another one runs; return whether it may go on.

        Args:
            which: The connection.
            own: A random name of this refresh.
            until: Until when no other one begins, ms since the Unix epoch.
        """
        # The update decides, over all mints: of two refreshes with one token, the issuer ends the whole grant.
        locked = {"which": which, "now": now_ms(), "refresher": own, "refresh_until": until}
        return self._database.change(_LOCK, locked) == 1

    def unlock(self, which: str, own: str, *, is_clear: bool) -> None:
        """End a refresh that gave nothing, if it is still this one's.

        Args:
            which: The connection.
            own: The name of this refresh.
            is_clear: Whether it is known what the issuer did.
        """
        ended = _LOCKED.values(refresh_until=0, refresher=None if is_clear else own)
        self._database.change(ended, {"which": which, "own": own})

    def refreshed(self, row: ConnectionRow, own: str, seal: Seal) -> bool:
        """Store what a refresh gave, and end it; return False if it was not this one's any more, or all is over.

        Args:
            row: The connection.
            own: The name of this refresh.
            seal: Seals the new tokens.
        """
        with self._database.write() as c:
            ended = {"refresh_until": 0, "refresher": None, "refreshed_at": now_ms()}
            values = ended | seal(locked_key(c, row.subject))
            return c.execute(_LOCKED.values(**values), {"which": row.id, "own": own}).rowcount == 1

    def note_used(self, which: str) -> None:
        """Note that a token was lent now."""
        self._database.change(_CHANGE_OPEN, {"which": which, "used_at": now_ms()})


def _ended(which: str, why: str) -> dict[str, Any]:
    """Return what the end of a connection sets: its tokens are deleted."""
    gone = dict.fromkeys(("nonce", "sealed", "refresher"))
    return {"which": which, "status": "ended", "ended_at": now_ms(), "ended_why": why, **gone}


def _add_link(c: Connection, row: LinkRow) -> None:
    surplus = list(c.execute(_UNUSED, {"whose": row.subject}).scalars())
    c.execute(delete(CONNECTION_LINKS).where(_L.digest.in_(surplus)))
    c.execute(insert(CONNECTION_LINKS), LINK_ROWS.values(row))


def locked_key(c: Connection, subject: str) -> StoredKey | None:
    """Return a person's key, which nothing changes until the transaction ends; None if the person was erased."""
    row = c.execute(_KEY.with_for_update(), {"whose": subject}).first()
    return None if row is None else PERSON_KEY_ROWS.read(row)


def locked_accounts(c: Connection, subject: str) -> tuple[Sequence[LinkRow], Sequence[ConnectionRow]]:
    """Return a person's links and connections, which nothing changes until the transaction ends."""
    links = LINK_ROWS.select().where(_L.subject == subject).with_for_update()
    accounts = CONNECTION_ROWS.select().where(_C.subject == subject).with_for_update()
    return LINK_ROWS.all(c, links), CONNECTION_ROWS.all(c, accounts)


def account_lock(name: str, account: str) -> int:
    """Return the number of the lock of an account; see ``alone``."""
    return int.from_bytes(sha256(f"{ACCOUNTS_LOCK}\0{name}\0{account}".encode()).digest()[:8], signed=True)
