# SPDX-License-Identifier: Apache-2.0
"""Draw decisions along a time axis as SVG, and group them for a list.  No state.

A lane is a holder.  Marks that would cover each other are one mark, in the colour of the worst of its outcomes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from markupsafe import Markup

from arx_caps.console.records import TONES
from arx_caps.console.render import badge, render_part
from arx_caps.text.record_text import shorten_middle

MAX_LANES: Final = 12  # the lanes with the most refusals, then calls; the others share one
_LABEL, _AXIS, _LANE, _MARK = 190, 900, 22, 5  # px
_LANE_CHARS: Final = 25
_RUN: Final = 3  # more allowed calls than this, without another record between them, are one line
_TOOLS: Final = 4
# From harmless to worst: a mark has the colour of the worst.
OUTCOMES: Final = ("event", "effect", "allow", "counted", "gap", "would_refuse", "end", "deny")


class TimelineRecord(NamedTuple):
    """One record of a timeline.

    Attributes:
        number: Its index in the log.
        at: Its time, ms since the Unix epoch.
        outcome: One of ``OUTCOMES``.
        tool: The tool, or the kind of an event.
        service: The service that decided; the actor of an event.
        lane: The position of its holder in the tree; None if it is not in it.
        holder: Its holder's name.
        code: The reason of a refusal; empty for others.
        why: The condition that did not hold; empty if there is none.
        sets: The marks that it has set, separated by commas.
    """

    number: int
    at: int
    outcome: str
    tool: str
    service: str
    lane: int | None
    holder: str
    code: str
    why: str
    sets: str = ""

    @property
    def apart(self) -> str:
        """The service, unless the tool's name begins with it, or it is the mint; else empty."""
        return "" if self.service == "arx.mint" or self.tool.startswith(f"{self.service}.") else self.service


class Line(NamedTuple):
    """One line of a list: a record, or a run of them.

    Attributes:
        records: Its records, the newest first.
        tools: What a run called, the most frequent first: ``orders.get x7``.
    """

    records: Sequence[TimelineRecord]
    tools: str

    @property
    def first(self) -> TimelineRecord:
        """The newest of its records."""
        return self.records[0]

    @property
    def badge(self) -> Markup:
        """The outcome of its records, which all have the same, and the number of a run."""
        outcome, count = self.first.outcome, len(self.records)
        return badge(outcome if count == 1 else f"{outcome} \u00d7{count}", TONES.get(outcome))

    @property
    def holders(self) -> int:
        """The number of holders that called."""
        return len({(each.lane, each.holder) for each in self.records})

    @property
    def last(self) -> TimelineRecord:
        """The oldest of its records."""
        return self.records[-1]


def compact(records: Sequence[TimelineRecord]) -> Iterator[Line]:
    """Yield a line for each record, and one line for a run of calls that were allowed and have set the same marks.

    Args:
        records: The records, the newest first.
    """
    # A refusal or a mark must not drown among hundreds of allowed calls: only those make runs.
    for (allowed, _), run in groupby(records, key=lambda each: (each.outcome == "allow", each.sets)):
        calls = list(run)
        if not allowed or len(calls) <= _RUN:
            yield from (Line([call], call.tool) for call in calls)
            continue
        counts = Counter(call.tool for call in calls).most_common(_TOOLS + 1)
        tools = ", ".join(f"{tool} x{count}" for tool, count in counts[:_TOOLS])
        yield Line(calls, tools + (", …" if counts[_TOOLS:] else ""))


def draw_strip(records: Sequence[TimelineRecord]) -> Markup:
    """Return the time axis of some records as an SVG element; empty without records.

    Args:
        records: The records.
    """
    if not records:
        return Markup("")
    start, end = min(each.at for each in records), max(each.at for each in records)
    names = {each.lane: each.holder for each in records}
    # Those with refusals first: they are what a reader looks for.
    refused = Counter(each.lane for each in records if each.outcome in ("deny", "end"))
    busiest = sorted(Counter(each.lane for each in records).items(), key=lambda item: (-refused[item[0]], -item[1]))
    lanes = sorted([lane for lane, _ in busiest[:MAX_LANES]], key=lambda lane: (lane is None, lane or 0))
    rows = {lane: row for row, lane in enumerate(lanes)}
    others = len(lanes)
    marks: dict[tuple[int, int], list[TimelineRecord]] = {}
    for each in records:
        place = (each.at - start) * (_AXIS - _MARK) // max(1, end - start) // _MARK
        marks.setdefault((rows.get(each.lane, others), place), []).append(each)
    labels = [names[lane] for lane in lanes] + ([f"{len(names) - others} more"] if len(names) > others else [])
    return render_part(
        "strip.svg",
        count=len(records),
        start=start,
        end=end,
        lanes=[(row * _LANE, label, shorten_middle(label, _LANE_CHARS)) for row, label in enumerate(labels)],
        marks=[_mark(row, place, held) for (row, place), held in sorted(marks.items(), key=lambda item: item[0])],
        left=_LABEL,
        axis=_AXIS,
        lane=_LANE,
        height=len(labels) * _LANE + 24,
    )


class DrawnMark(NamedTuple):
    """A mark: its place, its worst outcome, the time of its first record, and the number of each of its outcomes."""

    x: int
    y: int
    outcome: str
    at: int
    counts: str


def _mark(row: int, place: int, held: Sequence[TimelineRecord]) -> DrawnMark:
    counts: Mapping[str, int] = Counter(each.outcome for each in held)
    worst = max(counts, key=lambda outcome: OUTCOMES.index(outcome) if outcome in OUTCOMES else len(OUTCOMES))
    numbers = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return DrawnMark(_LABEL + place * _MARK, row * _LANE + 4, worst, held[-1].at, numbers)
