# SPDX-License-Identifier: Apache-2.0
"""The trail: a session's tree is what its decisions say, and nothing in it steers a terminal."""

import json
from typing import Any

import pytest

from arx_caps.text.trail import trail, trails_of_log
from arx_caps.text.trail_tree import render, styled
from arx_verifier.errors import Failure
from arx_verifier.journal.decision import COUNTED, UNPROVEN, Decision
from arx_verifier.journal.record import ChainFacts, ProvenHolder
from arx_verifier.journal.tally import RefusalCount

T0 = 1_700_000_000_000


def decide(at: int, *hops: tuple[str, str], code: str = "ok", task: str = "t-1", **more: Any) -> Decision:
    facts = ChainFacts(
        agent="acme/support",
        session=more.pop("session", "s-1"),
        named=tuple(name for name, _ in hops),
        links=tuple(link for _, link in hops),
        task=task,
        audience="orders",
        policy="P" * 22,
        subject=more.pop("subject", None),
        assurance=more.pop("assurance", "bearer"),
        holders=more.pop("holders", ()),
    )
    return Decision(code, T0 + at, facts, more.pop("tool", "orders.get"), **more)


FAILURE = Failure("caveat 2 (acme/worker)", "amount range", "[1,20]", "50")
STORY = [
    decide(0),
    decide(1, ("acme/worker", "AAAAAAAAAA")),
    decide(2, ("acme/worker", "BBBBBBBBBB"), code="argument_not_allowed", tool="orders.refund", failures=(FAILURE,)),
    decide(3, ("acme/worker", "AAAAAAAAAA"), ("acme/tool", "CCCCCCCCCC")),
    decide(4, session="s-2"),
    decide(5, ("acme/worker", "AAAAAAAAAA"), code="revoked"),
    decide(6, task="t-2"),
    Decision(COUNTED, T0 + 7, UNPROVEN, counts=(RefusalCount("malformed", "", 3),)),
]


def test_the_tree_follows_links_and_not_names() -> None:
    """Two delegations to the same name are two nodes, each with its own decisions, in order."""
    story = trail(STORY, "s-1")
    assert list(story.tasks) == ["t-1", "t-2"]
    root = story.tasks["t-1"]
    assert (root.name, root.proven, root.allowed, root.denied) == ("acme/support", True, 1, 0)
    first, second = root.children.values()
    assert (first.name, second.name) == ("acme/worker", "acme/worker")
    assert [decision.at - T0 for decision in first.decisions] == [1, 5]
    assert (first.allowed, first.denied) == (1, 1)
    assert (second.allowed, second.denied) == (0, 1)
    assert [child.name for child in first.children.values()] == ["acme/tool"]
    assert (story.allowed, story.denied) == (4, 2)


BOUND = [
    decide(0, assurance="bound", holders=(ProvenHolder("K0"),)),
    decide(
        1,
        ("acme/worker", "AAAAAAAAAA"),
        assurance="bound",
        holders=(ProvenHolder("K0"), ProvenHolder("K1", b"s", b"s")),
    ),
    # Exchanged by a service: of what the mint vouches for, the record has the key of the last holder alone.
    decide(
        2,
        ("acme/worker", "AAAAAAAAAA"),
        ("service/orders", "SSSSSSSSSS"),
        assurance="bound",
        holders=(ProvenHolder("K2"),),
    ),
    decide(
        3, ("acme/other", "BBBBBBBBBB"), assurance="bound", holders=(ProvenHolder("K0"), ProvenHolder("K3", b"s", b"s"))
    ),
    decide(4, ("acme/worker", "DDDDDDDDDD")),
]


@pytest.mark.spec("12.1", "16.5")
def test_a_bound_tasks_delegations_are_marked_and_named_by_their_keys() -> None:
    """Proven with the keys that their records have; a bearer task's is only named.  By the log's rows as well."""
    story = trail(BOUND, "s-1")
    titles = [line.lstrip("│├└─ ") for line in render(story).splitlines()[2:] if "✓" not in line]
    assert titles == [
        "acme/support (proven, bound)  task t-1  key K0  1 allowed",
        "acme/worker (proven, bound)  link:AAAAAAAAAA  key K1  1 allowed",
        "service/orders (proven, bound)  link:SSSSSSSSSS  key K2  1 allowed",
        "acme/other (proven, bound)  link:BBBBBBBBBB  key K3  1 allowed",
        "acme/worker (named, bearer)  link:DDDDDDDDDD  1 allowed",
    ]
    names = ("", "s-1", "t-1", "AAAAAAAAAA", "SSSSSSSSSS", "BBBBBBBBBB", "DDDDDDDDDD")
    kinds, above = ("session", "task", "link", "link", "link", "link"), (None, 0, 1, 2, 1, 1)
    nodes = [
        {"node": n + 1, "parent": above[n], "kind": kinds[n], "ref": names[n + 1], "name": "acme/x", "session": "s-1"}
        | {"task": "t-1", "agent": "acme/support", "subject": None, "allow": 1, "deny": 0, "other": 0}
        for n in range(6)
    ]
    places = {0: 2, 1: 3, 2: 4, 3: 5, 4: 6}
    records = [each.to_dict() | {"node": places[n], "index": n} for n, each in enumerate(BOUND)]
    (of_log,) = trails_of_log(nodes, records)
    found = [(node.link, node.proven, node.key) for node in of_log.tasks["t-1"].walk()]
    assert found == [(node.link, node.proven, node.key) for node in story.tasks["t-1"].walk()]


