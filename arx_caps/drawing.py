# SPDX-License-Identifier: Apache-2.0
"""Draw a ``Trail`` as a tree of text lines for a terminal."""

import itertools
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from arx_caps.trail import Line, Node, Trail

_STYLES: Final = {"allow": "32", "deny": "31", "bold": "1", "dim": "2"}
_NO_LIMIT: Final = 1 << 20
_RUN: Final = 6  # more allowed calls than this without a refusal between them are drawn as one line
_SHOWN_TOOLS: Final = 4
_SIGNS: Final = {"allow": ("allow", "✓ "), "event": ("dim", "• ")}


def render(trail: Trail, *, colour: bool | None = None, width: int | None = None) -> str:
    """Return a trail as text for a terminal.

    Args:
        trail: The trail.
        colour: Whether to use colours; None: when standard output is a terminal and ``NO_COLOR`` is not set.
        width: Longest line in characters; None: the terminal's, or no limit where there is none.

    Returns:
        Lines, each ended by a line feed.
    """
    terminal = sys.stdout.isatty()
    if colour is None:
        colour = terminal and not os.environ.get("NO_COLOR")
    if width is None:
        width = shutil.get_terminal_size().columns if terminal else _NO_LIMIT
    return "".join(_line(parts, colour, width) for parts in _lines(trail))


_Part = tuple[str, str]  # style and text


def _lines(trail: Trail) -> Iterator[list[_Part]]:
    yield [("bold", trail.session), ("", "  "), ("", trail.agent), *_counts(trail.allowed, trail.denied)]
    if trail.subject:
        issuer, subject = trail.subject
        yield [("dim", f"on behalf of {subject}, as {issuer} says")]
    elif trail.target:
        yield [("dim", f"on behalf of {trail.target}")]
    for policy in trail.policies:
        yield [("dim", f"policy {policy}")]
    for position, root in enumerate(trail.tasks.values()):
        yield from _tree(root, "", last=position == len(trail.tasks) - 1)


def _tree(node: Node, indent: str, *, last: bool) -> Iterator[list[_Part]]:
    yield [("dim", indent + ("└─ " if last else "├─ ")), *_title(node)]
    indent += "   " if last else "│  "
    rows = list(_rows(node.decisions))
    older = node.allowed + node.denied + node.other - len(node.decisions)
    if older > 0:
        rows.insert(0, [("dim", f"… {older:,} more, counted and not drawn")])
    for position, row in enumerate(rows):
        end = not node.children and position == len(rows) - 1
        yield [("dim", indent + ("└─ " if end else "├─ ")), *row]
    for position, child in enumerate(node.children.values()):
        yield from _tree(child, indent, last=position == len(node.children) - 1)


def _title(node: Node) -> list[_Part]:
    known = f"proven, {node.assurance}" if node.proven else f"named, {node.assurance}"
    known = known.removesuffix(", ")
    if node.proven:
        place = f"task {node.task}" if node.task else "the session itself"
        return [("bold", node.name), ("dim", f" ({known})  {place}"), *_counts_of(node)]
    # The link is shown whole, because `arx kill` takes no shorter one.
    place = f"  link:{node.link}" if node.link else f"  sub-task {node.task}"
    return [("bold", node.name), ("dim", f" ({known}){place}"), *_counts_of(node)]


def _counts_of(node: Node) -> list[_Part]:
    if not (node.allowed or node.denied or node.other):
        return []
    if node.other and not (node.allowed or node.denied):
        return [("dim", f"  {node.other} other")]
    return [*_counts(node.allowed, node.denied), *([("dim", f", {node.other} other")] if node.other else [])]


def _counts(allowed: int, denied: int) -> list[_Part]:
    parts = [("", "  "), ("allow", f"{allowed} allowed")]
    return [*parts, ("", ", "), ("deny", f"{denied} denied")] if denied else parts


def _rows(lines: Sequence[Line]) -> Iterator[list[_Part]]:
    """Yield a line for each record, and one line for a long run of allowed calls."""
    # A refusal must not drown among hundreds of allowed calls.
    for allowed, run in itertools.groupby(lines, key=lambda line: line.allowed):
        calls = list(run)
        if allowed and len(calls) > _RUN:
            yield _run(calls)
        else:
            yield from map(_call, calls)


def _run(calls: Sequence[Line]) -> list[_Part]:
    tools = Counter(call.what for call in calls).most_common(_SHOWN_TOOLS + 1)
    what = ", ".join(f"{tool} x{count}" for tool, count in tools[:_SHOWN_TOOLS]) + (
        ", …" if tools[_SHOWN_TOOLS:] else ""
    )
    until = _time(calls[-1])[len("2026-11-25 ") :]
    return [("allow", "✓ "), ("dim", f"{_time(calls[0])}Z to {until}Z  "), ("", f"{len(calls)} calls: {what}")]


def _time(line: Line) -> str:
    return datetime.fromtimestamp(line.at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _call(line: Line) -> list[_Part]:
    style, sign = _SIGNS.get(line.outcome, ("deny", "✗ "))
    parts = [(style, sign), ("dim", _time(line) + "Z  "), ("", line.what)]
    why, detail = line.why
    if why:
        parts += [("", "  "), ("deny", why)]
    return [*parts, ("", f"  {detail}")] if detail else parts


def _line(parts: list[_Part], colour: bool, width: int) -> str:
    """Join the parts of a line and cut it at the width."""
    line, left = "", max(width, 20)
    for style, raw in parts:
        # The texts come from tokens and requests: control characters in them could steer the terminal.
        text = "".join(character if character.isprintable() else "?" for character in raw)
        if len(text) > left:
            text = text[: left - 1] + "…" if left else ""
        left -= len(text)
        line += f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if colour and style and text else text
    return line.rstrip() + "\n"
