# SPDX-License-Identifier: Apache-2.0
"""Draw a delegation tree as SVG: lay out boxes and edges, which a template draws.  No state.

The root is at the left and holders grow to the right.  Colours come from the stylesheet by class, so that one drawing
serves both themes.  A tree of more than ``MAX_BOXES`` holders shows those with refusals, or in another state than the
holder above, and counts the others in one box for each holder above them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from markupsafe import Markup

from arx_caps.console.render import render_part
from arx_caps.mint.api.routes.work.session_tree import TreeNode
from arx_caps.text.record_text import shorten_middle

MAX_BOXES: Final = 150
WIDTH, HEIGHT = 170, 44  # of a box, px
COLUMN, ROW = 274, 56  # from box to box, px: the room between two columns has what an edge removed
FIRST_COLUMN: Final = 194  # from an agent to its tasks: nothing is removed there
_PAD: Final = 8
_LABEL_CHARS: Final = 16  # of a line on an edge
_PAIR_CHARS: Final = 10  # of two words that share the first one
_MINUS: Final = "\u2212"
_NAME_CHARS: Final = 21  # of a monospaced name in a box
_FEWER: Final[Mapping[str, str]] = {
    "allow": "tools",
    "aud": "services",
    "depth": "depth",
    "delegate_to": "holders",
    "exp": "time",
    "nbf": "time",
    "net": "networks",
    "spend": "budget",
}


class Box(NamedTuple):
    """One box of a drawing.

    Attributes:
        node: The position of its holder; None for a box that counts others.
        above: The position of the box above it in the list of boxes, or None.
        x: Its left edge, px.
        y: Its top edge, px.
        hidden: The positions of the holders that it counts, beside its own.
    """

    node: int | None
    above: int | None
    x: int
    y: int
    hidden: tuple[int, ...] = ()


class DrawnEdge(NamedTuple):
    """An edge: its path, and what the delegation removed, whole and in lines with their places."""

    path: str
    removed: str = ""
    lines: Sequence[tuple[int, int, str]] = ()


class DrawnBox(NamedTuple):
    """A box: its place, its two lines, and for a holder the link, the classes and the title."""

    place: str
    name: str
    calls: str
    href: str = ""
    classes: str = ""
    title: str = ""


def lay_out(parents: Sequence[int | None], kept: Sequence[bool] | None = None) -> list[Box]:
    """Return the boxes of a tree, each after the one above it.

    Args:
        parents: The position of the holder above each holder, before it; None for a root.
        kept: Whether each holder has a box of its own; a holder above one that has must have one.  All if omitted.
    """
    below: list[list[int]] = [[] for _ in parents]
    for place, parent in enumerate(parents):
        if parent is not None:
            below[parent].append(place)
    boxes: list[Box] = []
    rows = 0
    # Without recursion: a tree may be as deep as it has holders.
    stack: list[tuple[int | None, int | None, int, tuple[int, ...]]] = [
        (place, None, 0, ()) for place, parent in reversed(list(enumerate(parents))) if parent is None
    ]
    while stack:
        node, above, depth, hidden = stack.pop()
        at = len(boxes)
        boxes.append(Box(node, above, _PAD + (FIRST_COLUMN + (depth - 1) * COLUMN if depth else 0), 0, hidden))
        children = below[node] if node is not None else []
        shown = [child for child in children if kept is None or kept[child]]
        others = [child for child in children if kept is not None and not kept[child]]
        if others:
            stack.append((None, at, depth + 1, tuple(_all_below(others, below))))
        stack += [(child, at, depth + 1, ()) for child in reversed(shown)]
    # A box is in the row of the first box below it, so that the root of a high tree is in sight.
    for at, box in enumerate(boxes):
        boxes[at] = box._replace(y=_PAD + rows * ROW)
        if at + 1 == len(boxes) or boxes[at + 1].above != at:
            rows += 1
    return boxes


def _all_below(places: Sequence[int], below: Sequence[Sequence[int]]) -> list[int]:
    found, stack = [], list(reversed(places))
    while stack:
        place = stack.pop()
        found.append(place)
        stack += reversed(below[place])
    return found


def choose(nodes: Sequence[TreeNode], most: int = MAX_BOXES) -> list[bool] | None:
    """Return which holders of a large tree are drawn; None if all are.

    Args:
        nodes: The holders, each after the one above it.
        most: The largest number of boxes.
    """
    if len(nodes) <= most:
        return None
    kept = [node.parent is None for node in nodes]
    # Half of the boxes: each of them may have one beside it that counts the holders below which are not drawn.
    left = most // 2 - sum(kept)
    for place in sorted(range(len(nodes)), key=lambda place: (-nodes[place].denied, place)):
        node, line = nodes[place], list[int]()
        if not node.denied and (node.parent is None or nodes[node.parent].state == node.state):
            continue
        at: int | None = place
        while at is not None and not kept[at]:
            line.append(at)
            at = nodes[at].parent
        if len(line) <= left:
            left -= len(line)
            for at in line:
                kept[at] = True
    return kept


def draw(nodes: Sequence[TreeNode], href: Callable[[int], str], selected: int | None = None) -> Markup:
    """Return a tree as an SVG element.

    Args:
        nodes: The holders, each after the one above it.
        href: Returns the address that a holder's box links to.
        selected: The holder whose box is marked.
    """
    boxes = lay_out([node.parent for node in nodes], choose(nodes))
    width = max((box.x for box in boxes), default=0) + WIDTH + _PAD
    height = max((box.y for box in boxes), default=0) + HEIGHT + _PAD
    return render_part(
        "tree.svg",
        width=width,
        height=height,
        count=len(nodes),
        edges=[_edge(boxes[box.above], box, nodes) for box in boxes if box.above is not None],
        boxes=[_box(box, nodes, href, marked=box.node is not None and box.node == selected) for box in boxes],
        box=(WIDTH, HEIGHT),
    )


def fewer(caveats: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in a few words what a delegation removed: tools, limits of arguments, time and the like."""
    words = [_FEWER.get(name, name) for caveat in caveats for name in caveat if name != "to"]
    if any(rule.get("args") for caveat in caveats for rule in _rules(caveat)):
        words.insert(words.index("tools") + 1, "limits")
    return list(dict.fromkeys(words))


