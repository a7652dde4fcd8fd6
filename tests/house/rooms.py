# SPDX-License-Identifier: Apache-2.0
"""Draw docs/rooms.svg, the packages in the order of the package graph's test: ``python -m tests.house.rooms``."""

from collections.abc import Iterator
from typing import Final

from tests.house.pages import ROOT
from tests.house.test_package_graph import AUDIT_ORDER, CAPS_IMPORTS, MINT_ORDER, VERIFIER_ORDER

PICTURE: Final = ROOT / "docs" / "rooms.svg"
_WIDTH: Final = 900
_ROW: Final = 34  # px from one row to the next
_STYLE: Final = (
    ".o{fill:#f6f8fb;stroke:#9ab;stroke-width:1}.b{fill:#fff;stroke:#345;stroke-width:1.5}"
    ".t{fill:#123;font-weight:600;font-size:15px}.n{fill:#123;text-anchor:middle}.s{fill:#456;font-size:11.5px}"
)


def levels() -> list[list[str]]:
    """Return the packages of arx_caps by level, the lowest first: each imports lower levels alone."""
    height: dict[str, int] = {}

    def level(package: str) -> int:
        if package not in height:
            height[package] = 1 + max((level(below) for below in CAPS_IMPORTS[package]), default=-1)
        return height[package]

    for package in CAPS_IMPORTS:
        level(package)
    return [
        [package for package in CAPS_IMPORTS if height[package] == each and not package.startswith("_")]
        for each in range(max(height.values()) + 1)
    ]


def _boxes(rows: list[list[str]], left: int, width: int, bottom: int) -> Iterator[str]:
    """Draw rows of boxes from the bottom up."""
    for number, row in enumerate(rows):
        x, y = float(left), bottom - (number + 1) * _ROW
        for name in row:
            each = width * (len(name) + 4) / sum(len(other) + 4 for other in row)
            yield f'<rect class="b" x="{x + 3:.0f}" y="{y}" width="{each - 6:.0f}" height="{_ROW - 6}" rx="4"/>'
            yield f'<text class="n" x="{x + each / 2:.0f}" y="{y + 18}">{name}</text>'
            x += each


def _group(title: str, note: str, rows: list[list[str]], left: int, width: int, bottom: int) -> Iterator[str]:
    """Draw a titled frame with its rows."""
    top = bottom - len(rows) * _ROW - 52
    yield f'<rect class="o" x="{left}" y="{top}" width="{width}" height="{bottom - top + 8}" rx="8"/>'
    yield f'<text class="t" x="{left + 12}" y="{top + 22}">{title}</text>'
    yield f'<text class="s" x="{left + 12}" y="{top + 40}">{note}</text>'
    yield from _boxes(rows, left + 8, width - 16, bottom)


def picture() -> str:
    """Return the picture as SVG."""
    base = [[name] for name in VERIFIER_ORDER if not name.startswith("_")]
    caps = [row[first : first + 4] for row in levels() for first in range(0, len(row), 4)]
    mint, audit = [[name] for name in MINT_ORDER], [[name] for name in AUDIT_ORDER]
    height = max(len(base), len(caps) + len(audit) + 2, len(mint)) * _ROW + 84
    bottom = height - 16
    parts = [
        *_group("arx_verifier", "the trusted base; no framework", base, 12, 210, bottom),
        *_group("arx_caps", "may import all of arx_verifier", caps, 234, 440, bottom),
        *_group("arx_caps.audit", "the signed log", audit, 234, 440, bottom - len(caps) * _ROW - 72),
        *_group("arx_caps.mint", "policy, tasks, HTTP API", mint, 686, 202, bottom),
    ]
    label = "The packages of ARx in their order; each imports only packages that are drawn below it"
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-size="13" role="img" '
            f'font-family="system-ui, \'DejaVu Sans\', sans-serif" aria-label="{label}">',
            f"<style>{_STYLE}</style>",
            f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#fff"/>',
            *parts,
            "</svg>\n",
        )
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
