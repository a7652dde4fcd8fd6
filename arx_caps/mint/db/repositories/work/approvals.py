# SPDX-License-Identifier: Apache-2.0
"""Requests for approval, and operators' answers. CONTROL 2.7.

How a discharge is made of an approval is in ``arx_caps.mint.tasks``.
"""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from sqlalchemy import bindparam, func, insert, or_, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.cursor import Order, Text, Time
from arx_caps.mint.db.database import PAGE, StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.identity.operators import OPERATOR_ROWS
from arx_caps.mint.db.repositories.work.tasks import TASK_ROWS, lock_task
from arx_caps.mint.db.rows import RowReader
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import APPROVALS, OPERATORS, TASKS, ApprovalRow, OperatorRow, TaskRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError


class ApprovalWithTask(ApprovalRow, frozen=True, kw_only=True):
    """A request for an approval, with the row of its task."""

    its: TaskRow


APPROVAL_ROWS: Final = RowReader(ApprovalRow, APPROVALS)
MAX_WAITING: Final = 32  # of one session: operators do not read more with care
MAX_CLOSED: Final = 32  # old requests that a new one closes: more than one, or they would pile up
APPROVALS_ORDER: Final = Order((APPROVALS.c.asked_at, APPROVALS.c.id), tuple[Time, Text], newest_first=True)
WAITING: Final = "waiting"
APPROVED: Final = "approved"
DENIED: Final = "denied"
WITHDRAWN: Final = "withdrawn"
ENDED: Final = "ended"  # unanswered, and its task is over
_ITS: Final = APPROVALS.c.id == bindparam("which")
_LOCK: Final = CompiledStatement(APPROVAL_ROWS.select().where(_ITS).with_for_update())
_ADD, _CHANGE = insert(APPROVALS), update(APPROVALS).where(_ITS)
_ALIVE: Final = (TASKS.c.status == "open", TASKS.c.expires_at > bindparam("now"))
_COUNT: Final = (
    select(func.count())
    .select_from(APPROVALS)
    .join(TASKS, TASKS.c.id == APPROVALS.c.task)
    .where(APPROVALS.c.status == WAITING, *_ALIVE)
)
_COUNT_OF_SESSION: Final = _COUNT.where(APPROVALS.c.session == bindparam("whose"))
_OF_CALL: Final = ("task", "caveat", "tool", "args", "marks")
# The requests of a call whose operators are shown other marks than those that are set now: an answer would not count.
_REPLACE: Final = (
    update(APPROVALS)
    .where(APPROVALS.c.status == WAITING, APPROVALS.c.marks != bindparam("its_marks"))
    .where(*[APPROVALS.c[name] == bindparam(f"its_{name}") for name in _OF_CALL[:-1]])
    .values(status=WITHDRAWN)
    .returning(APPROVALS.c.id)
)
_WITHDRAWN: Final = select(APPROVALS.c.id).where(
    APPROVALS.c.status == WITHDRAWN, APPROVALS.c.expires_at > bindparam("now")
)
# Skips rows that another transaction has locked: two that close the same rows in another order would deadlock.
_OVER: Final = (
    select(APPROVALS.c.id)
    .join(TASKS, TASKS.c.id == APPROVALS.c.task)
    .where(APPROVALS.c.status == WAITING, or_(TASKS.c.status != "open", TASKS.c.expires_at <= bindparam("now")))
    .order_by(APPROVALS.c.asked_at, APPROVALS.c.id)
    .limit(MAX_CLOSED)
    .with_for_update(of=APPROVALS, skip_locked=True)
)


class AnswerTerms(Protocol):
    """The terms of an approval, as ``arx_caps.mint.policy.approvals`` has them."""

    @property
    def need(self) -> int:
        """How many different operators must approve."""

    @property
    def ttl_ms(self) -> int:
        """How long the discharge is valid, in ms."""

    @property
    def once(self) -> bool:
        """Whether the discharge allows one call only."""


class ApprovalAnswer(NamedTuple):
    """An operator's answer to a request.

    Attributes:
        operator: The operator's name.
        terms: The policy's terms of today; None for a denial.
        why: The operator's reason, or None.
        counts: Decides from name and row whether an earlier approver still counts. It runs in the transaction, so it
            must not take another connection.
    """

    operator: str
    terms: AnswerTerms | None
    why: str | None
    counts: Callable[[str, OperatorRow | None], bool]


