# SPDX-License-Identifier: Apache-2.0
"""Rules: a closed world of arguments, tools by exact name or below a dot, refusals that say everything."""

from collections import defaultdict
from typing import Any

import pytest

from arx_verifier.constraints.rule import Rule, compile_rule, explain, permits, read_rule
from arx_verifier.errors import MalformedTokenError
from tests.support import unchecked

pytestmark = pytest.mark.spec("7.1")


class TestRule:
    """A closed world of arguments."""

    @pytest.mark.parametrize(
        "tool", ["", ".", "a.", ".a", "a..b", "a*", "a.**", "*.a", "**", ".*", "a b", "a\n", "é", "a" * 97, "a,b"]
    )
    def test_a_tool_s_name_has_a_grammar(self, tool: str) -> None:
        """
        A star stands alone or after a dot at the end.
        """
        with pytest.raises(MalformedTokenError):
            compile_rule(unchecked(Rule, tool=tool))

    def test_an_argument_s_name_is_plain(self) -> None:
        """
        Empty names and characters beyond U+FFFF are refused.
        """
        for name in ("", "\U0001f600"):
            with pytest.raises(MalformedTokenError):
                compile_rule(unchecked(Rule, tool="t", args={name: 1}))

    def permits(self, rule: dict[str, Any], args: Any) -> bool:
        read = read_rule({"tool": "t", **rule})
        assert (explain(read, args, "here") == []) == permits(compile_rule(read), args)
        return permits(compile_rule(read), args)

    def test_no_args_means_any_and_empty_args_none(self) -> None:
        """
        Leaving ``args`` out is the open door; ``{}`` is the closed one.
        """
        assert self.permits({}, {"anything": object()})
        assert self.permits({"args": {}}, {})
        assert not self.permits({"args": {}}, {"a": 1})
        assert not self.permits({"args": {}}, {"a": None})

    def test_an_argument_that_is_missing_or_not_named_is_refused(self) -> None:
        """
        A limit cannot be passed by leaving its argument out or renaming it.
        """
        rule = {"args": {"amount": {"max": 100}, "to": "me"}}
        assert self.permits(rule, {"amount": 5, "to": "me"})
        for args in (
            {},
            {"to": "me"},
            {"amount": 5},
            {"amount": None, "to": "me"},
            {"Amount": 5, "to": "me"},
            {"amount": 5, "to": "me", "cc": "you"},
            {"amount ": 5, "to": "me"},
        ):
            assert not self.permits(rule, args)

    def test_optional_says_may_be_absent_and_no_more(self) -> None:
        """
        Present, an optional argument must keep its test; null is present.
        """
        rule = {"args": {"a": 1, "b": {"max": 5, "optional": True}}}
        assert self.permits(rule, {"a": 1})
        assert self.permits(rule, {"a": 1, "b": 5})
        for args in ({"a": 1, "b": 6}, {"a": 1, "b": None}, {"b": 5}, {"a": 1, "c": 1}, {"a": 1, "b": 5, "c": 1}, {}):
            assert not self.permits(rule, args)

    def test_open_lets_others_through_and_keeps_the_named(self) -> None:
        """
        What a holder writes to attenuate one argument.
        """
        rule = {"args": {"a": 1}, "open": True}
        assert self.permits(rule, {"a": 1, "z": object()})
        assert not self.permits(rule, {"z": 1})
        assert not self.permits(rule, {"a": 2, "z": 1})

    def test_a_mapping_cannot_make_up_what_it_lacks(self) -> None:
        """
        A dict with defaults is asked for what it holds.
        """
        made_up: Any = defaultdict(lambda: 1, {"b": 1})
        assert not self.permits({"args": {"a": 1}}, made_up)
        assert dict(made_up) == {"b": 1}

    @pytest.mark.parametrize(
        ("pattern", "takes", "refuses"),
        [
            (
                "orders.get",
                ["orders.get"],
                ["orders.get.x", "orders.ge", "Orders.get", "", "orders.get ", "x.orders.get"],
            ),
            (
                "orders.*",
                ["orders.get", "orders.get.x"],
                ["orders", "orders.", "orders2.get", "ordersx", "a.orders.get", ""],
            ),
            ("*", ["a", "orders.get"], [""]),
            ("files/Read:v2", ["files/Read:v2"], ["files/read:v2"]),
        ],
    )
    def test_a_tool_is_exact_or_below_a_dot(self, pattern: str, takes: list[str], refuses: list[str]) -> None:
        """
        No tool, the empty name, is matched by nothing.
        """
        compiled = compile_rule(Rule(tool=pattern))
        assert all(map(compiled.matches_tool, takes))
        assert not any(map(compiled.matches_tool, refuses))

    @pytest.mark.spec("13")
    def test_explain_names_every_failing_argument(self) -> None:
        """
        Missing, unnamed, wrong and wrongly typed ones, each with what was expected and what came.
        """
        rule = read_rule(
            {
                "tool": "t",
                "args": {
                    "a": {"range": [0, 5], "not": 3},
                    "b": "x",
                    "c": {"glob": "/*"},
                    "d": True,
                    "e": {"any_of": [1]},
                },
            }
        )
        values = [str(failure) for failure in explain(rule, {"a": "5", "c": "b", "d": 1, "e": 1, "f": [1]}, "caveat 1")]
        assert values == [
            'a must be between 0 and 5, got "5" (not an integer; for decimals, write range = ["0","5"])',
            'a must not satisfy 3, got "5" (of another type)',
            "b must be given, got nothing",
            'c must match "/*", got "b"',
            "d must be true, got 1 (of another type)",
            "f must be left out, got [1]",
        ]

    @pytest.mark.spec("13")
    def test_explain_is_bounded(self) -> None:
        """
        Huge values and names do not make huge refusals, and nothing unprintable is repeated.
        """
        rule = read_rule({"tool": "t", "args": {"a": {"one_of": ["x" * 5000]}}})
        failures = explain(rule, {"a": "\x1b[31m" + "y" * 10**6, "z" * 10**6: 1}, "here")
        assert len(failures) == 2
        assert all(len(str(failure)) < 600 and str(failure).isprintable() for failure in failures)


@pytest.mark.spec("7.4")
def test_weight_counts_every_test() -> None:
    """
    Logic counts itself and what is inside it.
    """
    assert compile_rule(Rule(tool="t")).weight == 1
    assert (
        compile_rule(read_rule({"tool": "t", "args": {"a": 1, "b": {"min": 1, "max": 2, "optional": True}}})).weight
        == 4
    )
    assert (
        compile_rule(read_rule({"tool": "t", "args": {"a": {"any_of": [1, {"min": 1, "max": 2}], "not": "x"}}})).weight
        == 7
    )
