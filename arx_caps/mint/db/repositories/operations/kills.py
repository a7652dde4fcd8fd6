# SPDX-License-Identifier: Apache-2.0
"""Kills, freezes and thaws by operators and the mint, and the confirmations of each. SPEC 10.

The rows are added with the freezes, in ``epoch``, from the store's log.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import and_, bindparam, delete, insert, or_, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.cursor import Order, Text, Time
from arx_caps.mint.db.database import PAGE, Repository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.notices import erase_reasons
from arx_caps.mint.db.rows import RowReader, as_json
from arx_caps.mint.db.tables import FREEZES, KILLS
from arx_verifier.clock import now_ms


class KillMark(msgspec.Struct, frozen=True):
    """A step of the store's log; ``seq`` is of its last entry, ``report`` has its final confirmations."""

    seq: int
    incarnation: str
    at_ms: int
    settled_at: int | None
    report: dict[str, Any] | None


class KillRow(KillMark, frozen=True):
    """A step with the operation and the target of each entry; ``op`` is ``each`` if its entries differ."""

    first: int
    op: str
    targets: list[tuple[str, str]]
    by: str
    why: str


KILL_ROWS: Final = RowReader(KillRow, KILLS)
KILL_MARKS: Final = RowReader(KillMark, KILLS)
KILLS_ORDER: Final = Order((KILLS.c.seq, KILLS.c.incarnation), tuple[Time, Text], newest_first=True)
_AT: Final = (KILLS.c.seq == bindparam("at"), KILLS.c.incarnation == bindparam("of"))
_KNOWN: Final = select(KILLS.c.seq).where(*_AT)
_SETTLE: Final = update(KILLS).where(*_AT, KILLS.c.settled_at.is_(None))
# The newest history first: only a store that lost entries gives a number twice.
_FIND: Final = (
    KILL_ROWS.select()
    .where(KILLS.c.first <= bindparam("at"), KILLS.c.seq >= bindparam("at"))
    .order_by(KILLS.c.at_ms.desc())
)
_UNSETTLED: Final = KILL_ROWS.select().where(KILLS.c.settled_at.is_(None)).order_by(KILLS.c.at_ms).limit(PAGE)

_OPEN: Final = KILL_MARKS.select().where(KILLS.c.settled_at.is_(None)).order_by(KILLS.c.at_ms).limit(PAGE)
_NEWEST: Final = KILL_MARKS.select().where(KILLS.c.settled_at.is_not(None)).order_by(KILLS.c.seq.desc())


class KillStep(NamedTuple):
    """One step of the store's log.

    Attributes:
        seq: The number of its last entry.
        incarnation: The history that it belongs to.
        first: The number of its first entry.
        op: The operation of all its entries, or ``each`` if they differ.
        targets: The operation and the target of each entry.
        at_ms: When the store took it, in ms since the Unix epoch.
        by: The actor.
        why: The reason.
        event: The kind of the event that the mint records; empty for a change that has another record.
    """

    seq: int
    incarnation: str
    first: int
    op: str
    targets: Sequence[tuple[str, str]]
    at_ms: int
    by: str
    why: str
    event: str = ""


class KillRepository(Repository):
    """The kills, freezes and thaws of a realm."""

    def find(self, seq: int) -> KillRow | None:
        """Return the row of the step that has this number, or None."""
        return next(iter(self._database.all(KILL_ROWS, _FIND, at=seq)), None)

    def list(self, *, target: str | None = None, after: str | None = None, limit: int = PAGE) -> Sequence[KillRow]:
        """Return rows, the newest first.

        Args:
            target: Only those with this target.
            after: A page's ``next``: only rows after it.
            limit: At most this number.
        """
        wanted = () if target is None else (_names(target),)
        return self._database.listed(KILL_ROWS, KILL_ROWS.select().where(*wanted), KILLS_ORDER, after, limit)

    def unsettled(self) -> Sequence[KillRow]:
        """Return the rows whose confirmations are not recorded yet, the oldest first."""
        return self._database.all(KILL_ROWS, _UNSETTLED)

    def progress(self, newest: int = 50) -> Sequence[KillMark]:
        """Return the newest rows, and those whose confirmations are not recorded yet, without their targets."""
        statements = (_OPEN, _NEWEST.limit(newest))
        return [row for statement in statements for row in self._database.all(KILL_MARKS, statement)]

    def settle(self, seq: int, incarnation: str, report: Mapping[str, Any], what: Event) -> bool:
        """Record the confirmations of a step, once.

        Args:
            seq: The step's number.
            incarnation: Its history.
            report: The confirmations.
            what: The event.

        Returns:
            Whether they were recorded: False if they were before, or if there is no such row.
        """
        values = {"at": seq, "of": incarnation, "settled_at": now_ms(), "report": as_json(report)}
        return self._database.change_once(_SETTLE, values, what)

    def erase(self, *, target: str | None = None, before: int = 0) -> None:
        """Delete the rows with a target, and those from before a time; erase the reasons that others keep of them.

        A freeze of such a person stays, and so does a notification of such a row, without its reason.

        Args:
            target: A person's target, or None.
            before: The time, in ms since the Unix epoch.
        """
        which, frozen = KILLS.c.at_ms < before, and_(FREEZES.c.at_ms < before, _is_of("subject:", FREEZES.c.target))
        if target is not None:
            taint = f'"memory:{target}@'  # of what the person wrote into memories
            theirs = or_(_names(target), KILLS.c.targets.contains(taint, autoescape=True))
            which, frozen = or_(which, theirs), or_(frozen, _is_of(target, FREEZES.c.target))
        with self._database.write() as c:
            erase_reasons(c, set(c.execute(select(KILLS.c.seq).where(which)).scalars()))
            c.execute(delete(KILLS).where(which))
            c.execute(update(FREEZES).where(frozen).values(why=""))  # what is frozen stays so


def add_kills(c: Connection, steps: Collection[KillStep]) -> None:
    """Add rows in an open transaction; those that the database has stay as they are."""
    for step in steps:
        if c.execute(_KNOWN, {"at": step.seq, "of": step.incarnation}).first() is None:
            c.execute(insert(KILLS), KILL_ROWS.values(row_of(step)))


def row_of(step: KillStep) -> KillRow:
    """Return a step's row, without its confirmations."""
    place = (step.seq, step.incarnation, step.at_ms, None, None)
    return KillRow(*place, step.first, step.op, [*step.targets], step.by, step.why)


def _is_of(target: str, column: Any) -> Any:
    """Return the condition for a target that begins so, and the taints of memories that are of it."""
    return or_(column.startswith(target, autoescape=True), column.startswith(f"memory:{target}", autoescape=True))


def _names(target: str) -> Any:
    # Quoted, as in the JSON: a target is never a part of another one then.
    return KILLS.c.targets.contains(msgspec.json.encode(target).decode(), autoescape=True)
