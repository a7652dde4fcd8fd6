# SPDX-License-Identifier: Apache-2.0
"""The policy: what it grants is what it says."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.mint.policy import model as policy_module
from arx_caps.mint.policy.model import Policy, TaskGrant
from arx_verifier.constraints.rule import compile_rule, permits, read_rule
from arx_verifier.errors import GrantError
from tests.mint.harness import REFUNDS

SAMPLE = Path(policy_module.__file__).with_name("sample_policy.toml")

AGENT = "acme/support/triage"
GOOD = {"order_id": "o-1", "amount": 40, "fast": True}


def policy(text: str = REFUNDS) -> Policy:
    return Policy.parse(text, "policy.toml")


def allowed(grant: TaskGrant, audience: str, tool: str, args: dict[str, Any]) -> bool:
    compiled = [compile_rule(rule) for rule in grant.rules.get(audience, ())]
    if not any(rule.matches_tool(tool) and permits(rule, args) for rule in compiled):
        return False
    fewer = [compile_rule(rule) for rule in grant.fewer_tools.get(audience, ())]
    return not grant.fewer_tools or any(rule.matches_tool(tool) for rule in fewer)


class TestGrant:
    def test_it_grants_the_rules_with_the_values_in_their_places(self) -> None:
        """
        Each audience gets its own rules; types stay what they were; ``$$`` is one dollar.
        """
        grant = policy().grant("refund", AGENT, GOOD)
        assert list(grant.rules) == ["orders", "payments"]
        assert grant.rules["orders"] == (read_rule({"tool": "orders.get", "args": {"order_id": "o-1"}}),)
        assert grant.rules["payments"] == (
            read_rule(
                {"tool": "payments.refund", "args": {"order_id": "o-1", "amount": {"range": [0, 40]}, "fast": True}}
            ),
            read_rule({"tool": "payments.*", "args": {"note": "$5"}}),
        )
        call = {"order_id": "o-1", "amount": 40, "fast": True}
        assert allowed(grant, "payments", "payments.refund", call)
        for wrong in ({"amount": 41}, {"fast": 1}, {"order_id": "o-2"}, {"amount": "40"}, {"extra": 1}):
            assert not allowed(grant, "payments", "payments.refund", {**call, **wrong})
        assert not allowed(grant, "orders", "payments.refund", call)

    def test_an_argument_may_have_any_value(self) -> None:
        """
        It is named and still required; the other arguments keep their constraints.
        """
        text = REFUNDS.replace(
            '{ note = "$$5" }', '{ note = { any = true }, to = "me", x = { any = true, optional = true } }'
        )
        grant = policy(text).grant("refund", AGENT, GOOD)
        for note in ("a", 5, 5.5, None, {"a": [{}]}, []):
            assert allowed(grant, "payments", "payments.x", {"note": note, "to": "me"})
            assert allowed(grant, "payments", "payments.x", {"note": note, "to": "me", "x": note})
            assert not allowed(grant, "payments", "payments.x", {"note": note, "to": "you"})
            assert not allowed(grant, "payments", "payments.x", {"note": note, "to": "me", "y": note})
        assert not allowed(grant, "payments", "payments.x", {"to": "me"})

    def test_parameters_stand_inside_objects_and_lists(self) -> None:
        """
        Wherever a whole value may be; a value is data there too, and a name has ``$$`` for a dollar.
        """
        written = (
            '{ ship_to = { fields = { id = "$order_id", "$$x" = { any = true, optional = true } } }, '
            'lines = { each = [{ fields = { n = { range = [1, "$amount"] }, of = "$order_id" } }, "$fast"] }, '
            'all = { each = { max = "$amount" } } }'
        )
        grant = policy(REFUNDS.replace('{ note = "$$5" }', written)).grant("refund", AGENT, {**GOOD, "order_id": "$$5"})
        good: dict[str, Any] = {
            "ship_to": {"id": "$$5", "$x": 1},
            "lines": [{"n": 40, "of": "$$5"}, True],
            "all": [1, 40],
        }
        assert allowed(grant, "payments", "payments.x", good)
        for wrong in (
            {"ship_to": {"id": "$5"}},
            {"ship_to": {"id": "$$5", "y": 1}},
            {"lines": [{"n": 41, "of": "$$5"}, True]},
            {"lines": [{"n": 40, "of": "$$5"}, True, True]},
            {"lines": [{"n": 40, "of": "$$5"}, 1]},
            {"all": [1, 41]},
        ):
            assert not allowed(grant, "payments", "payments.x", {**good, **wrong})

    def test_what_is_not_written_has_its_default(self) -> None:
        """
        A proof with each call, delegations within the agent's own first segment, four deep.
        """
        grant = policy().grant("refund", AGENT, GOOD)
        assert (grant.ttl_ms, grant.depth, grant.limits) == (600_000, 4, {"require": ("call",)})
        assert grant.delegate_to == ("acme/**",)
        assert grant.origins["payments"] == ("https://pay.example.com", "http://[::1]:9002")
        assert grant.fewer_tools == {}

    def test_what_is_written_is_kept(self) -> None:
        """
        Depth, receivers, proofs, freshness and networks come out as the policy says.
        """
        text = (
            REFUNDS
            + 'depth = 1\ndelegate_to = ["acme/x"]\nrequire = []\nfresh = "0ms"\nnet = ["10.0.0.0/8", "::1/128"]\n'
        )
        grant = policy(text).grant("refund", AGENT, GOOD)
        assert (grant.depth, grant.delegate_to) == (1, ("acme/x",))
        assert grant.limits == {"require": (), "fresh": 0, "net": ("10.0.0.0/8", "::1/128")}

    def test_less_can_be_asked_for(self) -> None:
        """
        A shorter life, fewer delegations, fewer tools; an audience without any of these gets nothing.
        """
        grant = policy().grant("refund", AGENT, GOOD, ttl="30s", depth=0, tools=["payments.refund"])
        assert (grant.ttl_ms, grant.depth) == (30_000, 0)
        assert list(grant.rules) == list(grant.fewer_tools) == list(grant.origins) == ["payments"]
        assert allowed(grant, "payments", "payments.refund", GOOD)
        assert not allowed(grant, "payments", "payments.void", {"note": "$5"})

    @pytest.mark.parametrize(
        "more",
        [
            {"ttl": "11m"},
            {"ttl": "0s"},
            {"ttl": "ten"},
            {"ttl": 60},
            {"depth": 5},
            {"depth": -1},
            {"depth": True},
            {"tools": []},
            {"tools": ["orders.delete"]},
            {"tools": ["orders"]},
            {"tools": ["orders.get", "**"]},
            {"tools": ["refunds.*"]},
        ],
        ids=str,
    )
    def test_more_cannot(self, more: dict[str, Any]) -> None:
        """
        What exceeds the template is refused, not quietly cut.
        """
        with pytest.raises(GrantError) as caught:
            policy().grant("refund", AGENT, GOOD, **more)
        assert caught.value.code == "bad_parameters"
        assert [failure.rule for failure in caught.value.failures] == list(more)

    @given(
        tools=st.lists(st.sampled_from(["orders.get", "orders.*", "*", "payments.*", "payments.refund"]), min_size=1)
    )
    def test_asking_for_fewer_tools_never_adds_one(self, tools: list[str]) -> None:
        """
        What an attenuated task may do, the whole one may do.
        """
        whole, attenuated = policy().grant("refund", AGENT, GOOD), policy().grant("refund", AGENT, GOOD, tools=tools)
        for tool in ("orders.get", "orders.x", "payments.refund", "payments.x", "x"):
            for args in ({"order_id": "o-1"}, GOOD, {"note": "$5"}):
                for audience in ("orders", "payments"):
                    if allowed(attenuated, audience, tool, args):
                        assert allowed(whole, audience, tool, args)

    def test_every_parameter_that_does_not_fit_is_named(self) -> None:
        """
        Missing, unknown and wrong ones together, each with what was expected and what came.
        """
        with pytest.raises(GrantError) as caught:
            policy().grant("refund", AGENT, {"order_id": 123, "amount": 101, "colour": "red"}, ttl="1h")
        assert caught.value.code == "bad_parameters"
        assert [(failure.rule, failure.came) for failure in caught.value.failures] == [
            ("order_id length", "123 (not text or a list)"),
            ("amount range", "101"),
            ("fast", "nothing"),
            ("colour", '"red"'),
            ("ttl", '"1h"'),
        ]

    @pytest.mark.parametrize(
        "value",
        [-1, 101, 40.5, 1e300, float("nan"), float("inf"), True, "40", None, [40], {"equal": 40}, 10**30, "$amount"],
        ids=repr,
    )
    def test_a_value_of_another_kind_passes_no_limit(self, value: Any) -> None:
        """
        Negative, huge, NaN, text, bool, list and object are refused where an integer in a range is asked for.
        """
        with pytest.raises(GrantError):
            policy().grant("refund", AGENT, {**GOOD, "amount": value})

    def test_a_whole_number_is_an_integer_in_either_spelling(self) -> None:
        """
        40.0 is 40, as RFC 8785 writes it; the token has the integer.
        """
        granted = policy().grant("refund", AGENT, {**GOOD, "amount": 40.0})
        assert granted.rules == policy().grant("refund", AGENT, {**GOOD, "amount": 40}).rules

    def test_a_list_is_no_parameter_though_it_has_a_length(self) -> None:
        """
        A parameter is one value, not a huge one, and no half of a character.
        """
        text = REFUNDS.replace("{ length = 3 }", "{ min_length = 0 }")
        for value in (["a", "b", "c"], [], "x" * 1025, "\ud800"):
            with pytest.raises(GrantError) as caught:
                policy(text).grant("refund", AGENT, {**GOOD, "order_id": value})
            assert [failure.rule for failure in caught.value.failures] == ["order_id"]

    @pytest.mark.parametrize("value", [None, 5.5, 1e300, 10**30, [], {}], ids=repr)
    def test_any_value_of_a_parameter_is_a_scalar_that_json_carries(self, value: Any) -> None:
        """
        A refusal names the parameter, not the rule that it would be in.
        """
        text = REFUNDS.replace("{ length = 3 }", "{ any = true }")
        with pytest.raises(GrantError) as caught:
            policy(text).grant("refund", AGENT, {**GOOD, "order_id": value})
        assert [failure.rule for failure in caught.value.failures] == ["order_id"]

    def test_a_value_is_data_and_nothing_else(self) -> None:
        """
        Text that looks like a parameter, a pattern or an escape is that very text in the rule.
        """
        text = REFUNDS.replace("{ length = 3 }", "{ min_length = 1 }")
        for value in ("$amount", "$$x", "*", "o-*", "**", "..", '"', "\x00", "\U0001f600"):
            grant = policy(text).grant("refund", AGENT, {**GOOD, "order_id": value})
            assert allowed(grant, "orders", "orders.get", {"order_id": value})
            assert not allowed(grant, "orders", "orders.get", {"order_id": "o-1"})

    def test_a_task_of_another_agent_is_as_unknown_as_a_missing_one(self) -> None:
        """
        The refusal lists what this agent may start, and nothing that others may.
        """
        extra = REFUNDS + REFUNDS[REFUNDS.index("[task.refund]") :].replace("refund]", "secret]").replace(
            "support/*", "boss"
        )
        for template, agent, may in (
            ("secret", AGENT, "refund"),
            ("nothing", AGENT, "refund"),
            ("refund", "acme/support", "none"),
            ("refund", "acme/support/a/b", "none"),
            ("refund", "acme/boss", "secret"),
        ):
            with pytest.raises(GrantError) as caught:
                policy(extra).grant(template, agent, GOOD)
            assert caught.value.code == "unknown_task"
            assert f"{agent} may start ({may})" in str(caught.value)

    def test_values_that_cross_are_refused(self) -> None:
        """
        A range whose filled-in bound lies below the other is a refusal, not an empty or a wider rule.
        """
        text = REFUNDS.replace('amount = { range = [0, "$amount"] }', 'amount = { range = [50, "$amount"] }')
        with pytest.raises(GrantError) as caught:
            policy(text).grant("refund", AGENT, GOOD)
        assert caught.value.code == "bad_parameters"
        assert policy(text).grant("refund", AGENT, {**GOOD, "amount": 50})


class TestSession:
    def test_terms_are_found_by_pattern(self) -> None:
        """
        Who is not named opens nothing.
        """
        assert policy().may_open("acme/support/triage").ttl_ms == 8 * 3_600_000
        for agent in ("acme2/x", "other"):
            with pytest.raises(GrantError) as caught:
                policy().may_open(agent)
            assert caught.value.code == "session_not_allowed"

    def test_of_several_terms_the_shortest_holds(self) -> None:
        """
        Whatever the order in the file: a narrower section cannot be undone by a wider one.
        """
        several = REFUNDS.replace("[session]", "[session.all]") + '[session.short]\nagents = ["acme/x"]\nttl = "5m"\n'
        assert policy(several).may_open("acme/x").name == "short"
        assert policy(several).may_open("acme/y").name == "all"

    def test_no_section_admits_no_caller(self) -> None:
        """
        An empty policy is a policy that grants nothing.
        """
        with pytest.raises(GrantError):
            policy("").may_open("acme")
        with pytest.raises(GrantError):
            policy("").grant("x", "acme", {})


class TestDigest:
    def test_it_names_what_the_policy_says(self) -> None:
        """
        Comments, spacing and order do not change it; any meaning does.
        """
        digest = policy().digest
        assert len(digest) == 22
        assert policy("# hello\n" + REFUNDS.replace("ttl = ", "ttl    =   ")).digest == digest
        for old, new in (
            ("8h", "9h"),
            ("[0, 100]", "[0, 101]"),
            ("acme/**", "acme/*"),
            ("9001", "9003"),
            ("$$5", "$$6"),
        ):
            assert policy(REFUNDS.replace(old, new)).digest != digest


def test_the_sample_grants_what_its_comments_say() -> None:
    """
    The file that a new realm begins with is a policy; its refund stops at the amount asked for.
    """
    sample = Policy.load(SAMPLE)
    assert sample.may_open("acme/support/triage").ttl_ms == 8 * 3_600_000
    grant = sample.grant("refund", "acme/support/triage", {"order_id": "o-1", "amount": 40})
    assert allowed(grant, "payments", "payments.refund", {"order_id": "o-1", "amount": 40})
    assert not allowed(grant, "payments", "payments.refund", {"order_id": "o-1", "amount": 41})
    assert not allowed(grant, "payments", "payments.refund", {"order_id": "o-2", "amount": 1})
    assert list(sample.grant("lookup", "acme/support/triage", {"order_id": "o-1"}).rules) == ["orders"]
    with pytest.raises(GrantError):
        sample.grant("refund", "acme/support/triage", {"order_id": "o-1", "amount": 101})
