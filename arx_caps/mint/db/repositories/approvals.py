# SPDX-License-Identifier: Apache-2.0
"""Requests for approval, and the operators' answers.  CONTROL 2.7.

A request or an answer locks the task first, as the end of a task does, and then its own row.  So of an approval, a
denial and the end of the task one comes first, and the others are refused.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from sqlalchemy import Select, bindparam, func, insert, or_, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.cursor import Order, Text, Time, behind
from arx_caps.mint.db.database import PAGE, Database, Rows, now_ms, plain
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.grants import lock_task
from arx_caps.mint.db.tables import APPROVALS, OPERATORS, TASKS
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.errors import GrantError

MAX_WAITING: Final = 32  # of one session: nobody reads more with care
MAX_CLOSED: Final = 32  # with each new request, of those whose task is over: more than one, so that none gather
APPROVALS_ORDER: Final = Order((APPROVALS.c.asked_at, APPROVALS.c.id), tuple[Time, Text], newest_first=True)
WAITING: Final = "waiting"
APPROVED: Final = "approved"
DENIED: Final = "denied"
WITHDRAWN: Final = "withdrawn"
ENDED: Final = "ended"  # never answered, and its task is over
_ITS: Final = APPROVALS.c.id == bindparam("which")
_FIND: Final = select(APPROVALS).where(_ITS)
_LOCK: Final = _FIND.with_for_update()
_ADD, _CHANGE = insert(APPROVALS), update(APPROVALS).where(_ITS)
_ALIVE: Final = (TASKS.c.status == "open", TASKS.c.expires_at > bindparam("now"))
_COUNT: Final = (
    select(func.count())
    .select_from(APPROVALS)
    .join(TASKS, TASKS.c.id == APPROVALS.c.task)
    .where(APPROVALS.c.status == WAITING, *_ALIVE)
)
_COUNT_OF_SESSION: Final = _COUNT.where(APPROVALS.c.session == bindparam("whose"))
_WITHDRAWN: Final = select(APPROVALS.c.id).where(
    APPROVALS.c.status == WITHDRAWN, APPROVALS.c.expires_at > bindparam("now")
)
# What somebody else holds is left to them: two who close the same would wait for each other.
_OVER: Final = (
    select(APPROVALS.c.id)
    .join(TASKS, TASKS.c.id == APPROVALS.c.task)
    .where(APPROVALS.c.status == WAITING, or_(TASKS.c.status != "open", TASKS.c.expires_at <= bindparam("now")))
    .order_by(APPROVALS.c.asked_at, APPROVALS.c.id)
    .limit(MAX_CLOSED)
    .with_for_update(of=APPROVALS, skip_locked=True)
)


class AnswerTerms(Protocol):
    """What an approval takes, as ``policy.approvals`` has it."""

    @property
    def need(self) -> int:
        """How many different operators must approve."""

    @property
    def ttl_ms(self) -> int:
        """How long the approval is good."""

    @property
    def once(self) -> bool:
        """Whether it is good for one call."""


class ApprovalAnswer(NamedTuple):
    """What an operator says of a request.

    Attributes:
        operator: Who.
        terms: On what terms it is approved, if those became stricter since; None where it is denied.
        why: In whose words; None for none.
        counts: Tells of an operator who said yes before, by name and row, whether it still counts; asked in the
            transaction, so that it may not wait for another connection.
    """

    operator: str
    terms: AnswerTerms | None
    why: str | None
    counts: Callable[[str, Mapping[str, Any] | None], bool]


class Approvals:
    """The approvals."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, unit: UnitOfWork, values: Mapping[str, Any], what: Event) -> None:
        """Keep a request, unless its task ended meanwhile or too many of its session wait.

        Raises:
            GrantError: ``session_ended``, ``too_many_approvals``.
        """
        with unit.change(what) as c:
            lock_task(c, values["task"])
            if (
                int(c.execute(_COUNT_OF_SESSION, {"whose": values["session"], "now": now_ms()}).scalar_one())
                >= MAX_WAITING
            ):
                raise GrantError(
                    f"{MAX_WAITING} requests of this session wait for an answer; ask again once some have one, or "
                    "finish the tasks that they are for",
                    code="too_many_approvals",
                )
            c.execute(_ADD, values)
            _close_ended(c)

    def find(self, approval: str) -> dict[str, Any] | None:
        """Return an approval's row, or None."""
        return self._database.row(_FIND, which=approval)

    def list(
        self,
        *,
        statuses: tuple[str, ...] | None = None,
        alive: bool = False,
        after: str | None = None,
        limit: int = PAGE,
        **wanted: str | None,
    ) -> Rows:
        """Return approvals, the newest first, each with its task's row under ``its``.

        Args:
            statuses: Only those whose row says one of these.
            alive: Only those whose task is neither ended nor expired.
            after: Only those behind this place of the list.
            limit: At most so many.
            wanted: Only those with these values; None for any.
        """
        statement: Select[Any] = select(APPROVALS)
        if statuses is not None:
            statement = statement.where(APPROVALS.c.status.in_(statuses))
        if alive:
            running = select(TASKS.c.id).where(TASKS.c.status == "open", TASKS.c.expires_at > now_ms())
            statement = statement.where(APPROVALS.c.task.in_(running))
        statement = statement.where(
            *(APPROVALS.c[name] == value for name, value in wanted.items() if value is not None)
        )
        rows = self._database.page(behind(statement, APPROVALS_ORDER, after), limit)
        with self._database.read() as c:
            theirs = select(TASKS).where(TASKS.c.id.in_({row["task"] for row in rows}))
            tasks = {task.id: plain(task) for task in c.execute(theirs)}
        return [row | {"its": tasks[row["task"]]} for row in rows]

    def count_waiting(self) -> int:
        """Count the requests that wait for an answer; of kills this knows nothing."""
        with self._database.read() as c:
            return int(c.execute(_COUNT, {"now": now_ms()}).scalar_one())

    def withdrawn_targets(self) -> set[str]:
        """Return the target of every approval that was withdrawn while its discharge was good, and would be by now."""
        return {f"task:{row['id']}" for row in self._database.rows(_WITHDRAWN, now=now_ms())}

    def answer(self, approval: Mapping[str, Any], said: ApprovalAnswer) -> dict[str, Any]:
        """Note what an operator says; the last yes that is needed approves.

        Args:
            approval: The row, as it was.
            said: What is said.

        Returns:
            The row as it is now.

        Raises:
            GrantError: ``session_ended``: its task is over; ``conflict``: it does not wait, or this operator said so.
        """
        name, by = approval["id"], f"operator:{said.operator}"
        with self._database.write() as c:
            task = lock_task(c, approval["task"])
            row = _lock(c, name)
            if row["status"] != WAITING:
                undo = "; to take that back, withdraw it" if row["status"] == APPROVED and said.terms is None else ""
                raise GrantError(f"{name} is {row['status']} already{undo}", code="conflict")
            yes = msgspec.json.decode(row["by"], type=list[str])
            terms = said.terms
            if terms is None:
                # Whatever somebody said with a yes before is no reason for this no.
                changes: dict[str, Any] = {"status": DENIED, "denied_by": said.operator, "answer_why": None}
            elif said.operator in yes:
                raise GrantError(f"{said.operator} has approved {name} already; another operator must", code="conflict")
            else:
                yes.append(said.operator)
                need, ttl_ms = max(row["need"], terms.need), min(row["ttl_ms"], terms.ttl_ms)
                changes = {"by": msgspec.json.encode(yes).decode(), "need": need, "ttl_ms": ttl_ms}
                changes["once"] = max(row["once"], int(terms.once))
                found = {each.id: plain(each) for each in c.execute(select(OPERATORS).where(OPERATORS.c.id.in_(yes)))}
                if sum(said.counts(each, found.get(each)) for each in yes) >= need:
                    now = now_ms()
                    until = min(now + ttl_ms, task["expires_at"])
                    changes |= {"status": APPROVED, "approved_at": now, "expires_at": until}
            changes |= {"answer_why": said.why} if said.why is not None else {}
            c.execute(_CHANGE, {"which": name, **changes})
            row |= changes
            told = {each: row[each] for each in ("session", "task", "agent", "audience", "tool", "need")}
            told |= {"approval": name, "why": said.why, "state": row["status"], "expires_at": row["expires_at"]}
            self._database.record_in(
                c, Event.of("approval.given" if terms is not None else "approval.denied", by, **told)
            )
            return row

    def withdraw(self, approval: str, status: str, what: Event) -> dict[str, Any]:
        """Note that an approval, or a request, is withdrawn, if its row says this by now.

        Returns:
            The row as it is now.
        """
        with self._database.write() as c:
            row = _lock(c, approval)
            if row["status"] == status:
                row["status"] = WITHDRAWN
                c.execute(_CHANGE, {"which": approval, "status": WITHDRAWN})
                self._database.record_in(c, what)
            return row


def _close_ended(c: Connection) -> None:
    """Take the oldest requests whose task is over from those that wait, which every list and count looks through."""
    found = c.execute(_OVER, {"now": now_ms()}).scalars().all()
    if found:
        c.execute(update(APPROVALS).where(APPROVALS.c.id.in_(found)).values(status=ENDED))


def _lock(c: Connection, approval: str) -> dict[str, Any]:
    return plain(c.execute(_LOCK, {"which": approval}).one())
