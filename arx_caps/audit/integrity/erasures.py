# SPDX-License-Identifier: Apache-2.0
"""Which bodies the log's own records account for: those that were erased, and those that a rebuild lost.  LOG 1.9."""

import contextlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.engine import Connection

from arx_caps.audit.ingest.entries import EVENT_CODE, RECOVERED, EventRecord, read_event
from arx_caps.audit.store.tables import RECORD, STATE
from arx_verifier.errors import AuditError

ERASED_KIND: Final = "log.erased"
MAX_RANGES: Final = 3000  # in one record: an entry of the log's files has at most 64 KiB
_NOTES: Final = (
    select(RECORD.c.idx, RECORD.c.kept)
    .where(RECORD.c.tool.in_((ERASED_KIND, RECOVERED)), RECORD.c.code == EVENT_CODE)
    .where(RECORD.c.idx < select(STATE.c.size).scalar_subquery())  # a row behind the tree is no record
    .order_by(RECORD.c.idx)
)


class Erasures(NamedTuple):
    """The records whose bodies may be gone.

    Attributes:
        firsts: The first index of each range, rising.
        lasts: The last index of each range.
        unlisted: The number of bodies that records of an earlier version erased without naming them.
        unlisted_before: The index of the last such record.
    """

    firsts: Sequence[int] = ()
    lasts: Sequence[int] = ()
    unlisted: int = 0
    unlisted_before: int = 0

    def name(self, index: int) -> bool:
        """Return whether a record names the index."""
        at = bisect_right(self.firsts, index) - 1
        return at >= 0 and index <= self.lasts[at]

    def allow(self, index: int) -> bool:
        """Return whether the body at an index may be gone; ``unlisted`` bounds how many that nothing names."""
        return index < self.unlisted_before or self.name(index)


def read_erasures(c: Connection) -> Erasures:
    """Return what the log's own records say of bodies that are gone."""
    ranges: list[tuple[int, int]] = []
    unlisted, unlisted_before = 0, 0
    for index, kept in c.execute(_NOTES):
        # A row that was edited is found by its leaf, and accounts for nothing.
        with contextlib.suppress(AuditError, KeyError, TypeError, ValueError):
            note = read_event(bytes(kept), None)
            ranges += _ranges_of(note)
            if note.kind == ERASED_KIND and not {"before", "indexes"} & note.named.keys():
                unlisted, unlisted_before = unlisted + int(note.named["records"]), int(index)
    firsts: list[int] = []
    lasts: list[int] = []
    for first, last in sorted(ranges):
        if lasts and first <= lasts[-1] + 1:
            lasts[-1] = max(lasts[-1], last)
        else:
            firsts.append(first)
            lasts.append(last)
    return Erasures(firsts, lasts, unlisted, unlisted_before)


def group_indexes(indexes: Iterable[int]) -> list[tuple[int, int]]:
    """Return rising indexes as ranges, each with its first and its last index."""
    ranges: list[tuple[int, int]] = []
    for index in indexes:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], index)
        else:
            ranges.append((index, index))
    return ranges


def name_erasures(indexes: Sequence[int], before: int | None) -> Iterator[dict[str, Any]]:
    """Yield what the records of an erasure name, at least one.

    Args:
        indexes: The indexes whose bodies are erased, rising.
        before: The index before which all bodies are erased, or None.
    """
    if before is not None:
        yield {"records": len(indexes), "before": before}
        return
    for part in split_ranges(indexes):
        yield {"records": sum(last - first + 1 for first, last in part), "indexes": part}


def split_ranges(indexes: Iterable[int]) -> Iterator[list[list[int]]]:
    """Yield rising indexes as the ranges of one record each, at least one list."""
    ranges = group_indexes(indexes)
    for start in range(0, max(len(ranges), 1), MAX_RANGES):
        yield [list(each) for each in ranges[start : start + MAX_RANGES]]


def _ranges_of(note: EventRecord) -> list[tuple[int, int]]:
    named = note.named
    if note.kind == RECOVERED and "indexes" not in named:  # of an earlier version
        return [(int(named["first"]), int(named["last"]))]
    if "before" in named:
        return [(0, int(named["before"]) - 1)]
    return [(int(first), int(last)) for first, last in named.get("indexes", ())]