def _rules(caveat: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rules = caveat.get("allow")
    return [rule for rule in rules if isinstance(rule, dict)] if isinstance(rules, list) else []


def _edge(above: Box, box: Box, nodes: Sequence[TreeNode]) -> DrawnEdge:
    start, y, to = above.x + WIDTH, above.y + HEIGHT // 2, box.y + HEIGHT // 2
    turn = start + 20
    edge = DrawnEdge(f"M{start} {y}H{turn}V{to}H{box.x}")
    node = nodes[box.node] if box.node is not None else None
    if node is None or node.kind != "link":
        return edge
    words = ["not recorded"] if node.caveats is None else fewer(node.caveats)
    removed = "Removed: " + "; ".join(node.removes or words or ["nothing"])
    fit = 2 if len("".join(words[:2])) <= _PAIR_CHARS else 1
    first = f"{_MINUS if node.caveats else ''} {', '.join(words[:fit])}" if words else "nothing removed"
    lines = [first + ("," if words[fit:] else ""), ", ".join(words[fit:])]
    texts = [
        (turn + 6, to + shift, shorten_middle(line, _LABEL_CHARS)) for line, shift in zip(lines, (-5, 13), strict=True)
    ]
    return edge._replace(removed=removed, lines=[text for text in texts if text[2]])


def _box(box: Box, nodes: Sequence[TreeNode], href: Callable[[int], str], *, marked: bool) -> DrawnBox:
    place = f"{box.x} {box.y}"
    if box.node is None:
        count = len(box.hidden)
        name, calls = f"{count:,} more holder{'s' if count > 1 else ''}", _calls([nodes[place] for place in box.hidden])
        return DrawnBox(place, shorten_middle(name, _NAME_CHARS), calls)
    node = nodes[box.node]
    name, calls = name_of(node), _calls([node])
    above = nodes[node.parent].name if node.parent is not None else ""
    # Below a holder of the same path, the end of a long name distinguishes it from its siblings.
    shown = f"…{name.removeprefix(above)}" if len(name) > _NAME_CHARS and name.startswith(f"{above}/") else name
    return DrawnBox(
        place,
        shorten_middle(shown, _NAME_CHARS),
        calls if node.state == "open" else f"{node.state} · {calls}",
        href(box.node),
        f"{node.state}{' refused' if node.denied else ''}{' marked' if marked else ''}",
        f"{name}: {node.state}, {calls}",
    )


def name_of(node: TreeNode) -> str:
    """Return what a holder is called: its name, or the template of a task."""
    return f"task {node.template or node.name}" if node.kind in ("task", "subtask") else node.name


def _calls(nodes: Sequence[TreeNode]) -> str:
    allowed, denied = sum(node.allowed for node in nodes), sum(node.denied for node in nodes)
    return f"{allowed:,} allowed, {denied:,} denied" if denied else f"{allowed:,} allowed"