def test_sessions_stay_apart_and_counts_belong_to_none() -> None:
    """Every decision with a session is in exactly one trail."""
    story = [trail(STORY, session) for session in ("s-1", "s-2")]
    assert sum(one.allowed + one.denied for one in story) == len(STORY) - 1
    assert trail(STORY, "s-9").tasks == {}


def test_a_drawn_tree_reads_from_top_to_bottom() -> None:
    """Names, assurance, links, counts, and for a denial the reason with what was expected and what came."""
    text = render(trail(STORY, "s-1"))
    assert text.splitlines() == [
        "s-1  acme/support  4 allowed, 2 denied",
        "policy PPPPPPPPPPPPPPPPPPPPPP",
        "├─ acme/support (proven, bearer)  task t-1  1 allowed",
        "│  ├─ ✓ 2023-11-14 22:13:20.000Z  orders  orders.get",
        "│  ├─ acme/worker (named, bearer)  link:AAAAAAAAAA  1 allowed, 1 denied",
        "│  │  ├─ ✓ 2023-11-14 22:13:20.001Z  orders  orders.get",
        "│  │  ├─ ✗ 2023-11-14 22:13:20.005Z  orders  orders.get  revoked",
        "│  │  └─ acme/tool (named, bearer)  link:CCCCCCCCCC  1 allowed",
        "│  │     └─ ✓ 2023-11-14 22:13:20.003Z  orders  orders.get",
        "│  └─ acme/worker (named, bearer)  link:BBBBBBBBBB  0 allowed, 1 denied",
        "│     └─ ✗ 2023-11-14 22:13:20.002Z  orders  orders.refund  argument_not_allowed"
        "  amount must be between 1 and 20, got 50",
        "└─ acme/support (proven, bearer)  task t-2  1 allowed",
        "   └─ ✓ 2023-11-14 22:13:20.006Z  orders  orders.get",
    ]


def test_colours_change_only_the_looks() -> None:
    """The text of a tree in colours is the plain one."""
    story = trail(STORY, "s-1")
    assert styled(story).plain + "\n" == render(story)
    assert {"green", "red", "bold", "dim"} <= {str(span.style) for span in styled(story).spans}


def test_nothing_from_a_token_or_request_steers_the_terminal() -> None:
    """Control characters of any origin are shown as a question mark."""
    evil = "x\x1b[2J\r\n\x07\u202e"
    story = trail(
        [decide(0, (evil, evil), tool=evil, subject=(evil, evil), code="expired", failures=(Failure(*[evil] * 4),))],
        "s-1",
    )
    text = render(story)
    assert not set(text) & set("\x1b\r\x07\u202e")
    assert styled(story).plain + "\n" == text
    assert len(text.splitlines()) == 6


def test_the_json_form_is_whole() -> None:
    """``to_dict`` is plain JSON and holds every decision once, under its holder."""
    story = json.loads(json.dumps(trail(STORY, "s-1").to_dict()))
    assert (story["session"], story["allowed"], story["denied"]) == ("s-1", 4, 2)
    worker = story["tasks"][0]["children"][0]
    assert (worker["name"], worker["proven"], worker["assurance"]) == ("acme/worker", False, "bearer")
    assert [decision["code"] for decision in worker["decisions"]] == ["ok", "revoked"]
    assert story["tasks"][0]["children"][1]["decisions"][0]["failures"][0]["came"] == "50"


def test_what_is_not_drawn_is_counted() -> None:
    """
    Where a place has more records than are at hand, the tree reports that before the first that it draws.
    """
    story = trail(STORY, "s-1")
    root = story.tasks["t-1"]
    root.allowed += 1_500
    lines = render(story).splitlines()
    assert lines[3] == "│  ├─ … 1,500 more, counted and not drawn"
    assert sum("not drawn" in line for line in lines) == 1


def test_a_long_run_of_allowed_calls_is_one_line_and_no_refusal_drowns_in_it() -> None:
    """
    Allowed calls in a row are drawn together with their counts; a refused one has a line of its own.
    """
    facts = ChainFacts(agent="acme/a", session="s-1", task="t-1", audience="orders")
    codes = ["ok"] * 9 + ["revoked"] + ["ok"] * 2
    decisions = [Decision(code, 1_700_000_000_000 + i, facts, tool="orders.get") for i, code in enumerate(codes)]
    drawn = render(trail(decisions, "s-1"))
    assert drawn.count("\n") == 2 + 1 + 1 + 2
    assert "9 calls: orders  orders.get x9" in drawn
    assert drawn.count("revoked") == 1
