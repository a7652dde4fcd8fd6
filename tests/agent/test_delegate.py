# SPDX-License-Identifier: Apache-2.0
"""Delegating attenuates, offline, and reports a holder's mistakes to the holder."""

import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arx_caps.agent import Task
from arx_verifier.constraints.constraint import Constraint, compile_constraint, read_constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import ArxError, AttenuationError
from arx_verifier.names import matches_tool
from arx_verifier.token.caveats import Caveat
from tests.agent.holding import REFUND, ask, bundle, task, task_with, token
from tests.support import AT, QUICK, verifier


@pytest.mark.spec("5.2")
def test_a_delegate_is_named_and_attenuated() -> None:
    """
    The sub-agent may do what is left and nothing else; the giver keeps all of it.
    """
    held = task()
    given_on = Task.from_text(
        held.delegate("acme/worker", tools=["payments.refund"], args={"amount": {"range": [0, 20]}}).encode(),
        now=lambda: AT,
    )
    assert (given_on.agent, given_on.holder, given_on.audiences) == ("acme/support", "acme/worker", ("payments",))
    assert ask(given_on, "payments", "payments.refund", REFUND) == "ok"
    assert ask(given_on, "payments", "payments.refund", {**REFUND, "amount": 21}) == "argument_not_allowed"
    assert ask(given_on, "payments", "payments.refund", {"order_id": "o-2", "amount": 1}) == "argument_not_allowed"
    assert ask(held, "payments", "payments.refund", {**REFUND, "amount": 100}) == "ok"
    assert ask(held, "orders", "orders.get", {"order_id": "o-1"}) == "ok"


