# SPDX-License-Identifier: Apache-2.0
"""Draw decisions and refusals over a time as SVG, from the totals that the log keeps.  No state."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from markupsafe import Markup

from arx_caps.console.render import render_part, span
from arx_caps.mint.api.routes.events.totals import CountsShown, Totals
from arx_caps.settings.durations import show_time

WIDTH, HEIGHT = 720, 120  # px
_MOST_STEPS: Final = 72


def refused(counts: CountsShown) -> int:
    """Return the number of refused and ended calls, and of unauthenticated refusals."""
    return counts.deny + counts.end + counts.counted


def decisions(counts: CountsShown) -> int:
    """Return the number of all decisions."""
    return counts.allow + refused(counts)


class Curve(NamedTuple):
    """Decisions and refusals over a time: the drawing, and what a page writes beside it."""

    svg: Markup
    since: int
    until: int
    decisions: int
    refused: int
    highest: int
    step_ms: int


def draw_curve(totals: Totals, now_ms: int) -> Curve:
    """Return the curves of decisions and of refusals, with the counts in words as their description.

    Args:
        totals: The totals.
        now_ms: The time, ms since the Unix epoch.
    """
    steps = max(1, (totals.until - totals.since) // totals.step)
    length = -(-steps // _MOST_STEPS) * totals.step
    # Without a step that has not ended, which would look like a fall.
    places = max(1, (min(totals.until, now_ms) - totals.since) // length)
    decided, turned_away = [0] * places, [0] * places
    for point in totals.points:
        place = (point.at - totals.since) // length
        if place < places:
            decided[place] += decisions(point)
            turned_away[place] += refused(point)
    highest, until = max(decided), totals.since + places * length
    words = (
        f"{show_time(totals.since)} to {show_time(until)}: {sum(decided)} decisions, {sum(turned_away)} refused. "
        f"Most decisions within {span(length)}: {_peak(decided, totals.since, length)}. "
        f"Most refusals: {_peak(turned_away, totals.since, length)}."
    )
    lines = [("allow", _path(decided, highest)), ("refused", _path(turned_away, highest))]
    svg = render_part("curve.svg", width=WIDTH, height=HEIGHT, words=words, lines=lines)
    return Curve(svg, totals.since, until, sum(decided), sum(turned_away), highest, length)


def _path(numbers: Sequence[int], highest: int) -> str:
    """Return the points of a line over the whole width; one number is a level line."""
    values = [*numbers, *numbers] if len(numbers) == 1 else numbers
    wide, high = WIDTH / (len(values) - 1), HEIGHT - 4
    return "L".join(
        f"{place * wide:.1f} {HEIGHT - 2 - high * each / (highest or 1):.1f}" for place, each in enumerate(values)
    )


def _peak(numbers: Sequence[int], since: int, length: int) -> str:
    most = max(numbers)
    return f"{most} at {show_time(since + numbers.index(most) * length)}" if most else "none"
