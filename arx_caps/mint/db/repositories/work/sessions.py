# SPDX-License-Identifier: Apache-2.0
"""Sessions: their rows, from start to end.

Whether a session is revoked or frozen is in the store's epoch, and not in its row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Select, bindparam, func, insert, or_, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.cursor import Order, Text, Time
from arx_caps.mint.db.database import PAGE, StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.identity.agents import AGENT_ROWS
from arx_caps.mint.db.repositories.operations.epoch import HighWater, raise_high_water
from arx_caps.mint.db.repositories.work.proofs import Used
from arx_caps.mint.db.rows import RowReader
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import AGENTS, SESSIONS, TASKS, USED_JTI, AgentRow, SessionRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError, refusal

SESSION_ROWS: Final = RowReader(SessionRow, SESSIONS)
# The states that a row has; a killed or frozen session is alive in the database.
Which = Literal["alive", "expired", "ended"]
SESSIONS_ORDER: Final = Order((SESSIONS.c.opened_at, SESSIONS.c.id), tuple[Time, Text], newest_first=True)
_ITS: Final = SESSIONS.c.id == bindparam("which")
_WITH_AGENT: Final = CompiledStatement(
    select(*SESSION_ROWS.columns, *AGENT_ROWS.columns, USED_JTI.c.digest)
    .join_from(SESSIONS, AGENTS)
    .outerjoin(USED_JTI, USED_JTI.c.digest == bindparam("used"))
    .where(_ITS)
)
_LOCK: Final = CompiledStatement(SESSION_ROWS.select().where(_ITS).with_for_update())
_ADD, _CHANGE = CompiledStatement(insert(SESSIONS)), CompiledStatement(update(SESSIONS).where(_ITS))
_END_TASKS: Final = CompiledStatement(
    update(TASKS).where(TASKS.c.session == bindparam("which"), TASKS.c.status == "open")
)
_END: Final = CompiledStatement(update(SESSIONS).where(_ITS, SESSIONS.c.status == "open"))
_THEIRS: Final = select(SESSIONS.c.id).where(SESSIONS.c.agent == bindparam("whose"))
_END_ALL: Final = update(SESSIONS).where(SESSIONS.c.agent == bindparam("whose"), SESSIONS.c.status == "open")
_END_ALL_TASKS: Final = update(TASKS).where(TASKS.c.session.in_(_THEIRS), TASKS.c.status == "open")
_OPEN_ONES: Final = (
    SESSION_ROWS.select()
    .where(
        SESSIONS.c.agent == bindparam("whose"), SESSIONS.c.status == "open", SESSIONS.c.expires_at > bindparam("now")
    )
    .order_by(SESSIONS.c.opened_at)
)
_LOCK_AGENT: Final = CompiledStatement(
    select(AGENTS.c.status).where(AGENTS.c.path == bindparam("whose")).with_for_update()
)


class Room(NamedTuple):
    """How many sessions an agent may have at once.

    Attributes:
        most: That number.
        counts: Returns whether a session's row counts; one that was killed does not.
    """

    most: int
    counts: Callable[[SessionRow], bool]


# A transaction that starts something below a row locks that row and reads its status; one that ends it changes the
# status first. So once an end is answered, nothing below it that started at the same time is left.
class SessionRepository(StructRepository[SessionRow], reader=SESSION_ROWS, key=SESSIONS.c.id):
    """The sessions."""

    def add(
        self,
        unit: UnitOfWork,
        row: SessionRow,
        high_water: HighWater,
        realm: str,
        what: Event,
        room: Room | None = None,
    ) -> None:
        """Store a new session.

        Args:
            unit: The call's unit of work.
            row: The row.
            high_water: The position of the kill epoch with which it was decided.
            realm: The realm.
            what: The event.
            room: How many sessions the agent may have; None for any number.

        Raises:
            RevokedError: ``frozen``: the agent was deactivated in the meantime.
            GrantError: ``too_many_sessions``.
        """
        with unit.change(what) as c:
            if _LOCK_AGENT.scalar(c, {"whose": row.agent}) != "active":
                raise refusal("frozen")
            if room is not None:
                # Counted while the agent's row is locked: of two sessions at the limit, one is refused.
                _require_room(c, row.agent, room)
            _ADD.run(c, SESSION_ROWS.values(row))
            raise_high_water(c, realm, high_water)

    def find_with_agent(self, session: str, used: Used) -> tuple[SessionRow, AgentRow, bool] | None:
        """Return a session's row, its agent's, and whether an id was used before, read at one moment; or None.

        Args:
            session: The session.
            used: The id of the call's proof.
        """
        with self._database.look() as c:
            found = _WITH_AGENT.first(c, {"which": session, "used": used.digest})
        if found is None:
            return None
        own = len(SESSION_ROWS.columns)
        return SESSION_ROWS.read(found[:own]), AGENT_ROWS.read(found[own:-1]), found[-1] is not None

    def list(
        self,
        *,
        which: Which | None = None,
        after: str | None = None,
        limit: int = PAGE,
        **wanted: str | None,
    ) -> list[SessionRow]:
        """Return sessions, the newest first.

        Args:
            which: Only sessions in this state.
            after: A page's ``next``: only sessions after it.
            limit: At most this number.
            wanted: As for ``count``.
        """
        statement = of_state(SESSION_ROWS.select().where(*self._filters(**wanted)), SESSIONS, which)
        return self._listed(statement, SESSIONS_ORDER, after, limit)

    def count(self, most: int, *, which: Which | None = None, **wanted: str | None) -> int:
        """Return the number of sessions, or ``most + 1`` if there are more than ``most``.

        Args:
            most: Where the count stops.
            which: Only sessions in this state.
            wanted: ``agent``: only sessions of this agent, or of those below it (``acme/**``); ``subject``: on behalf
                of this subject, of any issuer; ``template``: in which a task of this template was started; ``text``:
                with this text in agent, purpose or subject, or of this id or its beginning.
        """
        matching = of_state(select(SESSIONS.c.id).where(*self._filters(**wanted)), SESSIONS, which)
        return self._database.count(matching.limit(most + 1).subquery())

    def not_ended_by(
        self, agent: str, subject: tuple[str | None, str | None], time: int, most: int
    ) -> Sequence[tuple[str, int]]:
        """Return the sessions of an agent on behalf of a subject that had not ended by a time, the newest first.

        Args:
            agent: The agent.
            subject: Its issuer and its name; None for both for sessions without one.
            time: The time, ms since the Unix epoch.
            most: At most this number.

        Returns:
            For each its id, and when it was opened.
        """
        theirs = (SESSIONS.c.agent == agent, SESSIONS.c.subject_issuer == subject[0], SESSIONS.c.subject == subject[1])
        statement = (
            select(SESSIONS.c.id, SESSIONS.c.opened_at)
            .where(*theirs, func.coalesce(SESSIONS.c.ended_at, SESSIONS.c.expires_at) > time)
            .order_by(SESSIONS.c.opened_at.desc())
            .limit(most)
        )
        with self._database.read() as c:
            return [(row.id, int(row.opened_at)) for row in c.execute(statement)]

    def templates(self, sessions: Sequence[str]) -> "dict[str, dict[str, int]]":
        """Return the number of tasks of each template in each of these sessions."""
        theirs = (TASKS.c.session, TASKS.c.template)
        statement = select(*theirs, func.count()).where(TASKS.c.session.in_(sessions)).group_by(*theirs)
        found: dict[str, dict[str, int]] = {}
        with self._database.read() as c:
            for session, template, count in c.execute(statement.order_by(*theirs)):
                found.setdefault(session, {})[template] = count
        return found

    def _filters(
        self,
        *,
        agent: str | None = None,
        subject: str | None = None,
        template: str | None = None,
        text: str | None = None,
    ) -> Iterator[ColumnElement[bool]]:
        if agent is not None and agent.endswith("/**"):
            above = agent.removesuffix("/**")
            yield or_(SESSIONS.c.agent == above, SESSIONS.c.agent.startswith(above + "/", autoescape=True))
        elif agent is not None:
            yield SESSIONS.c.agent == agent
        if subject is not None:
            yield SESSIONS.c.subject == subject
        if template is not None:
            yield select(TASKS.c.id).where(TASKS.c.session == SESSIONS.c.id, TASKS.c.template == template).exists()
        if text is not None and text.startswith("s-"):
            yield SESSIONS.c.id.startswith(text, autoescape=True)
        elif text is not None:
            searched = (SESSIONS.c.agent, SESSIONS.c.purpose, SESSIONS.c.subject)
            # SQLite's LIKE ignores the case of ASCII letters, and takes half of the time without ``lower``.
            sqlite = self._database.system == "sqlite"
            yield or_(*((each.contains if sqlite else each.icontains)(text, autoescape=True) for each in searched))

    def renew(
        self, unit: UnitOfWork, session: str, values: Mapping[str, Any], high_water: HighWater, realm: str, what: Event
    ) -> SessionRow:
        """Extend a session's expiry.

        Args:
            unit: The call's unit of work.
            session: The session's id.
            values: The columns to change, ``expires_at`` among them.
            high_water: The position of the kill epoch with which it was decided.
            realm: The realm.
            what: The event.

        Returns:
            The session's row.

        Raises:
            GrantError: ``session_ended``: it has ended or expired.
        """
        with unit.change(what) as c:
            row = SESSION_ROWS.one(c, _LOCK, {"which": session})
            # An expired session too: the end of an expired session is answered "over", and must stay true.
            if row.status != "open" or row.expires_at <= now_ms():
                raise GrantError("the session is over", code="session_ended")
            # Of two renewals at once, the later expiry counts.
            changes = {**values, "expires_at": max(row.expires_at, values["expires_at"])}
            _CHANGE.run(c, {"which": session, **changes})
            raise_high_water(c, realm, high_water)
            return msgspec.structs.replace(row, **changes)

    def count_alive(self) -> int:
        """Return the number of sessions that have neither ended nor expired, killed ones included."""
        return int(self._database.scalar(of_state(select(func.count()).select_from(SESSIONS), SESSIONS, "alive")))

    def end(self, session: str, what: Event) -> int:
        """End a session and its tasks in the database.

        Returns:
            When its last token expires, in ms since the Unix epoch.
        """
        ended = {"which": session, "status": "ended", "ended_at": now_ms()}
        with self._database.write(what) as c:
            _END.run(c, ended)
            _END_TASKS.run(c, ended)
            return SESSION_ROWS.one(c, self._find, {"which": session}).expires_at

    def end_of(self, path: str) -> None:
        """End all sessions and tasks of an agent in the database."""
        # No event of its own: the deactivation of the agent is the event.
        ended = {"whose": path, "status": "ended", "ended_at": now_ms()}
        with self._database.write() as c:
            c.execute(_END_ALL, ended)
            c.execute(_END_ALL_TASKS, ended)


def _require_room(c: Connection, agent: str, room: Room) -> None:
    rows = SESSION_ROWS.all(c, _OPEN_ONES, {"whose": agent, "now": now_ms()})
    open_ones = [row.id for row in rows if room.counts(row)]
    if len(open_ones) >= room.most:
        raise GrantError(
            f"{agent} has {len(open_ones)} sessions open and may have {room.most} at once: end one, such as "
            f"{open_ones[0]}, or wait until one is over",
            code="too_many_sessions",
        )


def of_state(statement: Select[Any], table: Any, which: Which | None) -> Select[Any]:
    """Return a listing of sessions or tasks that has only those in a state; None for all."""
    if which is None:
        return statement
    if which == "ended":
        return statement.where(table.c.status != "open")
    time = table.c.expires_at
    return statement.where(table.c.status == "open", time <= now_ms() if which == "expired" else time > now_ms())
