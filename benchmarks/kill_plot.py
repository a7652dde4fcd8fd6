# SPDX-License-Identifier: Apache-2.0
"""Draw how many of the times measured are below each number of milliseconds.  One SVG, no library."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 200, 36, 48
COLOURS: Final = ("#2f81f7", "#d1791f", "#2da44e", "#a371f7", "#d6409f", "#12a5a0")  # told apart on white and on black
STYLE: Final = """<style>
text { font: 12px system-ui, sans-serif; fill: #57606a }
.axis { stroke: #8b949e; stroke-width: 1; fill: none } .grid { stroke: #8b949e; stroke-opacity: .25 }
.line { fill: none; stroke-width: 2 } .title { font-weight: 600 }
@media (prefers-color-scheme: dark) { text { fill: #adbac7 } }
</style>"""


def plot(title: str, lines: Mapping[str, Sequence[float]], axis: str = "ms after the kill was called") -> str:
    """Draw the share of values below each value, on a logarithmic scale.

    Args:
        title: Above the plot.
        lines: Name to values, ms.
        axis: What the values are.

    Returns:
        The SVG's text.
    """
    low = min(min(values) for values in lines.values())
    high = max(max(values) for values in lines.values())
    first, last = math.log10(low) - 0.05, math.log10(high) + 0.05

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text class="title" x="{LEFT}" y="20">{title}</text>']
    for value in (m * 10**e for e in range(-1, 4) for m in (1, 2, 5)):
        if first <= math.log10(value) <= last:
            at = f"{x(value):.1f}"
            parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
            parts.append(f'<text x="{at}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        at = f"{y(share):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">{axis}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    for index, (name, values) in enumerate(lines.items()):
        ordered, colour = sorted(values), COLOURS[index % len(COLOURS)]
        points = " ".join(f"{x(v):.1f},{y((i + 1) / len(ordered)):.1f}" for i, v in enumerate(ordered))
        parts.append(f'<polyline class="line" stroke="{colour}" points="{points}"/>')
        top = TOP + 12 + 20 * index
        parts.append(f'<rect x="{WIDTH - RIGHT + 16}" y="{top - 9}" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 36}" y="{top - 3}">{name}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
    return "\n".join([head, STYLE, *parts, "</svg>"]) + "\n"
