# SPDX-License-Identifier: Apache-2.0
"""A caller could send arguments nested a hundred deep, where no proof of the call covered them.

SPEC 8.2 gives arguments one form, which has at most 32 levels and no half of a surrogate pair.  It was asked for
where a digest was made of them, and so neither for a token that needs no proof nor for the arguments of an HTTP
request.  A tool that goes down them by recursion, or writes them on, met them.
"""

from typing import Any

import pytest

from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.token.caveats import Caveat
from tests.support import ANYTHING, access, http_call, mint, sign, verifier


def nested(levels: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


FORMLESS = {
    "deep": {"x": nested(32)},
    "deeper": {"x": nested(100)},
    "half a pair": {"x": "\ud800"},
    "half a pair inside": {"x": ["\ud800"]},
    "half a pair as name": {"\ud800": 1},
    "deep in a map": {"x": {"y": nested(31)}},
}


@pytest.mark.parametrize("args", FORMLESS.values(), ids=FORMLESS)
def test_what_has_no_form_is_refused_whatever_carries_it(args: dict[str, Any]) -> None:
    """Without a proof, and in an HTTP request whose proof covers its bytes."""
    token, http = mint(ANYTHING), http_call()
    bare = verifier().decide(token.encode(), access(args=args))
    carried = verifier().decide(sign(token, access(http=http)), access(args=args, http=http))
    assert (bare.code, carried.code) == ("malformed_request", "malformed_request")


def test_what_has_one_is_allowed() -> None:
    """32 levels, the arguments themselves the first; brackets in a text are none."""
    for args in ({"x": nested(31)}, {"x": "[{" * 99}, {"x": [None, {"y": 1}]}):
        assert verifier().decide(mint(ANYTHING).encode(), access(args=args)).code == "ok"


def test_what_a_rule_refuses_is_reported_as_before() -> None:
    """The rule's refusal comes first: it says what the holder may do instead."""
    rule = Rule(tool="orders.get", args={"x": Constraint(max=5)})
    decision = verifier().decide(mint(Caveat(allow=(rule,))).encode(), access(args={"x": float("nan")}))
    assert decision.code == "argument_not_allowed"
