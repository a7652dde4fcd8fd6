# SPDX-License-Identifier: Apache-2.0
"""Laws of the drawn tree and timeline: every holder once, nothing covers anything, the same drawing each time."""

import itertools
import re
import time
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.console.timeline import Line, TimelineRecord, compact, draw_strip
from arx_caps.console.tree import HEIGHT, MAX_BOXES, WIDTH, choose, draw, fewer, lay_out
from arx_caps.mint.api.routes.work.session_tree import TreeNode
from arx_caps.text.record_text import shorten_middle
from tests.console.html import require_well_formed
from tests.support import QUICK


def drawn(parent: int | None, **more: Any) -> TreeNode:
    """Return a delegation to a worker, as the mint shows it."""
    times = dict.fromkeys(("expires_at", "first_at", "last_at"), 0)
    counts = dict.fromkeys(("allowed", "denied", "other"), 0)
    none = dict.fromkeys(("template", "last_tool", "key"))
    about = {"kind": "link", "ref": "", "name": "acme/worker", "target": "", "state": "open", "log_nodes": []}
    return TreeNode(parent=parent, **{**about, **times, **counts, **none, "caveats": [], "removes": [], **more})


@st.composite
def forests(draw: Any, most: int = 60) -> list[int | None]:
    """Parents of the nodes of some trees, each before its children."""
    count = draw(st.integers(0, most))
    return [draw(st.none() | st.integers(0, place - 1)) if place else None for place in range(count)]


def holders(parents: list[int | None], denied: set[int]) -> list[TreeNode]:
    """Holders of which some were refused."""
    return [drawn(parent, denied=int(place in denied)) for place, parent in enumerate(parents)]


@QUICK
@given(forests())
def test_a_layout_shows_every_holder_and_covers_none(parents: list[int | None]) -> None:
    """Each holder has one box, right of the box above it and within its rows; no two boxes touch."""
    boxes = lay_out(parents)
    assert sorted(box.node for box in boxes if box.node is not None) == list(range(len(parents)))
    for at, box in enumerate(boxes):
        assert box.node is not None
        above = parents[box.node]
        assert (box.above is None) == (above is None)
        if box.above is not None:
            assert box.above < at
            assert boxes[box.above].node == above
            assert boxes[box.above].x + WIDTH < box.x
    places = sorted((box.x, box.y) for box in boxes)
    for first, second in itertools.pairwise(places):
        assert first[0] != second[0] or first[1] + HEIGHT < second[1]
    assert lay_out(parents) == boxes


@QUICK
@given(forests(), st.sets(st.integers(0, 59)), st.integers(4, 20))
def test_a_large_tree_shows_refusals_and_counts_the_rest(
    parents: list[int | None], denied: set[int], most: int
) -> None:
    """No holder is lost: it is drawn or counted, in at most so many boxes, and refused ones are drawn first."""
    nodes = holders(parents, denied)
    kept = choose(nodes, most)
    assert (kept is None) == (len(nodes) <= most)
    if kept is None:
        return
    boxes = lay_out(parents, kept)
    shown = [box.node for box in boxes if box.node is not None]
    hidden = [place for box in boxes for place in box.hidden]
    assert sorted(shown + hidden) == list(range(len(nodes)))
    roots = parents.count(None)
    assert len(boxes) <= max(most, 2 * roots)
    if not set(shown) >= denied & set(range(len(nodes))):
        assert len(shown) + max(1, max(depths(parents))) >= most // 2  # there was no room for another


def depths(parents: list[int | None]) -> list[int]:
    """How deep each node is."""
    found: list[int] = []
    for parent in parents:
        found.append(0 if parent is None else found[parent] + 1)
    return found


@QUICK
@given(forests(30), st.text(max_size=80), st.sampled_from(["open", "killed", '"><x']))
def test_a_drawing_is_well_formed(parents: list[int | None], text: str, state: str) -> None:
    """Whatever names holders, tools and states have, each box is there once as a link."""
    nodes = [drawn(parent, name=text, state=state, removes=[text], denied=1) for parent in parents]
    drawing = draw(nodes, lambda place: f"?node={place}&name={text}")
    require_well_formed(drawing)
    assert len(re.findall("<a href", drawing)) == len(nodes)
    assert drawing == draw(nodes, lambda place: f"?node={place}&name={text}")


def test_a_tree_of_400_names_the_refused() -> None:
    """Of a wide tree those with refusals or in another state are drawn, with those above them; the rest are counted."""
    nodes = [drawn(None), *(drawn(0, name=f"acme/w{place}") for place in range(399))]
    nodes[200] = msgspec.structs.replace(nodes[200], denied=3, name="acme/refused")
    nodes[300] = msgspec.structs.replace(nodes[300], state="killed", name="acme/killed")
    drawing = draw(nodes, str)
    assert drawing.count("<a ") == 3
    assert "acme/refused" in drawing
    assert "acme/killed" in drawing
    assert "397 more holders" in drawing