def test_a_delegate_touches_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No socket is opened between reading a task and signing a call with what was made of it.
    """

    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    given_on = Task.from_text(task().delegate("acme/worker", ttl="60s").encode())
    assert given_on.call_token("orders", "orders.list", {}).startswith("arx1_")


@pytest.mark.spec("5.2")
def test_one_hop_is_shared_by_the_bundle_and_ends_it_alone() -> None:
    """
    All tokens of a delegation have one link; its kill ends it and what is made of it, not the giver.
    """
    held = task()
    first, second = held.delegate("acme/a"), held.delegate("acme/b")
    third = first.delegate("acme/a/b")
    assert len({held.link, first.link, second.link, third.link}) == 4
    for audience, tool, args in (("orders", "orders.list", {}), ("payments", "payments.refund", REFUND)):
        judge = verifier(audience=audience)
        judge.epochs.kill(f"link:{first.link}")  # type: ignore[attr-defined]
        assert [ask(one, audience, tool, args, judge) for one in (first, third)] == ["revoked", "revoked"]
        assert [ask(one, audience, tool, args, judge) for one in (held, second)] == ["ok", "ok"]


@pytest.mark.spec("6.3")
def test_ttl_and_depth_bind_and_never_give_back() -> None:
    """
    A life counts from the holder's clock; a longer one or a greater depth than there is has no effect.
    """
    short = task().delegate("acme/worker", ttl="60s", depth=1)
    assert (short.expires_at, short.depth) == (AT + 60_000, 1)
    longer = short.delegate("acme/x", ttl="8h", depth=9)
    assert (longer.expires_at, longer.depth) == (AT + 60_000, 0)
    call = longer.call_token("orders", "orders.list", {})
    late = Task.from_text(longer.encode(), now=lambda: AT + 60_000)
    assert call
    assert ask(late, "orders", "orders.list", {}, at=AT + 60_000) == "expired"
    with pytest.raises(AttenuationError, match="depth 0"):
        longer.delegate("acme/y")


def test_an_agent_may_delegate_to_itself_and_attenuate_without_a_hop() -> None:
    """
    A delegation to oneself has a link of its own; ``attenuate`` stays under the same one.
    """
    held = task()
    itself, attenuated = held.delegate("acme/support"), held.attenuate(tools=["orders.*"], ttl="1m")
    assert itself.holder == attenuated.holder == "acme/support"
    assert itself.link != held.link == attenuated.link
    assert (attenuated.audiences, attenuated.expires_at) == (("orders",), AT + 60_000)
    assert ask(attenuated, "orders", "orders.get", {"order_id": "o-1"}) == "ok"


FORMS: list[tuple[dict[str, Any], list[tuple[str, str, dict[str, Any], bool]]]] = [
    # By argument: on every tool that takes it, and on no other.
    ({"amount": 5}, [("payments", "payments.refund", {**REFUND, "amount": 5}, True)]),
    ({"amount": 5}, [("payments", "payments.refund", REFUND, False), ("orders", "orders.list", {}, True)]),
    ({"amount": {"one_of": [5, 6]}}, [("payments", "payments.refund", {**REFUND, "amount": 6}, True)]),
    ({"amount": Constraint(max=5)}, [("payments", "payments.refund", {**REFUND, "amount": 6}, False)]),
    # By tool: the others stay as they were.
    ({"payments.refund": {"amount": {"max": 5}}}, [("payments", "payments.refund", {**REFUND, "amount": 6}, False)]),
    ({"payments.refund": {"amount": {"max": 5}}}, [("orders", "orders.get", {"order_id": "o-1"}, True)]),
    ({"orders.get": {"order_id": "o-2"}}, [("orders", "orders.get", {"order_id": "o-1"}, False)]),
    ({"orders.get": {"order_id": "o-2"}}, [("payments", "payments.refund", REFUND, True)]),
]


@pytest.mark.parametrize(("args", "calls"), FORMS)
def test_args_by_argument_or_by_tool(args: dict[str, Any], calls: list[tuple[str, str, dict[str, Any], bool]]) -> None:
    """
    Both forms take away what they say and leave the rest.
    """
    given_on = task().delegate("acme/worker", args=args)
    for audience, tool, values, allowed in calls:
        assert (ask(given_on, audience, tool, values) == "ok") == allowed


def test_args_reach_into_objects_and_lists() -> None:
    """
    A member, an item and any value are narrowed, and a member that the mint refuses stays refused.
    """
    lines = Constraint(each=Constraint(fields={"sku": Constraint(glob="a-*"), "n": Constraint(max=9)}))
    ship = Constraint(fields={"country": Constraint(one_of=("DE", "FR")), "note": Constraint(any=True)})
    held = task_with(Rule(tool="orders.place", args={"lines": lines, "ship_to": ship}))
    given_on = held.delegate(
        "acme/worker",
        args={
            "ship_to": {"fields": {"country": "DE", "note": {"max_length": 3}, "to": {"any": True, "optional": True}}},
            "lines": {"each": [{"fields": {"n": {"max": 2}}, "open": True}]},
        },
    )
    good = {"lines": [{"sku": "a-1", "n": 2.0}], "ship_to": {"country": "DE", "note": "abc"}}
    assert ask(given_on, "orders", "orders.place", good) == ask(held, "orders", "orders.place", good) == "ok"
    for wrong in (
        {"ship_to": {"country": "FR", "note": "abc"}},
        {"ship_to": {"country": "DE", "note": "abcd"}},
        {"lines": [{"sku": "a-1", "n": 3}]},
        {"lines": [{"sku": "a-1", "n": 1}, {"sku": "a-2", "n": 1}]},
    ):
        assert ask(held, "orders", "orders.place", good | wrong) == "ok"
        assert ask(given_on, "orders", "orders.place", good | wrong) == "argument_not_allowed"
    both = good | {"ship_to": {"country": "DE", "note": "abc", "to": "me"}}
    assert ask(given_on, "orders", "orders.place", both) == "argument_not_allowed"


def test_a_holders_rule_is_open_beside_the_mints_closed_one() -> None:
    """
    Attenuation one argument leaves the others to the mint's rule, which stays closed.
    """
    given_on = task().delegate("acme/worker", args={"amount": {"max": 5}})
    rule = {"tool": "*", "args": {"amount": {"max": 5, "optional": True}}, "open": True}
    assert [value["rules"][1] for value in given_on.describe()["audiences"].values()] == [[rule], [rule]]
    assert ask(given_on, "payments", "payments.refund", {**REFUND, "amount": 5, "x": 1}) == "argument_not_allowed"


def test_under_wide_rules_args_are_by_argument_unless_tools_say_so() -> None:
    """
    Under ``*`` a name could be a tool's or an argument's: it is an argument's, unless the tool is listed.
    """
    wide = task_with(Rule(tool="*"))
    flat = wide.delegate("acme/x", args={"path": {"glob": "a/*"}})
    assert ask(flat, "orders", "read", {"path": "a/b", "other": 1}) == "ok"
    assert ask(flat, "orders", "read", {"path": "b"}) == "argument_not_allowed"
    assert ask(flat, "orders", "status", {}) == "ok"
    by_tool = wide.delegate("acme/x", tools=["read", "ls"], args={"read": {"path": {"glob": "a/*"}}})
    assert ask(by_tool, "orders", "read", {"path": "b"}) == "argument_not_allowed"
    assert ask(by_tool, "orders", "ls", {"path": "b"}) == "ok"
    assert ask(by_tool, "orders", "rm", {"path": "a/b"}) == "tool_not_allowed"


def test_a_tool_that_takes_any_arguments_needs_none() -> None:
    """
    A tool without rules for arguments may not have this one; required of the tool that the holder names, it must come.
    """
    held = task_with(Rule(tool="orders.get"), Rule(tool="orders.pay"))
    given_on = held.delegate("acme/x", args={"amount": {"max": 5}})
    assert ask(given_on, "orders", "orders.get", {"id": 7}) == "ok"
    assert ask(given_on, "orders", "orders.pay", {"amount": 6}) == "argument_not_allowed"
    by_tool = held.delegate("acme/x", args={"orders.pay": {"amount": {"max": 5}}})
    assert ask(by_tool, "orders", "orders.get", {"id": 7}) == "ok"
    assert ask(by_tool, "orders", "orders.pay", {}) == "argument_not_allowed"
    mixed = task_with(
        Rule(tool="orders.get"), Rule(tool="orders.pay", args={"amount": Constraint(max=9, optional=True)})
    )
    given_on = mixed.delegate("acme/x", args={"amount": {"max": 5}})
    assert ask(given_on, "orders", "orders.get", {"id": 7}) == "ok"
    assert ask(given_on, "orders", "orders.pay", {}) == "argument_not_allowed"


MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        {"tools": ["orders.delete"]},
        "no rule of this task allows .*orders.delete.*allows orders.get, orders.list at orders",
    ),
    ({"tools": ["orders.get", "mail.*"]}, "no rule of this task allows .*mail"),
    ({"tools": []}, "tools is empty"),
    ({"tools": ["orders get"]}, "is not a tool's name"),
    ({"tools": ["orders.get"], "audiences": ["payments"]}, "no rule of this task allows"),
    ({"tools": ["orders.get"], "audiences": ["orders", "payments"]}, "no tool would be left at payments"),
    ({"audiences": ["mail"]}, "no token for .*mail"),
    ({"audiences": []}, "no tool would be left"),
    ({"args": {"amuont": 5}}, "takes an argument .*amuont"),
    ({"args": {"payments.refund": {"amuont": 5}}}, "takes an argument .*amuont"),
    ({"args": {"amount": 5}, "tools": ["orders.get"]}, "takes an argument .*amount"),
    ({"args": {"amount": {"rnage": [0, 5]}}}, "unknown field"),
    ({"args": {"amount": {"range": [5, 0]}}}, "lower bound is above"),
    ({"args": {"amount": {}}}, "must test something"),
    ({"args": {"amount": None}}, "args: .*amount"),
    ({"args": {"amount": 0.5}}, "args: .*amount"),
    ({"args": {"payments.refund": {"amount": {"rnage": 1}}}}, "unknown field"),
    ({"args": {"payments.rfund": {"amount": 5}}}, "args by tool may name orders.get"),
    ({"args": {"payments.refund": {"amount": 5}}, "tools": ["payments.*"]}, r"payments\.\* would still allow any"),
    ({"ttl": "soon"}, "ttl: a duration is"),
    ({"ttl": 60}, "ttl: a duration is"),
    ({"ttl": "0s"}, "lives 0 ms"),
    ({"depth": -1}, "depth is a number"),
    ({"depth": 17}, "depth is a number"),
]


@pytest.mark.parametrize(("attenuated", "says"), MISTAKES)
def test_a_delegate_that_would_be_useless_is_refused(attenuated: dict[str, Any], says: str) -> None:
    """
    The holder learns now what a service would refuse every time, with what the task does allow.
    """
    with pytest.raises(AttenuationError, match=says):
        task().delegate("acme/worker", **attenuated)


@pytest.mark.parametrize("to", ["", "Acme", "acme/", "/acme", "acme//x", "acme/x y", "a/" * 8 + "a", "a" * 65])
def test_only_an_agent_path_can_be_delegated_to(to: str) -> None:
    """
    A name that no verifier would read is refused.
    """
    with pytest.raises(AttenuationError, match="is not an agent path"):
        task().delegate(to)


@pytest.mark.spec("6.3")
def test_only_whom_the_task_may_be_delegated_to() -> None:
    """
    The giver gets an error for ``delegate_to``.
    """
    with pytest.raises(AttenuationError, match=r"may be delegated to acme/\*\*, not to other/x"):
        task().delegate("other/x")


def test_a_list_is_not_a_text() -> None:
    """
    A text in place of a list would be read letter by letter: a programmer's mistake.
    """
    with pytest.raises(TypeError, match="list"):
        task().delegate("acme/x", tools="orders.get")
    with pytest.raises(TypeError, match="list"):
        task().delegate("acme/x", audiences="orders")


def test_args_that_can_be_read_in_two_ways_are_refused() -> None:
    """
    A tool and an argument of one name: the holder must say which, and can.
    """
    held = task_with(Rule(tool="search", args={"search": Constraint(max_length=9), "glob": Constraint(max_length=9)}))
    with pytest.raises(AttenuationError, match="by argument and by tool"):
        held.delegate("acme/x", args={"search": {"glob": "a*"}})
    given_on = held.delegate("acme/x", args={"search": {"search": {"glob": "a*"}}})
    assert ask(given_on, "orders", "search", {"search": "ab", "glob": "x"}) == "ok"
    assert ask(given_on, "orders", "search", {"search": "b", "glob": "x"}) == "argument_not_allowed"


@pytest.mark.spec("6.1")
def test_a_widening_caveat_can_be_written_and_has_no_effect() -> None:
    """
    The macaroon itself takes any caveat; conjunction is what keeps it from widening.
    """
    wide = Caveat(allow=(Rule(tool="*"),), depth=16, exp=AT + 10**9)
    held = task(tokens={"orders": token("orders").delegate("acme/x", wide)})
    assert ask(held, "orders", "orders.delete", {}) == "tool_not_allowed"
    assert held.expires_at == bundle().outline.exp


def test_a_task_that_was_delegated_cannot_be_finished() -> None:
    """
    Finishing is the session's; a sub-agent gets an error.
    """
    with pytest.raises(AttenuationError, match="only the session"):
        task().delegate("acme/x").finish()


def test_describe_is_plain_data() -> None:
    """
    What a task allows can be shown, and holds no signature.
    """
    description = task().delegate("acme/x", ttl="60s", depth=0).describe()
    assert (description["holder"], description["depth"], description["expires_at"]) == ("acme/x", 0, AT + 60_000)
    assert description["audiences"]["orders"]["tools"] == ["orders.get", "orders.list"]
    assert description["audiences"]["orders"]["needs_call"]
    assert "signature" not in str(description)


TOOLS = ["orders.get", "orders.list", "orders.*", "payments.refund", "payments.*", "*"]
CONSTRAINTS = st.one_of(
    st.sampled_from(["o-1", "o-2", 0, 20, 100, True]),
    st.fixed_dictionaries({"range": st.lists(st.integers(-5, 120), min_size=2, max_size=2).map(sorted)}),
    st.fixed_dictionaries({"one_of": st.lists(st.sampled_from(["o-1", "o-2", 5, 50]), min_size=1, max_size=3)}),
    st.fixed_dictionaries({"not": st.sampled_from(["o-1", 5]), "optional": st.just(True)}),
)
ARGUMENTS = st.dictionaries(st.sampled_from(["order_id", "amount"]), CONSTRAINTS, max_size=2)
ATTENUATED = st.fixed_dictionaries(
    {},
    optional={
        "tools": st.lists(st.sampled_from(TOOLS), min_size=1, max_size=3),
        "args": st.one_of(ARGUMENTS, st.dictionaries(st.sampled_from(TOOLS), ARGUMENTS, max_size=2)),
        "ttl": st.sampled_from(["1ms", "60s", "8h"]),
        "depth": st.integers(0, 4),
        "audiences": st.lists(st.sampled_from(["orders", "payments"]), min_size=1, max_size=2, unique=True),
    },
)
VALUES = st.fixed_dictionaries(
    {}, optional={"order_id": st.sampled_from(["o-1", "o-2", 5]), "amount": st.sampled_from([-1, 0, 20, 50, 101, "5"])}
)
CALLS = st.tuples(
    st.sampled_from([("orders", "orders.get"), ("orders", "orders.list"), ("payments", "payments.refund")]), VALUES
)


@pytest.mark.spec("6.1")
@settings(QUICK, max_examples=150)
@given(st.lists(ATTENUATED, min_size=1, max_size=3), st.lists(CALLS, min_size=1, max_size=4))
def test_delegating_never_widens(
    steps: list[dict[str, Any]], calls: list[tuple[tuple[str, str], dict[str, Any]]]
) -> None:
    """
    Whatever a task may do after any delegations, it could do before each of them.
    """
    chain = [task()]
    for step in steps:
        try:
            chain.append(chain[-1].delegate("acme/worker", **step))
        except ArxError:
            continue
    for (audience, tool), args in calls:
        allowed = [audience in held.audiences and ask(held, audience, tool, dict(args)) == "ok" for held in chain]
        assert allowed == sorted(allowed, reverse=True)


@pytest.mark.spec("15.1")
@settings(QUICK, max_examples=150)
@given(ATTENUATED, CALLS)
def test_what_a_holder_takes_away_is_gone(
    attenuated: dict[str, Any], call: tuple[tuple[str, str], dict[str, Any]]
) -> None:
    """
    A call that is still allowed keeps the tools, audiences and constraints that the holder asked for.
    """
    (audience, tool), values = call
    try:
        given_on = task().delegate("acme/worker", **attenuated)
    except ArxError:
        return
    if audience not in given_on.audiences or ask(given_on, audience, tool, dict(values)) != "ok":
        return
    assert audience in attenuated.get("audiences", [audience])
    assert any(matches_tool(pattern, tool) for pattern in attenuated.get("tools", [tool]))
    args = attenuated.get("args", {})
    flat = args if not set(args) & set(TOOLS) else args.get(tool, {})
    for name, constraint in flat.items():
        assert name not in values or compile_constraint(read_constraint(constraint))(values[name])
