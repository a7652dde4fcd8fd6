# SPDX-License-Identifier: Apache-2.0
"""The compiled tests and rules say what the Python ones say, of arguments of every type."""

import subprocess
import sys
from collections import defaultdict
from types import MappingProxyType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from arx_verifier import compiled, permitting
from arx_verifier.arguments import ABSENT
from tests.support import QUICK
from tests.verifier.twins import ODD, SMALL, TWINS, agree, outcome


class Text(str):
    """Text that is of no exact type."""


ITEMS = st.text(max_size=3) | SMALL | st.booleans() | st.none() | st.floats() | st.just([]) | st.builds(Text)


@QUICK
@given(
    st.dictionaries(st.text(max_size=3) | st.integers() | st.builds(Text, st.text(max_size=2)), ITEMS, max_size=4) | ODD
)
def test_flat_arguments(value: Any) -> None:
    """Arguments of every type, at the edges of integers too."""
    agree("is_flat", value)


VALUES = ITEMS | st.text("ab/*\u20ac", max_size=6) | st.lists(st.integers(), max_size=3) | st.integers(-3, 3)
OPERANDS: dict[str, st.SearchStrategy[Any]] = {
    "same_text": st.tuples(VALUES),
    "within_integers": st.tuples(SMALL | st.integers(-3, 3), SMALL | st.integers(-3, 3)),
    "within_lengths": st.tuples(st.integers(-1, 3), st.integers(0, 4) | SMALL),
    "among": st.tuples(
        st.sampled_from([str, int, bool, Text]), st.frozensets(st.text("ab", max_size=2) | st.integers(-2, 2))
    ),
    "_one_star": st.tuples(st.text("a/", max_size=2), st.text("ab\u20ac", max_size=2)),
}
TESTS = st.sampled_from(sorted(OPERANDS)).flatmap(lambda name: st.tuples(st.just(name), OPERANDS[name]))


@QUICK
@given(TESTS, st.lists(VALUES, min_size=1, max_size=20))
def test_predicates(made: tuple[str, Any], values: list[Any]) -> None:
    """The test that is made of a constraint holds for the same values, of every type; a range says its bounds."""
    name, operands = made
    found, meant = TWINS[name](*operands), compiled.REFERENCES[name](*operands)
    assert getattr(found, "bounds", None) == getattr(meant, "bounds", None)
    for value in (*values, *operands, ABSENT):
        assert outcome(found, value) == outcome(meant, value)
    for args in ((), (1, 2)):
        assert outcome(found, *args)[0] is TypeError


@QUICK
@given(
    st.booleans(),
    st.lists(st.tuples(st.sampled_from("abc"), TESTS), max_size=3, unique_by=lambda test: test[0]),
    st.frozensets(st.sampled_from("abc")),
    st.dictionaries(st.sampled_from("abc"), VALUES, max_size=4) | ODD,
    st.booleans(),
)
def test_rules(closed: bool, made: list[Any], names: frozenset[str], args: Any, exact: bool) -> None:
    """A rule, closed, open or exact, finds the same argument wrong, also in a mapping that is no dict."""
    tests = tuple((name, TWINS[kind](*operands)) for name, (kind, operands) in made)
    names = names | {name for name, _ in tests}
    exact = exact and closed and len(names) == len(tests)
    rule = permitting.CompiledRule("t", None, tests, names, closed, exact, 1)
    agree("wrong_in", rule, args)
    if isinstance(args, dict):
        agree("wrong_in", rule, MappingProxyType(args))
        agree("wrong_in", rule, defaultdict(str, args))


def test_a_test_that_raises() -> None:
    """What a test raises comes through, but for a name that is not there."""

    def raising(value: Any) -> bool:
        raise value

    rule = permitting.CompiledRule("t", None, (("a", raising),), frozenset("a"), True, True, 1)
    for error in (KeyError("a"), ValueError("a")):
        agree("wrong_in", rule, {"a": error})
    assert agree("wrong_in", rule, {"a": KeyError("a")}) == "a"


def test_tests_need_nothing_that_asks_them() -> None:
    """Whoever imports what makes tests alone has a process that lives when they are dropped."""
    code = "from arx_verifier import comparing; comparing.same_text('x'); comparing.within_integers(1, 2)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
