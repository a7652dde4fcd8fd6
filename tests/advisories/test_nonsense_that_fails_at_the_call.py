# SPDX-License-Identifier: Apache-2.0
"""A developer could write a rule, constraint or caveat that no verifier accepts, and learn of it at the call."""

import inspect
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from arx_verifier.constraints import constraint as arguments
from arx_verifier.constraints.constraint import Constraint, FlatConstraint, Url
from arx_verifier.constraints.rule import Rule, compile_rule
from arx_verifier.errors import AttenuationError
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.caveats import Caveat

REALM = UnsafeTestRealm("orders")

NONSENSE: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = {
    "a text where a rule has members": (Rule, ("…bad tool",), {}, 'got "…bad tool"'),
    "a tool that is no name": (Rule, (), {"tool": "…bad tool"}, 'got tool="…bad tool"'),
    "no tool": (Rule, (), {}, "got nothing"),
    "a pair where a constraint belongs": (Rule, (), {"tool": "a", "args": {"n": (1, 20)}}, 'got {"n": (1, 20)}'),
    "an argument without a name": (Rule, (), {"tool": "a", "args": {"": 1}}, "name is empty"),
    "an argument of null": (Rule, (), {"tool": "a", "args": {"n": None}}, "Rule args"),
    "open of no bool": (Rule, (), {"tool": "a", "open": 0}, "Rule open: expected `bool`, got 0"),
    "a constraint of nothing": (
        Constraint,
        (),
        {},
        "Constraint: a constraint must test something, such as { max = 100 } or { any = true }, got nothing",
    ),
    "a constraint that is only optional": (Constraint, (), {"optional": True}, "must test something"),
    "bounds that cross": (Constraint, (), {"min": 5, "max": 1}, "got min=5, max=1"),
    "a range that crosses": (Constraint, (), {"range": (20, 1)}, "got range=(20, 1)"),
    "lengths that cross": (Constraint, (), {"min_length": 3, "max_length": 2}, "min_length is above"),
    "a glob that is none": (Constraint, (), {"glob": "/data/**"}, 'got glob="/data/**"'),
    "a glob of no text": (Constraint, (), {"glob": 5}, "Constraint glob: expected `str | null`, got 5"),
    "a network with host bits": (Constraint, (), {"cidr": "10.0.0.1/8"}, 'got cidr="10.0.0.1/8"'),
    "a fraction": (Constraint, (), {"max": 19.9}, "Constraint max: expected `int | str | null`, got 19.9"),
    "bytes": (Constraint, (), {"equal": b"o-1"}, "Constraint equal: expected"),
    "half of a surrogate pair": (Constraint, (), {"equal": "\ud800"}, "surrogate"),
    "an object": (Constraint, (), {"equal": object()}, "got equal=a object"),
    "a word that is none": (Constraint, (), {"maximum": 3}, "got maximum=3"),
    "a choice among nothing": (Constraint, (), {"one_of": ()}, "got one_of=()"),
    "logic in logic": (Constraint, (), {"any_of": ({"any_of": ("a",)},)}, "Constraint any_of[0]"),
    "a leaf of nothing": (FlatConstraint, (), {}, "FlatConstraint: a constraint must test something"),
    "a port": (Url, (), {"scheme": "https", "host": "a.example", "port": 0}, "Url port: expected `int` >= 1, got 0"),
    "a scheme": (Url, (), {"scheme": "HTTPS", "host": "a.example"}, 'got scheme="HTTPS"'),
    "a caveat of nothing": (Caveat, (), {}, "Caveat: an empty caveat restricts nothing"),
    "no rule": (Caveat, (), {"allow": ()}, "Caveat allow: expected such as"),
    "a text where rules belong": (Caveat, (), {"allow": ("orders.get",)}, 'got ("orders.get",)'),
    "a network that is none": (Caveat, (), {"net": ("10.0.0.1/8",)}, 'got net=("10.0.0.1/8",)'),
    "a time that is no integer": (Caveat, (), {"exp": "soon"}, 'Caveat exp: expected `int | null`, got "soon"'),
    "a time before time": (Caveat, (), {"exp": -1}, "Caveat exp: expected `int` >= 0, got -1"),
    "a proof that is none": (Caveat, (), {"require": ("pop",)}, 'got require=("pop",)'),
    "a link without a name": (Caveat, (), {"to": "acme/worker"}, "come together"),
    "a budget that is none": (Caveat, (), {"spend": 1}, "Caveat spend: expected `array | null`, got 1"),
    "a tool's name for a caller": (REALM.caller, ("orders.get",), {}, 'got ("orders.get",)'),
    "no rule for a caller": (REALM.caller, (), {}, "Caveat allow: expected such as"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_refused_where_it_is_written(case: str) -> None:
    """The error names what failed, what was expected and what was written."""
    make, args, members, says = NONSENSE[case]
    with pytest.raises(AttenuationError) as refused:
        make(*args, **members)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_sub_agent_is_given_rules_and_no_names() -> None:
    """A delegation of the test realm is held to the same."""
    caller = REALM.caller(Rule(tool="orders.get"))
    with pytest.raises(AttenuationError, match="Caveat allow"):
        caller.delegate("test/worker", "orders.get")  # type: ignore[arg-type]  # on purpose


def test_what_is_written_has_the_form_that_is_read() -> None:
    """Lists, sets and plain dicts become what a verifier reads of them, so that two ways to write are equal."""
    listed: Any = ["eu", "us"]
    assert Constraint(one_of=listed) == Constraint(one_of=("eu", "us"))
    plain: Any = [{"tool": "orders.get", "args": {"n": {"max": 3}}}]
    caveat = Caveat(allow=plain)
    assert caveat == Caveat(allow=(Rule(tool="orders.get", args={"n": Constraint(max=3)}),))
    assert msgspec.json.decode(caveat.encode(), type=Caveat) == caveat


def test_writing_warms_no_verifier() -> None:
    """No compiled test is kept of what is only written: the first sight of it costs what it costs."""
    constraint = Constraint(equal="written and never compiled")
    rule = Rule(tool="orders.get", args={"note": constraint})
    raw = b'{"equal":"written and never compiled"}'
    assert arguments._KEPT.get(raw) is None
    compile_rule(rule)
    assert arguments._KEPT.get(raw) is not None


@pytest.mark.parametrize("kind", [Constraint, Url, Rule, Caveat])
def test_help_lists_every_member(kind: type[msgspec.Struct]) -> None:
    """``help`` says what each member means, and the signature names them."""
    described = inspect.getdoc(kind) or ""
    for member in kind.__struct_fields__:
        assert f"    {member}: " in described
        assert member in inspect.signature(kind).parameters
