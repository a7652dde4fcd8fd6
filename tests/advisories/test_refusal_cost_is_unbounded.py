# SPDX-License-Identifier: Apache-2.0
"""A holder could make one refusal occupy a service's event loop for seconds and answer 50 MB.

A holder attenuated its token to thirty rules ``{"args":{}}`` and sent twenty thousand arguments: each of six hundred
thousand failures was explained, recorded and sent back.  With a list of half a million numbers and fifteen rules about
lists, each item was looked at by several Python functions, sixty times: eighteen seconds.
"""

from typing import Any

import pytest

from arx_verifier.constraints import scalars, text
from arx_verifier.constraints.rule import MAX_TOLD, Rule, explain
from arx_verifier.jcs import MAX_INTEGER
from arx_verifier.token.caveats import Caveat
from tests.support import access, mint, verifier

ARGUMENTS = {f"a{number}": number for number in range(1000)}


@pytest.mark.parametrize(
    "rule",
    [
        Rule(tool="*", args={}),
        Rule(tool="*", args={"zz": 1}, open=True),
        Rule(tool="*", args={f"a{number}": "x" for number in range(40)}, open=True),
    ],
    ids=["unnamed", "absent", "wrong"],
)
def test_a_refusal_reports_a_few_failures(rule: Rule) -> None:
    """However many arguments fail, and in however many rules."""
    token = mint().attenuate(Caveat(allow=(rule,) * 3), Caveat(allow=(rule,))).encode()
    decision = verifier().decide(token, access(args=ARGUMENTS))
    assert decision.code == "argument_not_allowed"
    assert len(decision.failures) == 1
    assert 1 <= len(decision.all_failures()) <= MAX_TOLD
    assert decision.sequence


def test_every_failure_is_reported_while_they_are_few() -> None:
    """The bound cuts off the rest and invents nothing."""
    rule = Rule(tool="*", args={f"a{number}": "x" for number in range(MAX_TOLD + 5)}, open=True)
    assert [failure.rule for failure in explain(rule, ARGUMENTS, "here")] == [f"a{n} equal" for n in range(MAX_TOLD)]
    few = Rule(tool="*", args={"a1": 1, "a2": 1, "b": 1}, open=True)
    assert [failure.rule for failure in explain(few, ARGUMENTS, "here")] == ["a2 equal", "b"]


class Watched(list[Any]):
    """Not a list by type: no test speaks of it."""


@pytest.mark.parametrize("make", [scalars.contains, scalars.subset], ids=["contains", "subset"])
def test_lists_mean_what_they_meant(make: Any) -> None:
    """True is not 1, also in a set; an item of a kind that is not spoken of fails the whole, also under ``not``."""
    speaks, holds = make((1, "a"))
    for value in (
        [1, True],
        [float("nan"), "a"],
        [1, "a", None],
        [[1]],
        [2**53],
        [-(2**53), 1, "a"],
        "1a",
        {1: "a"},
        (1, "a"),
    ):
        assert not speaks(value)
        assert not holds(value)
    assert not speaks(Watched([1]))
    assert speaks([MAX_INTEGER, "b"])
    assert holds([1, "a", 1.0])  # RFC 8785 writes 1.0 as 1: one value
    speaks, holds = make((True,))
    assert not speaks([1])
    assert holds([True])


def test_a_path_is_searched_only_below_its_operand() -> None:
    """A megabyte that begins elsewhere costs one comparison."""
    _, holds = text.subpath("/srv")
    assert not holds("/srvx/" + "a" * 100)
    assert not holds("/srv/../etc")
    assert holds("/srv")
    assert holds("/srv/a")
    assert not text.subpath("/")[1]("a/b")
