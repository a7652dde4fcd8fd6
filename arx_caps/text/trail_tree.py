# SPDX-License-Identifier: Apache-2.0
"""Draw a ``Trail`` as a tree of text lines, plain or styled for a terminal."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from arx_caps.text.trail import Node, Trail, TrailLine

if TYPE_CHECKING:
    from rich.text import Text

_RUN: Final = 6  # more allowed calls than this without a refusal between them are drawn as one line
_SHOWN_TOOLS: Final = 4
_SIGNS: Final = {
    "allow": ("✓ ", "green"),
    "event": ("• ", "dim"),
    "would_refuse": ("~ ", "yellow"),
    "effect": ("→ ", "dim"),
}


def render(trail: Trail) -> str:
    """Return a trail as plain text.

    Args:
        trail: The trail.

    Returns:
        Lines, each ended by a line feed.
    """
    return "".join("".join(text for text, _ in parts).rstrip() + "\n" for parts in _safe_lines(trail))


def styled(trail: Trail) -> "Text":
    """Return a trail as coloured text for a terminal.

    Args:
        trail: The trail.
    """
    from rich.text import Text

    lines = (Text.assemble(*parts) for parts in _safe_lines(trail))
    return Text("\n").join(lines)


_Part = tuple[str, str]  # text and its style, as rich names it


def _safe_lines(trail: Trail) -> Iterator[list[_Part]]:
    # Texts come from tokens and requests, and must not steer a terminal.
    for parts in _lines(trail):
        yield [("".join(c if c.isprintable() else "?" for c in text), style) for text, style in parts]


def _lines(trail: Trail) -> Iterator[list[_Part]]:
    yield [(trail.session, "bold"), ("  ", ""), (trail.agent, ""), *_counts(trail.allowed, trail.denied)]
    if trail.subject:
        issuer, subject = trail.subject
        yield [(f"on behalf of {subject}, as {issuer} says", "dim")]
    elif trail.target:
        yield [(f"on behalf of {trail.target}", "dim")]
    for policy in trail.policies:
        yield [(f"policy {policy}", "dim")]
    for position, root in enumerate(trail.tasks.values()):
        yield from _tree(root, "", root=True, last=position == len(trail.tasks) - 1)


def _tree(node: Node, indent: str, *, last: bool, root: bool = False) -> Iterator[list[_Part]]:
    yield [(indent + ("└─ " if last else "├─ "), "dim"), *_title(node, root=root)]
    indent += "   " if last else "│  "
    rows = list(_rows(node.decisions))
    older = node.allowed + node.denied + node.other - len(node.decisions)
    if older > 0:
        rows.insert(0, [(f"… {older:,} more, counted and not drawn", "dim")])
    for position, row in enumerate(rows):
        end = not node.children and position == len(rows) - 1
        yield [(indent + ("└─ " if end else "├─ "), "dim"), *row]
    for position, child in enumerate(node.children.values()):
        yield from _tree(child, indent, last=position == len(node.children) - 1)


def _title(node: Node, *, root: bool) -> list[_Part]:
    known = f"proven, {node.assurance}" if node.proven else f"named, {node.assurance}"
    known = known.removesuffix(", ")
    if root:
        place = f"task {node.task}" if node.task else "the session itself"
    else:  # whole, as `arx kill` takes it
        place = f"link:{node.link}" if node.link else f"sub-task {node.task}"
    place += f"  key {node.key}" if node.key else ""
    return [(node.name, "bold"), (f" ({known})  {place}", "dim"), *_counts_of(node)]


def _counts_of(node: Node) -> list[_Part]:
    if not (node.allowed or node.denied or node.other):
        return []
    if node.other and not (node.allowed or node.denied):
        return [(f"  {node.other} other", "dim")]
    return [*_counts(node.allowed, node.denied), *([(f", {node.other} other", "dim")] if node.other else [])]


def _counts(allowed: int, denied: int) -> list[_Part]:
    parts = [("  ", ""), (f"{allowed} allowed", "green")]
    return [*parts, (", ", ""), (f"{denied} denied", "red")] if denied else parts


def _rows(lines: Sequence[TrailLine]) -> Iterator[list[_Part]]:
    """Yield a line for each record, and one line for a long run of allowed calls."""
    # A refusal must not drown among hundreds of allowed calls.
    for allowed, run in itertools.groupby(lines, key=lambda line: line.allowed):
        calls = list(run)
        if allowed and len(calls) > _RUN:
            yield _run(calls)
        else:
            yield from map(_call, calls)


def _run(calls: Sequence[TrailLine]) -> list[_Part]:
    tools = Counter(call.what for call in calls).most_common(_SHOWN_TOOLS + 1)
    what = ", ".join(f"{tool} x{count}" for tool, count in tools[:_SHOWN_TOOLS]) + (
        ", …" if tools[_SHOWN_TOOLS:] else ""
    )
    until = _time(calls[-1])[len("2026-11-25 ") :]
    return [("✓ ", "green"), (f"{_time(calls[0])}Z to {until}Z  ", "dim"), (f"{len(calls)} calls: {what}", "")]


def _time(line: TrailLine) -> str:
    return datetime.fromtimestamp(line.at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _call(line: TrailLine) -> list[_Part]:
    parts = [_SIGNS.get(line.outcome, ("✗ ", "red")), (_time(line) + "Z  ", "dim"), (line.what, "")]
    why, detail = line.why
    if why:
        parts += [("  ", ""), (why, "red")]
    return [*parts, (f"  {detail}", "")] if detail else parts
