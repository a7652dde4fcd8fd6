# SPDX-License-Identifier: Apache-2.0
"""In liceat and legant, a caller could pass a constraint by leaving the argument out.

ARx: an argument that a rule names must be there, unless the rule itself says ``optional``.
"""

import pytest

from arx_verifier.constraints.constraint import Constraint, ConstraintLike
from arx_verifier.constraints.rule import Rule
from arx_verifier.token.caveats import Caveat
from tests.support import access, code_of, mint

CONSTRAINTS: list[ConstraintLike] = [
    "a",
    Constraint(max=100),
    Constraint(none_of=("b",)),
    Constraint(not_="b"),
    Constraint(max_length=5),
    Constraint(subset=()),
    Constraint(any_of=("a", Constraint(glob="*"))),
]


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=repr)
@pytest.mark.parametrize("is_open", [False, True])
def test_an_absent_argument_is_refused(constraint: ConstraintLike, is_open: bool) -> None:
    """Left out, misspelt or sent as null, in a closed world and in an open one."""
    token = mint(Caveat(allow=(Rule(tool="*", args={"x": constraint}, open=is_open),))).encode()
    for args in ({}, {"X": "a"}, {"x ": "a"}, {"x": None}, {"y": "a"}):
        assert code_of(token, access(args=args)) == "argument_not_allowed"


def test_only_optional_lets_it_be_absent() -> None:
    """The mint has to say so, and even then a value that is sent must keep the rule."""
    token = mint(Caveat(allow=(Rule(tool="*", args={"x": Constraint(max=100, optional=True)}),))).encode()
    assert code_of(token, access(args={})) == "ok"
    odd: list[object] = [101, None, "5", []]
    for wrong in odd:
        assert code_of(token, access(args={"x": wrong})) == "argument_not_allowed"


def test_a_holder_cannot_make_it_optional() -> None:
    """A later ``optional`` does not speak for an earlier rule."""
    token = mint(Caveat(allow=(Rule(tool="*", args={"x": 1}),)))
    loose = token.attenuate(Caveat(allow=(Rule(tool="*", args={"x": Constraint(equal=1, optional=True)}),)))
    assert code_of(loose.encode(), access(args={})) == "argument_not_allowed"
    assert code_of(loose.encode(), access(args={"x": 1})) == "ok"