def test_a_long_name_differs_from_its_siblings() -> None:
    """Below a holder of the same path only the rest of a long name is shown; the title has it whole."""
    above = drawn(None, name="acme/research/pricing/germany")
    drawing = draw([above, drawn(0, name=above.name + "/sources"), drawn(0, name="acme/other/path/that/is/long")], str)
    assert ">…/sources</text>" in drawing
    assert "<title>acme/research/pricing/germany/sources: open" in drawing
    assert ">acme/other…at/is/long</text>" in drawing


def test_what_a_delegation_removed_in_few_words() -> None:
    """Each kind once: tools, limits of arguments, time and others."""
    assert fewer([{"to": "acme/x"}]) == []
    rules = [{"tool": "x", "args": {"a": 1}}]
    assert fewer([{"exp": 1}, {"allow": rules, "exp": 2, "to": "x"}, {"new": 1}]) == ["time", "tools", "limits", "new"]
    assert (shorten_middle("a" * 30, 9), shorten_middle("short", 9)) == ("aaaa…aaaa", "short")


def test_two_long_words_have_a_line_each() -> None:
    """An edge has room for two short words, or one long one."""
    for caveats, lines in (
        ([{"spend": ["x", "usd", "1", "task", 1]}, {"depth": 1}, {"exp": 1}], ["\u2212 budget,", "depth, time"]),
        ([{"allow": []}, {"exp": 1}], ["\u2212 tools, time"]),
    ):
        drawing = str(draw([drawn(None), drawn(0, caveats=caveats)], str))
        assert re.findall('<text class="removed"[^>]*>([^<]*)<', drawing) == lines


def test_150_holders_are_drawn_at_once() -> None:
    """Drawing takes a small part of the time of an answer; the figure is in benchmarks/console.py."""
    nodes = [drawn(None), *(drawn(place // 3, caveats=[{"exp": 1}]) for place in range(MAX_BOXES - 1))]
    started = time.process_time()
    assert draw(nodes, str).count("<a ") == MAX_BOXES
    assert time.process_time() - started < 0.5


def moment(
    number: int, at: int, outcome: str = "allow", lane: int | None = 0, tool: str = "orders.get"
) -> TimelineRecord:
    """A record of a timeline."""
    return TimelineRecord(number, at, outcome, tool, "orders", lane, f"acme/w{lane}", "", "")


@QUICK
@given(
    st.lists(
        st.tuples(
            st.integers(0, 50), st.sampled_from(["allow", "deny", "event", "odd"]), st.none() | st.integers(0, 20)
        )
    )
)
def test_a_timeline_loses_no_record(made: list[tuple[int, str, int | None]]) -> None:
    """Lines have each record once, in order, and only allowed calls are one line."""
    records = [moment(number, at, outcome, lane) for number, (at, outcome, lane) in enumerate(made)]
    lines = list(compact(records))
    assert [each for line in lines for each in line.records] == records
    for line in lines:
        assert len({each.outcome for each in line.records}) == 1
        assert len(line.records) == 1 or line.first.outcome == "allow"
    require_well_formed(draw_strip(records))


def test_a_mark_has_the_worst_of_its_outcomes() -> None:
    """A refusal does not drown among allowed calls of the same moment; a run names what it called."""
    strip = draw_strip([*(moment(number, 0) for number in range(9)), moment(9, 1, "deny"), moment(10, 10_000)])
    assert strip.count('class="deny"') == 1
    assert strip.count('class="allow"') == 1
    assert draw_strip([]) == ""
    (line,) = compact([moment(number, number, tool=f"t{number % 2}") for number in range(5)])
    assert (line, line.holders) == (Line(line.records, "t0 x3, t1 x2"), 1)


def test_a_row_names_the_service_that_its_tool_does_not() -> None:
    """A tool of the service's own name says where it was called; so do events of the mint."""
    shown = [moment(1, 0, tool=tool).apart for tool in ("orders.get", "orders", "refund", "ordersx.get")]
    assert shown == ["", "orders", "orders", "orders"]
    assert moment(1, 0, tool="refund")._replace(service="arx.mint").apart == ""
    assert Line([moment(1, 0, "deny")], "").badge == '<span class="badge bad">deny</span>'
    assert Line([moment(1, 0), moment(2, 0)], "").badge == '<span class="badge ok">allow \u00d72</span>'
