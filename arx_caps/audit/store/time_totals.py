# SPDX-License-Identifier: Apache-2.0
"""Totals over time: how many records there were in each minute, hour and day, by agent, session, tool and reason.

Each checkpoint adds its records, as it adds those of nodes (``totals``).  Pruning keeps the totals: they count records
that are gone.  ``rebuild`` counts the records that the log still has.
"""

import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Final

from sqlalchemy import bindparam, delete, select, text
from sqlalchemy.engine import Connection

from arx_caps.audit.ingest.entries import ALLOW, COUNTED, DENY, END, WOULD_REFUSE
from arx_caps.audit.store.tables import RECORD, STATE, TOTAL
from arx_verifier.errors import AuditError
from arx_verifier.journal.record import read_sealed

ALL: Final = 0
KINDS: Final = {"agent": 1, "session": 2, "tool": 3, "reason": 4}
MINUTE, HOUR, DAY = 0, 1, 2
SPANS_MS: Final = (60_000, 3_600_000, 86_400_000)
RATIOS: Final = tuple(length // SPANS_MS[MINUTE] for length in SPANS_MS)  # minutes in each span
# A caller invents tools in calls that are refused, and a busy day has more sessions than anyone reads: a span keeps the
# names with the most records and those with the most refusals, and adds the others up under the empty name.
FULL: Final = 2_000  # names in one span, after which the least are added up
KEPT: Final = 500  # names that stay for their records, and again for their refusals
_AT_ONCE: Final = 500  # spans in one query
_STRIDE: Final = 50_000  # records in one statement of a rebuild


def add_times(connection: Connection, start: int, end: int) -> None:
    """Add records to the totals of their time; the caller has locked the log.

    Args:
        connection: The transaction.
        start: Index of the first record to add.
        end: Index after the last.
    """
    some = {"start": start, "end": end}
    connection.execute(_ADD, some)
    _add_counted(connection, start, end)
    _fold_full(connection, connection.execute(_MINUTES_OF, some).scalars().all())


def rebuild(connection: Connection) -> None:
    """Count the records again that the log has, up to the last checkpoint; the caller has locked the log."""
    connection.execute(delete(TOTAL))
    first, counted = connection.execute(select(STATE.c.first, STATE.c.counted)).one()
    for at in range(first, counted, _STRIDE):
        add_times(connection, at, min(at + _STRIDE, counted))


def span_at(value: int, length: int) -> int:
    """Return the number of the span of a time, as the database divides: towards zero.

    Args:
        value: The time.
        length: The length of a span, in the same unit.
    """
    return value // length if value >= 0 else -(-value // length)


def _add_counted(connection: Connection, start: int, end: int) -> None:
    """Add the refusals that records of counts hold, by their reasons."""
    which = (RECORD.c.idx >= start, RECORD.c.idx < end, RECORD.c.outcome > ALLOW, RECORD.c.outcome == COUNTED)
    sums: Counter[tuple[int, int, int, str]] = Counter()
    for at_ms, kept in connection.execute(select(RECORD.c.at_ms, RECORD.c.kept).where(*which)):
        with contextlib.suppress(AuditError):  # a record that cannot be read must not keep the log from being signed
            for code, times in read_sealed(bytes(kept), None).call.counts:
                for span, length in enumerate(SPANS_MS):
                    sums[ALL, span, span_at(at_ms, length), ""] += times
                    sums[KINDS["reason"], span, span_at(at_ms, length), code] += times
    if sums:
        names = ("what", "span", "at", "name", "counted")
        connection.execute(_COUNT, [dict(zip(names, (*key, times), strict=True)) for key, times in sums.items()])


def _fold_full(connection: Connection, minutes: Sequence[int]) -> None:
    """Add up the least names of each span that has too many."""
    for span, ratio in enumerate(RATIOS):
        touched = sorted({span_at(minute, ratio) for minute in minutes})
        for start in range(0, len(touched), _AT_ONCE):
            # A span cannot have more names than records.
            many = connection.execute(_MANY, {"span": span, "touched": touched[start : start + _AT_ONCE]})
            for at in many.scalars().all():
                for what in KINDS.values():
                    which = {"what": what, "span": span, "at": at}
                    if connection.execute(_IS_FULL, which).first() is not None:
                        connection.execute(_FOLD, which)
                        connection.execute(_DROP, which)


SUMS: Final = ("allow", "deny", "ended", "counted", "other")
_ON_CONFLICT: Final = "ON CONFLICT (what, span, at, name) DO UPDATE SET " + ", ".join(
    f"{name} = log_total.{name} + excluded.{name}" for name in SUMS
)
_INTO: Final = f"INSERT INTO log_total (what, span, at, name, {', '.join(SUMS)})"
_COUNTS: Final = ", ".join(
    (
        f"count(*) FILTER (WHERE outcome = {ALLOW}) AS allow",
        f"count(*) FILTER (WHERE outcome = {DENY}) AS deny",
        f"count(*) FILTER (WHERE outcome = {END}) AS ended",
        f"count(*) FILTER (WHERE outcome NOT IN ({ALLOW}, {DENY}, {END})) AS other",
    )
)
_ADDED: Final = "sum(allow) AS allow, sum(deny) AS deny, sum(ended) AS ended, sum(other) AS other"
# Each record is read once and sorted twice: by node, from which its agent and session follow, and by tool.
_FRESH: Final = (
    f"SELECT at_ms / {SPANS_MS[MINUTE]} AS at, node, tool, code, outcome FROM log_record "  # noqa: S608 - constants
    "WHERE idx >= :start AND idx < :end"
)
_NODES: Final = f"SELECT at, node, {_COUNTS} FROM fresh GROUP BY at, node"  # noqa: S608 - constants
_MINUTES: Final = " UNION ALL ".join(
    (
        f"SELECT {ALL} AS what, at, '' AS name, {_ADDED} FROM nodes GROUP BY at",  # noqa: S608 - constants
        *(
            f"SELECT {KINDS[name]}, at, n.{name}, {_ADDED} FROM nodes JOIN log_node n ON n.id = nodes.node "  # noqa: S608 - constants
            f"WHERE n.{name} <> '' GROUP BY at, n.{name}".replace("(", "(nodes.")
            for name in ("agent", "session")
        ),
        f"SELECT {KINDS['tool']}, at, tool, {_COUNTS} FROM fresh "  # noqa: S608 - constants
        f"WHERE outcome IN ({ALLOW}, {DENY}, {END}, {WOULD_REFUSE}) GROUP BY at, tool",
        f"SELECT {KINDS['reason']}, at, code, {_COUNTS} FROM fresh "  # noqa: S608 - constants
        f"WHERE outcome > {ALLOW} AND outcome IN ({DENY}, {END}, {WOULD_REFUSE}) GROUP BY at, code",
    )
)
# Hours and days are summed from the minutes.
_SPANS: Final = " UNION ALL ".join(
    f"SELECT what, {span}, at / {ratio}, name, sum(allow), sum(deny), sum(ended), 0, sum(other) "  # noqa: S608 - constants
    f"FROM minutes GROUP BY what, at / {ratio}, name"
    for span, ratio in enumerate(RATIOS)
)
_ADD: Final = text(
    f"WITH fresh AS NOT MATERIALIZED ({_FRESH}), nodes AS MATERIALIZED ({_NODES}), "  # noqa: S608 - constants
    f"minutes AS MATERIALIZED ({_MINUTES}) "
    f"{_INTO} SELECT * FROM ({_SPANS}) AS spans WHERE 1 = 1 {_ON_CONFLICT}"
)
_MINUTES_OF: Final = text(
    f"SELECT DISTINCT at_ms / {SPANS_MS[MINUTE]} FROM log_record WHERE idx >= :start AND idx < :end"  # noqa: S608 - constants
)
_MANY: Final = select(TOTAL.c.at).where(
    TOTAL.c.what == ALL,
    TOTAL.c.span == bindparam("span"),
    TOTAL.c.at.in_(bindparam("touched", expanding=True)),
    TOTAL.c.allow + TOTAL.c.deny + TOTAL.c.ended + TOTAL.c.counted + TOTAL.c.other > FULL,
)
_COUNT: Final = text(f"{_INTO} VALUES (:what, :span, :at, :name, 0, 0, 0, :counted, 0) {_ON_CONFLICT}")
_SPAN: Final = "what = :what AND span = :span AND at = :at AND name <> ''"
_IS_FULL: Final = text(f"SELECT 1 FROM log_total WHERE {_SPAN} LIMIT 1 OFFSET {FULL}")  # noqa: S608 - constants
_LEAST: Final = f"{_SPAN} AND name NOT IN ({{0}}) AND name NOT IN ({{1}})".format(
    *(
        f"SELECT name FROM log_total WHERE {_SPAN} ORDER BY {order} DESC, name LIMIT {KEPT}"  # noqa: S608 - constants
        for order in (" + ".join(SUMS), "deny + ended + counted")
    )
)
_FOLD: Final = text(
    f"{_INTO} SELECT :what, :span, :at, '', {', '.join(f'sum({name})' for name in SUMS)} "  # noqa: S608 - constants
    f"FROM log_total WHERE {_LEAST} {_ON_CONFLICT}"
)
_DROP: Final = text(f"DELETE FROM log_total WHERE {_LEAST}")  # noqa: S608 - constants
