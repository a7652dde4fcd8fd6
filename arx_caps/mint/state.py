# SPDX-License-Identifier: Apache-2.0
"""What the mint remembers: agents, operators, sessions, tasks, services, used proofs, and how far the epoch had come.

One method a question or a change; each change is one transaction, and what must be durable with it (the event record)
is written inside.  What may be granted is decided by others.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, Self

import msgspec
from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from arx_caps.keyfile import PublicKey
from arx_caps.mint import tables
from arx_caps.mint.tables import AGENTS, HIGH_WATER, HOLDER_KEYS, META, OPERATORS, SERVICES, SESSIONS, TASKS, USED_JTI
from arx_verifier.errors import GrantError, SettingsError, StoreError

PRUNE_MS: Final = 10_000  # how often used proofs are looked through
KEEP_MS: Final = 60_000  # beyond a proof's end, for a clock that is set back
PAGE: Final = 1000  # rows of one listing

Record = Callable[[], None]


class HighWater(NamedTuple):
    """The furthest place in the kill sequence that was acted on.

    Attributes:
        inc: The history.
        seq: The place in it.
        max_ttl_ms: How long tokens may live for the store to remember their kills; 0 leaves it as it is.
    """

    inc: str
    seq: int
    max_ttl_ms: int = 0


def now_ms() -> int:
    """Read the wall clock, ms since the Unix epoch."""
    return time.time_ns() // 1_000_000


def _nothing() -> None:
    return None


class State:
    """The mint's database.  Methods block: call them from a thread.  Used as a context manager, it closes itself.

    Args:
        url: The database, in SQLAlchemy's form.
    """

    def __init__(self, url: str) -> None:
        self._engine = tables.open_engine(url)
        self._reader = self._engine.execution_options(**{tables.READING: True})
        self._pruned_ms = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<State in {self._engine.url.render_as_string(hide_password=True)}>"

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def create(self) -> None:
        """Make the tables, or find them in the form this version knows.

        Raises:
            SettingsError: The database belongs to another version.
            StoreError: It did not answer.
        """
        with self._write() as c:
            tables.METADATA.create_all(c)
            found = c.execute(select(META.c.value).where(META.c.name == "schema")).scalar()
            if found is None:
                c.execute(insert(META).values(name="schema", value=str(tables.SCHEMA)))
            elif found != str(tables.SCHEMA):
                raise SettingsError(f"the mint's database has schema {found}, this version knows {tables.SCHEMA}")

    def ping(self) -> None:
        """Take the write lock and let it go.

        Raises:
            StoreError: The database cannot be written.
        """
        with self._write() as c:
            c.execute(select(func.count()).select_from(META))

    @contextlib.contextmanager
    def _write(self) -> Iterator[Connection]:
        with _told(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _read(self) -> Iterator[Connection]:
        with _told(), self._reader.begin() as connection:
            yield connection

    def _rows(self, statement: Any) -> list[dict[str, Any]]:
        with self._read() as c:
            return [_plain(row) for row in c.execute(statement.limit(PAGE))]

    def _row(self, statement: Any) -> dict[str, Any] | None:
        rows = self._rows(statement)
        return rows[0] if rows else None

    # Operators, agents and their keys.

    def add_operator(self, name: str, key: PublicKey, record: Record = _nothing) -> None:
        """Enrol an operator's first or next key.

        Raises:
            GrantError: ``key_enrolled``: somebody has this key already.
        """
        with self._write() as c:
            if c.execute(select(OPERATORS.c.id).where(OPERATORS.c.id == name)).first() is None:
                c.execute(insert(OPERATORS).values(id=name, status="active", created_at=now_ms()))
            _add_key(c, f"operator:{name}", key)
            record()

    def operator(self, name: str) -> dict[str, Any] | None:
        """Return an operator's row, or None."""
        return self._row(select(OPERATORS).where(OPERATORS.c.id == name))

    def add_agent(
        self, path: str, key: PublicKey, *, owner: str | None, metadata: Mapping[str, str], record: Record
    ) -> None:
        """Enrol an agent with its first key.

        Raises:
            GrantError: ``agent_exists`` or ``key_enrolled``.
        """
        written = msgspec.json.encode(dict(metadata), order="sorted").decode()
        with self._write() as c:
            if c.execute(select(AGENTS.c.path).where(AGENTS.c.path == path)).first() is not None:
                raise GrantError(f"the agent {path} is enrolled already", code="agent_exists")
            c.execute(
                insert(AGENTS).values(path=path, status="active", owner=owner, metadata=written, created_at=now_ms())
            )
            _add_key(c, path, key)
            record()

    def agent(self, path: str) -> dict[str, Any] | None:
        """Return an agent's row, or None."""
        return self._row(select(AGENTS).where(AGENTS.c.path == path))

    def agents(self) -> list[dict[str, Any]]:
        """Return the agents by path."""
        return self._rows(select(AGENTS).order_by(AGENTS.c.path))

    def set_agent_status(self, path: str, status: str, record: Record) -> None:
        """Deactivate or reinstate an agent; what it holds is not ended by it."""
        with self._write() as c:
            ended = now_ms() if status == "deactivated" else None
            c.execute(update(AGENTS).where(AGENTS.c.path == path).values(status=status, ended_at=ended))
            record()

    def end_sessions_of(self, path: str) -> None:
        """Note that the sessions and tasks of an agent are over."""
        at, theirs = now_ms(), select(SESSIONS.c.id).where(SESSIONS.c.agent == path)
        with self._write() as c:
            _end(c, TASKS, TASKS.c.session.in_(theirs), at)
            _end(c, SESSIONS, SESSIONS.c.agent == path, at)

    def change_keys(self, holder: str, add: PublicKey | None, remove: str | None, record: Record) -> None:
        """Enrol another key of a holder, take one away, or both in one step.

        Raises:
            GrantError: ``key_enrolled``; ``not_found``; ``conflict``: it would be left without a key.
        """
        with self._write() as c:
            if add is not None:
                _add_key(c, holder, add)
            if remove is not None:
                which = (HOLDER_KEYS.c.holder == holder, HOLDER_KEYS.c.kid == remove)
                if c.execute(delete(HOLDER_KEYS).where(*which)).rowcount == 0:
                    raise GrantError("there is no such key of this agent", code="not_found")
            left = c.execute(select(func.count()).select_from(HOLDER_KEYS).where(HOLDER_KEYS.c.holder == holder))
            if not left.scalar():
                raise GrantError("an agent keeps one key; deactivate it, or add another first", code="conflict")
            record()

    def find_key(self, holder: str, kid: str) -> PublicKey | None:
        """Return a holder's enrolled key by its thumbprint, or None."""
        statement = select(HOLDER_KEYS).where(HOLDER_KEYS.c.kid == kid, HOLDER_KEYS.c.holder == holder)
        row = self._row(statement)
        return PublicKey({"kty": "OKP", "crv": "Ed25519", "x": row["x"]}) if row is not None else None

    def kids(self, holder: str) -> list[str]:
        """Return the thumbprints of a holder's enrolled keys."""
        rows = self._rows(select(HOLDER_KEYS).where(HOLDER_KEYS.c.holder == holder).order_by(HOLDER_KEYS.c.added_at))
        return [row["kid"] for row in rows]

    # Sessions and tasks.

    def add_session(self, values: Mapping[str, Any], high_water: HighWater, realm: str, record: Record) -> None:
        """Open a session."""
        with self._write() as c:
            c.execute(insert(SESSIONS).values(**values))
            _raise_high_water(c, realm, high_water)
            record()

    def session(self, session: str) -> dict[str, Any] | None:
        """Return a session's row, or None."""
        return self._row(select(SESSIONS).where(SESSIONS.c.id == session))

    def sessions(self, *, agent: str | None = None) -> list[dict[str, Any]]:
        """Return the newest sessions first."""
        statement = select(SESSIONS).order_by(SESSIONS.c.opened_at.desc())
        return self._rows(statement if agent is None else statement.where(SESSIONS.c.agent == agent))

    def end_session(self, session: str, record: Record) -> None:
        """Note that a session and its tasks are over."""
        at = now_ms()
        with self._write() as c:
            _end(c, SESSIONS, SESSIONS.c.id == session, at)
            _end(c, TASKS, TASKS.c.session == session, at)
            record()

    def add_task(self, values: Mapping[str, Any], high_water: HighWater, realm: str, record: Record) -> None:
        """Start a task, unless its session ended meanwhile.

        Raises:
            GrantError: ``session_ended``.
        """
        with self._write() as c:
            # Looked at inside the write lock: an end that was answered before leaves no task behind it.
            status = c.execute(select(SESSIONS.c.status).where(SESSIONS.c.id == values["session"])).scalar()
            if status != "open":
                raise GrantError("the session is over", code="session_ended")
            c.execute(insert(TASKS).values(**values))
            _raise_high_water(c, realm, high_water)
            record()

    def task(self, task: str) -> dict[str, Any] | None:
        """Return a task's row, or None."""
        return self._row(select(TASKS).where(TASKS.c.id == task))

    def tasks(self, *, session: str | None = None) -> list[dict[str, Any]]:
        """Return the newest tasks first."""
        statement = select(TASKS).order_by(TASKS.c.started_at.desc())
        return self._rows(statement if session is None else statement.where(TASKS.c.session == session))

    def end_task(self, task: str, record: Record) -> None:
        """Note that a task is over."""
        with self._write() as c:
            _end(c, TASKS, TASKS.c.id == task, now_ms())
            record()

    # Services, used proofs, the epoch.

    def enrol_service(self, audience: str, by: str, record: Record) -> int:
        """Enrol a tool service, or find it, and return the number of its audience key."""
        with self._write() as c:
            n = c.execute(select(SERVICES.c.n).where(SERVICES.c.audience == audience)).scalar()
            if n is None:
                n = 0
                c.execute(insert(SERVICES).values(audience=audience, n=n, enrolled_at=now_ms(), enrolled_by=by))
            record()
            return int(n)

    def key_numbers(self) -> dict[str, int]:
        """Return the number of each enrolled audience's key."""
        return {row["audience"]: row["n"] for row in self._rows(select(SERVICES))}

    def spend(self, kind: str, kid: str, jti: str, until: int) -> None:
        """Use a proof's or an assertion's id, once.

        Args:
            kind: What it belongs to.
            kid: The key that signed it: nobody can use up another's ids.
            jti: The id.
            until: From when on it would be refused as too old, ms.

        Raises:
            GrantError: ``replayed``.
        """
        digest = hashlib.sha256(f"{kind}\0{kid}\0{jti}".encode("utf-8", "surrogatepass")).hexdigest()
        now = now_ms()
        try:
            with self._write() as c:
                c.execute(insert(USED_JTI).values(digest=digest, until=until))
                if abs(now - self._pruned_ms) > PRUNE_MS:
                    c.execute(delete(USED_JTI).where(USED_JTI.c.until < now - KEEP_MS))
                    self._pruned_ms = now
        except GrantError as error:  # the unique key
            raise GrantError(f"this {kind} was used before; sign anew", code="replayed") from error

    def high_water(self, realm: str) -> HighWater | None:
        """Return the furthest place in the kill sequence that was acted on, or None."""
        row = self._row(select(HIGH_WATER).where(HIGH_WATER.c.realm == realm))
        return HighWater(row["inc"], row["seq"], row["max_ttl_ms"]) if row is not None else None

    def raise_high_water(self, realm: str, mark: HighWater, record: Record = _nothing, *, begins: bool = False) -> None:
        """Remember a place in the kill sequence; it only rises, but where a history ``begins``."""
        with self._write() as c:
            _raise_high_water(c, realm, mark, begins=begins)
            record()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise GrantError("somebody else changed this at the same time; look again", code="conflict") from None
    except SQLAlchemyError as error:
        # Its text would quote statement and values.
        raise StoreError(f"the mint's database did not answer ({type(error).__name__})") from None