# A request or an answer locks the task first, as the end of a task does, and then its own row. So of an approval, a
# denial and the end of the task one comes first, and the others are refused. The same order everywhere prevents a
# deadlock.
class ApprovalRepository(StructRepository[ApprovalRow], reader=APPROVAL_ROWS, key=APPROVALS.c.id):
    """Requests for approval, with their answers."""

    def add(self, unit: UnitOfWork, row: ApprovalRow, what: Event) -> None:
        """Store a request.

        Args:
            unit: The call's unit of work.
            row: The row.
            what: The event.

        Raises:
            GrantError: ``session_ended``: its task has ended; ``too_many_approvals``: too many of its session wait.
        """
        with unit.change(what) as c:
            lock_task(c, row.task)
            values = APPROVAL_ROWS.values(row)
            for replaced in c.execute(_REPLACE, {f"its_{name}": values[name] for name in _OF_CALL}).scalars().all():
                unit.note(_withdrawal(msgspec.structs.replace(row, id=replaced), what.by))
            if c.execute(_COUNT_OF_SESSION, {"whose": row.session, "now": now_ms()}).scalar_one() >= MAX_WAITING:
                raise GrantError(
                    f"{MAX_WAITING} requests of this session wait for an answer; ask again once some have one, or "
                    "finish the tasks that they are for",
                    code="too_many_approvals",
                )
            # Counted while the session's row is locked: of two requests at the limit, one is refused.
            c.execute(_ADD, values)
            # Tasks expire without a call, so new requests clean up: listings and counts read every waiting row.
            _close_ended(c)

    def list(
        self,
        *,
        statuses: tuple[str, ...] | None = None,
        alive: bool = False,
        after: str | None = None,
        limit: int = PAGE,
        **wanted: str | None,
    ) -> list[ApprovalWithTask]:
        """Return approvals, the newest first.

        Args:
            statuses: Only approvals with one of these statuses.
            alive: Only approvals whose task is neither ended nor expired.
            after: A page's ``next``: only approvals after it.
            limit: At most this number.
            wanted: Only approvals with these values of columns; None for any value.
        """
        statement = APPROVAL_ROWS.select()
        if statuses is not None:
            statement = statement.where(APPROVALS.c.status.in_(statuses))
        if alive:
            running = select(TASKS.c.id).where(TASKS.c.status == "open", TASKS.c.expires_at > now_ms())
            statement = statement.where(APPROVALS.c.task.in_(running))
        statement = statement.where(
            *(APPROVALS.c[name] == value for name, value in wanted.items() if value is not None)
        )
        rows = self._listed(statement, APPROVALS_ORDER, after, limit)
        query = TASK_ROWS.select().where(TASKS.c.id.in_({row.task for row in rows}))
        tasks = {task.id: task for task in self._database.all(TASK_ROWS, query)}
        return [_with_task(row, tasks[row.task]) for row in rows]

    def count_waiting(self) -> int:
        """Return the number of unanswered requests, those of killed tasks included."""
        return int(self._database.scalar(_COUNT, now=now_ms()))

    def withdrawn_targets(self) -> set[str]:
        """Return the targets of approvals that were withdrawn and whose discharge has not expired."""
        return {f"task:{approval}" for approval in self._database.column(_WITHDRAWN, now=now_ms())}

    def answer(self, approval: ApprovalRow, answer: ApprovalAnswer) -> ApprovalWithTask:
        """Record an operator's answer; the last approval that is needed sets the status.

        Args:
            approval: The row, as the caller read it.
            answer: The answer.

        Returns:
            The row after the answer.

        Raises:
            GrantError: ``session_ended``: its task has ended; ``conflict``: it has an answer, or one of this operator.
        """
        name, by = approval.id, f"operator:{answer.operator}"
        with self._database.write() as c:
            task = lock_task(c, approval.task)
            row = APPROVAL_ROWS.one(c, _LOCK, {"which": name})
            if row.status != WAITING:
                undo = "; to take that back, withdraw it" if row.status == APPROVED and answer.terms is None else ""
                raise GrantError(f"{name} is {row.status} already{undo}", code="conflict")
            terms = answer.terms
            if terms is None:
                # An approver's reason must not appear as the reason of this denial.
                changes: dict[str, Any] = {"status": DENIED, "denied_by": answer.operator, "answer_why": None}
            elif answer.operator in row.by:
                raise GrantError(
                    f"{answer.operator} has approved {name} already; another operator must", code="conflict"
                )
            else:
                yes = (*row.by, answer.operator)
                # The stricter of the terms at the request and the terms of today, so that a policy change is not
                # bypassed.
                need, ttl_ms = max(row.need, terms.need), min(row.ttl_ms, terms.ttl_ms)
                changes = {"by": yes, "need": need, "ttl_ms": ttl_ms, "once": row.once or terms.once}
                theirs = OPERATOR_ROWS.select().where(OPERATORS.c.id.in_(yes))
                operators = {operator.id: operator for operator in OPERATOR_ROWS.all(c, theirs)}
                # Counted anew with the last answer: an earlier approver may be removed, frozen or in another role by
                # now.
                counted = [approver for approver in yes if answer.counts(approver, operators.get(approver))]
                if len(counted) >= need:
                    now = now_ms()
                    # A discharge must not outlive the task that it was asked for.
                    until = min(now + ttl_ms, task.expires_at)
                    # Its discharge ends with each of these: one who does not count must not be among them.
                    changes |= {"by": tuple(counted), "status": APPROVED, "approved_at": now, "expires_at": until}
            changes |= {"answer_why": answer.why} if answer.why is not None else {}
            row = msgspec.structs.replace(row, **changes)
            c.execute(_CHANGE, {"which": name, **APPROVAL_ROWS.values(row)})
            facts = row.facts() | {"tool": row.tool, "need": row.need, "why": answer.why}
            kind = "approval.given" if terms is not None else "approval.denied"
            self._database.record_in(c, Event.of(kind, by, **facts, state=row.status, expires_at=row.expires_at))
            return _with_task(row, task)

    def withdraw(self, approval: ApprovalWithTask, status: str, by: str, **more: Any) -> ApprovalWithTask:
        """Set an approval, or a request, to withdrawn if its row still has a status.

        Args:
            approval: The approval's row.
            status: The status that its row must have.
            by: Who withdraws it, as an event has it.
            more: Further facts of the event.

        Returns:
            The row afterwards.
        """
        with self._database.write() as c:
            return self._withdraw(c, approval, status, by, **more)

    def withdraw_waiting(self, approvals: Iterable[ApprovalWithTask], what: Event) -> None:
        """Record an event, and withdraw the requests that still wait, in one transaction."""
        with self._database.write(what) as c:
            for approval in sorted(approvals, key=attrgetter("id")):  # in one order, or two calls could deadlock
                self._withdraw(c, approval, WAITING, what.by)

    def _withdraw(
        self, c: Connection, approval: ApprovalWithTask, status: str, by: str, **more: Any
    ) -> ApprovalWithTask:
        row = APPROVAL_ROWS.one(c, _LOCK, {"which": approval.id})
        if row.status == status:
            row = msgspec.structs.replace(row, status=WITHDRAWN)
            c.execute(_CHANGE, {"which": row.id, "status": row.status})
            self._database.record_in(c, _withdrawal(row, by, **more))
        return _with_task(row, approval.its)


def _with_task(row: ApprovalRow, task: TaskRow) -> ApprovalWithTask:
    return ApprovalWithTask(**msgspec.structs.asdict(row), its=task)


def _withdrawal(row: ApprovalRow, by: str, **more: Any) -> Event:
    """Return the event of a withdrawal by an operator or the agent, given the approval's row."""
    return Event.of("approval.withdrawn", by, **row.facts(), **more)


def _close_ended(c: Connection) -> None:
    """Close the oldest waiting requests whose task is over."""
    ended = c.execute(_OVER, {"now": now_ms()}).scalars().all()
    if ended:
        c.execute(update(APPROVALS).where(APPROVALS.c.id.in_(ended)).values(status=ENDED))
