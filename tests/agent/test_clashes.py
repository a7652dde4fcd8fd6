# SPDX-License-Identifier: Apache-2.0
"""The check reports that no value satisfies two constraints only where that is so."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from arx_caps.agent.tasks.clashes import may_both_hold
from arx_verifier.constraints.constraint import compile_constraint, read_constraint
from arx_verifier.errors import MalformedTokenError
from tests.support import QUICK


def optional(constraint: Any) -> Any:
    return {**(constraint if type(constraint) is dict else {"equal": constraint}), "optional": True}


SCALARS = st.one_of(st.integers(-3, 6), st.sampled_from(["a", "b", "1.5", "3", "-2", ""]), st.booleans())
NUMBERS = st.one_of(st.integers(-3, 6), st.sampled_from(["-1.5", "0.5", "1.5", "3"]))
LEAVES = st.dictionaries(
    st.sampled_from(["equal", "one_of", "none_of", "range", "min", "max", "glob", "max_length", "subset", "any"]),
    st.one_of(SCALARS, NUMBERS, st.lists(SCALARS, min_size=1, max_size=3), st.lists(NUMBERS, min_size=2, max_size=2)),
    min_size=1,
    max_size=2,
)
PARTS = st.one_of(SCALARS, LEAVES)
CONSTRAINTS = st.one_of(
    PARTS,
    st.fixed_dictionaries({"not": PARTS}),
    st.fixed_dictionaries({"all_of": st.lists(PARTS, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"any_of": st.lists(PARTS, min_size=1, max_size=2)}),
)
NESTED = st.recursive(
    CONSTRAINTS,
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {"each": inner | st.lists(inner, max_size=2)}, optional={"max_length": st.integers(0, 2)}
        ),
        st.fixed_dictionaries(
            {"fields": st.dictionaries(st.sampled_from("xy"), inner | inner.map(optional), max_size=2)},
            optional={"open": st.just(True)},
        ),
    ),
    max_leaves=3,
)
TEXTS = ("a", "b", "c", "", "3", "1.5", "1.25", "-2", "0.75")
FLAT: list[Any] = [*range(-6, 10), *TEXTS, True, False, [], ["a"], [1, 2], 5.0, 1.5, None]
PAIRS = [{"x": x, "y": y} for x in FLAT for y in (0, 1, "a", True, 1.5)]
OBJECTS: list[Any] = [{}, *({name: item} for item in FLAT for name in "xyz"), *PAIRS, {"x": {"x": 1}}, {"x": [0]}]
LISTS: list[Any] = [
    *([item] for item in FLAT),
    *([one, two] for one in (0, 1, "a") for two in FLAT),
    [{}],
    [[]],
    [{"x": 1}],
]
VALUES: list[Any] = [*FLAT, *OBJECTS, *LISTS]


def read(data: Any) -> Any:
    try:
        return read_constraint(data)
    except MalformedTokenError:
        return None


@settings(QUICK, max_examples=600)
@given(NESTED, NESTED)
def test_where_some_value_satisfies_both_nothing_is_reported(one: Any, other: Any) -> None:
    """Values of each kind, between and beside all that a constraint can name here."""
    read_one, read_other = read(one), read(other)
    if read_one is None or read_other is None:
        return
    both = [compile_constraint(each) for each in (read_one, read_other)]
    found = [value for value in VALUES if all(holds(value) for holds in both)]
    assert may_both_hold(read_one, read_other) or not found, (one, other, found)
    assert may_both_hold(read_other, read_one) == may_both_hold(read_one, read_other)