def _plain(row: Row[Any]) -> dict[str, Any]:
    return dict(row._mapping)  # noqa: SLF001 - its public name


def _add_key(c: Connection, holder: str, key: PublicKey) -> None:
    if c.execute(select(HOLDER_KEYS.c.kid).where(HOLDER_KEYS.c.kid == key.kid)).first() is not None:
        raise GrantError("this key is enrolled already; make a fresh one", code="key_enrolled")
    c.execute(insert(HOLDER_KEYS).values(kid=key.kid, holder=holder, x=key.x, added_at=now_ms()))


def _end(c: Connection, table: Any, which: Any, at: int) -> None:
    c.execute(update(table).where(which, table.c.status == "open").values(status="ended", ended_at=at))


def _raise_high_water(c: Connection, realm: str, mark: HighWater, *, begins: bool = False) -> None:
    row = c.execute(select(HIGH_WATER).where(HIGH_WATER.c.realm == realm)).first()
    if row is None:
        c.execute(insert(HIGH_WATER).values(realm=realm, **mark._asdict()))
        return
    if not begins and mark.inc != row.inc and mark.seq <= row.seq:
        return  # a history goes on where the one before it ended: this is a late word of one that is over
    values = {"inc": mark.inc, "seq": max(row.seq, mark.seq), "max_ttl_ms": mark.max_ttl_ms or row.max_ttl_ms}
    if values != {name: row._mapping[name] for name in values}:  # noqa: SLF001 - its public name
        c.execute(update(HIGH_WATER).where(HIGH_WATER.c.realm == realm).values(**values))
