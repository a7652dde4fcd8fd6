# SPDX-License-Identifier: Apache-2.0
"""Draw bars and curves for docs/performance.md.  SVG, no library; legible on white and on black."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.kill_plot import COLOURS, STYLE

WIDTH: Final = 760
OTHERS: Final = "#8b949e"
ROW: Final = 22
LEFT, RIGHT = 290, 70  # room for the longest name in a wide font
Point = tuple[float, float]


def bars(title: str, rows: Sequence[tuple[str, float]], ours: str = "ARx") -> str:
    """Draw times as bars, shortest first.

    Args:
        title: Above the plot.
        rows: Name and value, us.
        ours: What the names begin with that are coloured.

    Returns:
        The SVG's text.
    """
    ordered = sorted(rows, key=lambda row: row[1])
    height = 44 + ROW * len(ordered)
    parts = [f'<text class="title" x="8" y="20">{_plain(title)}</text>']
    for index, (name, value) in enumerate(ordered):
        top = 36 + ROW * index
        width = value / ordered[-1][1] * (WIDTH - LEFT - RIGHT)
        colour = COLOURS[0] if name.startswith(ours) else OTHERS
        parts.append(f'<text x="{LEFT - 8}" y="{top + 13}" text-anchor="end">{_plain(name)}</text>')
        parts.append(f'<rect x="{LEFT}" y="{top + 2}" width="{width:.1f}" height="14" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + width + 6:.1f}" y="{top + 13}">{us(value)}</text>')
    return _svg(title, height, parts)


class Panel:
    """One plot of several: its curves over one quantity.

    Args:
        title: What grows.
        lines: Name to points; the first coordinate may be 0.
        log: Whether the horizontal axis is logarithmic.
    """

    def __init__(self, title: str, lines: Mapping[str, Sequence[Point]], *, log: bool) -> None:
        self.title, self.lines, self.log = title, lines, log
        xs = [self._x(x) for points in lines.values() for x, _ in points]
        self._first, self._last = min(xs), max(xs)
        self._high = max(y for points in lines.values() for _, y in points) * 1.15

    def _x(self, value: float) -> float:
        return math.log10(value + 1) if self.log else value

    def draw(self, left: float, top: float, width: float, height: float) -> list[str]:
        """Draw it into a rectangle; the vertical axis begins at 0, so that what looks flat is flat."""
        bottom, inner, right = top + height - 34, left + 44, left + width - 12
        upper = top + 26

        def at(point: Point) -> str:
            share = (self._x(point[0]) - self._first) / (self._last - self._first or 1)
            return f"{inner + share * (right - inner):.1f},{bottom - point[1] / self._high * (bottom - upper):.1f}"

        parts = [f'<text class="title" x="{inner}" y="{top + 14}">{_plain(self.title)}</text>']
        for share in (0.0, 0.5, 1.0):
            y = bottom - share * (bottom - upper)
            parts.append(f'<line class="grid" x1="{inner}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{inner - 6}" y="{y + 4:.1f}" text-anchor="end">{us(share * self._high)}</text>')
        ticks = sorted({x for points in self.lines.values() for x, _ in points})
        for tick, anchor in ((ticks[0], "start"), (ticks[len(ticks) // 2], "middle"), (ticks[-1], "end")):
            x, _, _ = at((tick, 0)).partition(",")
            parts.append(f'<text x="{x}" y="{bottom + 15:.0f}" text-anchor="{anchor}">{tick:,.0f}</text>')
        for index, (name, points) in enumerate(self.lines.items()):
            colour = COLOURS[index]
            drawn = " ".join(map(at, points))
            parts.append(f'<polyline class="line" stroke="{colour}" points="{drawn}"/>')
            parts += [f'<circle r="2.5" fill="{colour}" cx="{p[0]}" cy="{p[1]}"/>' for p in _split(drawn)]
            x = inner + index * 120
            parts.append(f'<rect x="{x}" y="{bottom + 22:.0f}" width="12" height="4" fill="{colour}"/>')
            parts.append(f'<text x="{x + 17}" y="{bottom + 28:.0f}">{_plain(name)}</text>')
        return parts


def panels(title: str, found: Sequence[Panel]) -> str:
    """Draw plots two beside each other."""
    width, height = WIDTH / 2, 200
    parts = [f'<text class="title" x="8" y="18">{_plain(title)}</text>']
    for index, panel in enumerate(found):
        parts += panel.draw(index % 2 * width, 28 + index // 2 * (height + 14), width, height)
    return _svg(title, 28 + (len(found) + 1) // 2 * (height + 14), parts)


def us(value: float) -> str:
    """Write microseconds with as many digits as mean something."""
    return f"{value:.0f}" if value >= 100 or value == 0 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _split(points: str) -> list[tuple[str, str]]:
    return [(x, y) for x, _, y in (point.partition(",") for point in points.split())]


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("`", "")


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    said = _plain(title)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{said}">'
    return "\n".join([head, STYLE, *parts, "</svg>"]) + "\n"
