# SPDX-License-Identifier: Apache-2.0
"""One argument: strict kinds, exact numbers, checked operands, and one answer from both roads."""

import math
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arx_verifier import jcs
from arx_verifier.constraints.constraint import Constraint, compile_constraint, read_constraint
from arx_verifier.constraints.rule import Rule, compile_rule, explain, permits, read_rule
from arx_verifier.errors import MalformedTokenError
from arx_verifier.jcs import MAX_INTEGER
from tests.support import unchecked

pytestmark = pytest.mark.spec("7.2")

DECODER = msgspec.json.Decoder(Rule)

# One value of every kind, and the ones that have slipped past limits elsewhere.
VALUES: list[Any] = [
    None, True, False, 0, 1, 2, 5, -1, MAX_INTEGER, MAX_INTEGER + 1, -MAX_INTEGER - 1, 10**400, 0.0, 1.0, 5.0,
    5.5, -0.5, -0.0, float(MAX_INTEGER), 2.0**53,
    1e308, math.nan, math.inf, -math.inf, "", "0", "1", "5", "-1", "5.0", "5.50", "1e1", "+5", " 5", "05",
    "NaN", "Infinity", "true", "a", "b", "a/b", "/a", "/a/b", "/a/../b", "10.0.0.1", "11.0.0.1", "::1",
    "https://a.com/", "https://10.0.0.1/", [], ["a"], ["a", "b"], [1], [True], [1.0], [None], ["a", 1], [["a"]],
    [{}], {}, {"a": 1}, (), ("a",), b"a", {"a"}, object(), "5" * 5000, "\ud800", "\u0665", type("Text", (str,),
    {})("a"), type("Number", (int,), {})(5), Decimal(5),
]  # fmt: skip

MEMBERS: dict[str, list[Any]] = {
    "equal": ["a", "5", 5, 1, True, False, "", ["a", "b"], [1], []],
    "one_of": [["a", "b"], [1, 2], [True], ["a", 1, True]],
    "none_of": [["a"], [1], [False], ["a", 1]],
    "range": [[0, 5], ["0", "5.5"], [-MAX_INTEGER, MAX_INTEGER]],
    "min": [0, "0.5"],
    "max": [5, "5.5"],
    "glob": ["a*", "*"],
    "subpath": ["/a", "/"],
    "url": [{"scheme": "https", "host": "a.com"}],
    "cidr": ["10.0.0.0/8", "::/0"],
    "length": [1, 0],
    "min_length": [1],
    "max_length": [1],
    "contains": [["a"], [1], ["a", "b"]],
    "subset": [["a", "b"], [1], []],
    "any": [True],
    "all_of": [[{"min": 0}, {"max": 5}], ["a"]],
    "any_of": [["a", 5], [{"glob": "/*"}, {"range": [0, 1]}]],
    "not": ["a", {"range": [0, 5]}, {"one_of": ["a", 1]}, {"subpath": "/a"}, {"none_of": ["a"]}],
    "each": [{"max": 5}, ["a", {"length": 1}], []],
    "fields": [{"a": 1}, {"a": {"any": True}, "b": {"max": 0, "optional": True}}, {}],
}
NOT_FLAT = ("all_of", "any_of", "not", "each", "fields")

leaves = st.fixed_dictionaries(
    {}, optional={word: st.sampled_from(operands) for word, operands in MEMBERS.items() if word not in NOT_FLAT}
).filter(bool)
inner = st.sampled_from(["a", 5, True]) | leaves
constraints = st.fixed_dictionaries(
    {}, optional={word: st.sampled_from(operands) for word, operands in MEMBERS.items()}
).filter(bool) | st.fixed_dictionaries(
    {},
    optional={
        "all_of": st.lists(inner, min_size=1, max_size=3),
        "any_of": st.lists(inner, min_size=1, max_size=3),
        "not": inner,
    },
).filter(bool)
HUGE = st.floats().filter(lambda value: _is_huge(value))
values = st.sampled_from(VALUES) | st.text(max_size=5) | st.integers() | st.floats() | st.lists(st.sampled_from(VALUES))


def holds(constraint: Any, value: Any) -> bool:
    return compile_constraint(read_constraint(constraint))(value)


def exactly(value: Any) -> tuple[type, str]:
    """Separate 1 and True, which == does not; 1.0 is 1, as RFC 8785 writes it."""
    if type(value) is list:
        return list, repr([exactly(item) for item in value])
    whole = int(value) if type(value) is float and value.is_integer() else value
    return type(whole), repr(whole)


class TestKinds:
    """A value of a kind that a constraint does not speak of fails it."""

    @pytest.mark.parametrize(
        ("constraint", "takes"),
        [
            ("a", ["a"]),
            ("5", ["5"]),
            (5, [5]),
            (1, [1]),
            (True, [True]),
            (False, [False]),
            ({"one_of": ["a", 1]}, ["a", 1]),
            ({"one_of": [True]}, [True]),
            ({"none_of": [5]}, [0, 1, 2, -1, MAX_INTEGER]),
            ({"none_of": [True]}, [False]),
            ({"range": [0, 5]}, [0, 1, 2, 5]),
            ({"range": ["0", "5.5"]}, [0, 1, 2, 5, 5.5, "0", "1", "5", "5.0", "5.50"]),
            ({"min": 0}, [0, 1, 2, 5, MAX_INTEGER]),
            ({"max": -1}, [-1]),
            ({"min": "4"}, [5, 5.5, MAX_INTEGER, "5", "5.0", "5.50"]),
            ({"not": 5}, [0, 1, 2, -1, MAX_INTEGER]),
            ({"not": {"range": [0, 5]}}, [-1, MAX_INTEGER]),
            ({"not": {"range": ["0", "5"]}}, [-1, -0.5, 5.5, MAX_INTEGER, "-1", "5.50"]),
            ({"not": {"none_of": [1, 2]}}, [1, 2]),
            ({"not": {"subpath": "/a"}, "glob": "*/*"}, ["a/b"]),
            ({"not": {"cidr": "10.0.0.0/8"}}, ["11.0.0.1"]),
            ({"not": {"url": {"scheme": "https", "host": "b.com"}}}, ["https://a.com/"]),
            ({"not": {"contains": ["b"]}}, [[], ["a"]]),
            ({"not": {"subset": ["a"]}}, [["a", "b"]]),
            ({"not": {"equal": True}}, [False]),
            ({"equal": ["a", "b"]}, [["a", "b"]]),
            ({"equal": ["b", "a"]}, []),
            ({"equal": [1]}, [[1]]),
            ({"equal": [True]}, [[True]]),
            ({"equal": []}, [[]]),
            ({"not": {"equal": ["b", "a"]}}, [[], ["a"], ["a", "b"]]),
            ({"not": {"equal": ["a", 1]}}, [[], ["a"], ["a", "b"], [1]]),
            ({"contains": ["a"]}, [["a"], ["a", "b"]]),
            ({"contains": [1]}, [[1]]),
            ({"contains": ["a", 1]}, [["a", 1]]),
            ({"subset": ["a"]}, [[], ["a"]]),
            ({"subset": []}, [[]]),
            ({"subset": [True]}, [[], [True]]),
            ({"length": 0}, ["", []]),
            ({"fields": {"a": 1}}, [{"a": 1}]),
            ({"fields": {"a": {"max": 5}, "b": {"equal": 1, "optional": True}}}, [{"a": 1}]),
            ({"fields": {"b": {"equal": 1, "optional": True}}}, [{}]),
            ({"fields": {"b": {"equal": 1, "optional": True}}, "open": True}, [{}, {"a": 1}]),
            ({"fields": {}}, [{}]),
            ({"each": "a"}, [[], ["a"]]),
            ({"each": ["a"]}, [["a"]]),
            ({"each": ["a", {"max": 5}]}, [["a", 1]]),
            ({"each": [{"fields": {}}]}, [[{}]]),
            ({"each": []}, [[]]),
            ({"each": {"any": True}, "length": 2}, [["a", "b"], ["a", 1]]),
            ({"any": True}, VALUES),
            ({"any": True, "max": 0}, [0, -1]),
            ({"not": {"any": True}}, []),
            ({"any_of": [{"any": True}, "a"], "one_of": ["b", 5]}, [5, "b"]),
            ({"range": [0, 5], "not": 2}, [0, 1, 5]),
            ({"glob": "*", "range": [0, 5]}, []),
        ],
        ids=lambda given: f"{len(given)}-values" if isinstance(given, list) else repr(given),
    )
    def test_it_takes_these_of_all_values_and_no_other(self, constraint: Any, takes: list[Any]) -> None:
        """
        Bools are no integers, text no numbers, fractions no integers; NaN, infinities and huge numbers pass no limit.
        """
        taken = [exactly(value) for value in VALUES if holds(constraint, value)]
        assert taken == [exactly(value) for value in VALUES if exactly(value) in map(exactly, takes)]

    @given(constraints, HUGE | st.none() | st.binary() | st.dictionaries(st.text(), st.integers()))
    def test_huge_floats_and_other_kinds_pass_nothing(self, constraint: Any, value: Any) -> None:
        """
        No constraint but ``any`` and ``fields`` takes NaN, a huge float, null, bytes or an object.
        """
        assume(_is_well_formed(constraint) and not constraint.keys() & {"any", "fields"})
        assume("'any':" not in repr(constraint))
        assert not holds(constraint, value)

    @given(constraints, st.integers(-9, 9) | st.integers(-MAX_INTEGER, MAX_INTEGER), st.lists(st.integers(0, 5)))
    def test_a_whole_number_is_one_value_in_both_spellings(self, constraint: Any, value: int, items: list[int]) -> None:
        """
        RFC 8785 writes 5.0 as 5, so a proof of one is a proof of the other: no constraint separates them.
        """
        assume(_is_well_formed(constraint))
        assert holds(constraint, float(value)) == holds(constraint, value)
        for spelt in (items, ["a", *items], [True, *items]):
            assert holds(constraint, [float(x) if type(x) is int else x for x in spelt]) == holds(constraint, spelt)

    @given(constraints, st.integers(-(10**6), 10**6), st.integers(1, 6))
    def test_a_fraction_passes_what_its_decimal_passes(self, constraint: Any, digits: int, places: int) -> None:
        """
        A number with decimals is no other value than its decimal in text, to all that compares numbers.
        """
        value = digits / 10**places
        assume(_is_well_formed(constraint) and not value.is_integer())
        text = format(Decimal(digits).scaleb(-places), "f")
        if holds(constraint, value):
            assert holds(constraint, text)
        if constraint.keys() <= {"range", "min", "max"}:
            assert holds(constraint, value) == holds(constraint, text)

    @given(leaves, values)
    def test_under_not_an_unspoken_value_fails_too(self, leaf: Any, value: Any) -> None:
        """
        A constraint and its negation never both hold, and a value of no kind the constraint knows fails both.
        """
        assume(_is_well_formed(leaf))
        both = (holds(leaf, value), holds({"not": leaf}, value))
        assert both != (True, True)
        if leaf == {"any": True}:
            assert both == (True, False)
        elif type(value) not in (str, int, float, bool, list) or (type(value) in (int, float) and _is_huge(value)):
            assert both == (False, False)


class TestOperands:
    """What a constraint may say is checked when it is read, whatever the value."""

    @pytest.mark.parametrize(
        "constraint",
        [
            {},
            {"optional": True},
            {"optional": False, "equal": 1, "extra": 1},
            {"range": [5, 0]},
            {"range": ["5.5", "5"]},
            {"range": [0, "5"]},
            {"range": [0]},
            {"range": [0, 1, 2]},
            {"range": [True, True]},
            {"range": ["1.0", "2"]},
            {"range": ["1e3", "2"]},
            {"range": ["", ""]},
            {"range": [None, 1]},
            {"range": [0.5, 1]},
            {"range": [0, MAX_INTEGER + 1]},
            {"min": "1" * 33},
            {"min": "a"},
            {"min": True},
            {"max": 1.5},
            {"max": "-"},
            {"min": 5, "max": 4},
            {"min": "5", "max": "4.9"},
            {"equal": 1.5},
            {"equal": None},
            {"equal": [["a"]]},
            {"equal": ["a", 1.5]},
            {"any_of": [["a"]]},
            {"equal": MAX_INTEGER + 1},
            {"one_of": []},
            {"one_of": ["a", 1.5]},
            {"one_of": "a"},
            {"none_of": []},
            {"contains": []},
            {"contains": [["a"]]},
            {"subset": "a"},
            {"any": False},
            {"any": 1},
            {"any": None, "optional": True},
            {"not": {"any": False}},
            {"length": -1},
            {"length": "1"},
            {"length": True},
            {"min_length": 2, "max_length": 1},
            {"all_of": []},
            {"any_of": []},
            {"any_of": [{}]},
            {"any_of": "ab"},
            {"not": {}},
            {"not": {"not": 1}},
            {"not": {"any_of": [1]}},
            {"not": {"equal": 1, "optional": True}},
            {"any_of": [{"all_of": [1]}]},
            {"all_of": [{"range": [1, 0]}]},
            {"not": {"cidr": "10.0.0.1/8"}},
            {"any_of": ["a", {"glob": ""}]},
            {"url": {"scheme": "https"}},
            {"url": {"host": "a.com"}},
            {"url": {"scheme": "https", "host": "a.com", "query": "x"}},
            {"url": "https://a.com"},
            {"Equal": 1},
            {"equals": 1},
            {"regex": ".*"},
            1.5,
            None,
            [],
            MAX_INTEGER + 1,
        ],
        ids=repr,
    )
    def test_a_bad_operand_is_malformed(self, constraint: Any) -> None:
        """
        Also inside logic, and in a rule whose tool is never asked for.
        """
        with pytest.raises(MalformedTokenError):
            read_constraint(constraint)
        with pytest.raises(MalformedTokenError):
            read_rule({"tool": "t", "args": {"a": constraint}})

    @pytest.mark.parametrize(
        "constraint",
        [
            unchecked(Constraint, equal=1.5),
            unchecked(Constraint, one_of=("a", None)),
            unchecked(Constraint, not_=unchecked(Constraint, not_="a")),
            unchecked(Constraint, any_of=(unchecked(Constraint, optional=True, equal=1),)),
            unchecked(Constraint, range=(0.0, 1.0)),
            unchecked(Constraint, length=1.0),
            math.nan,
            unchecked(Constraint),
            unchecked(Constraint, optional=True),
        ],
        ids=repr,
    )
    def test_a_holder_s_own_struct_is_held_to_the_same(self, constraint: Any) -> None:
        """
        What was built by hand, past the types, is refused before it reaches a token.
        """
        with pytest.raises(MalformedTokenError):
            compile_rule(unchecked(Rule, tool="t", args={"a": constraint}))


class TestLaws:
    """What holds of every constraint."""

    @given(constraints, values, st.booleans(), st.booleans())
    def test_both_roads_agree(self, constraint: Any, value: Any, present: bool, opened: bool) -> None:
        """
        ``permits`` is true exactly when ``explain`` has nothing to say.
        """
        assume(_is_well_formed(constraint))
        rule = read_rule({"tool": "t", "args": {"a": constraint}, **({"open": True} if opened else {})})
        args = {"a": value} if present else {"b": value}
        assert permits(compile_rule(rule), args) == (explain(rule, args, "here") == [])

    @given(constraints, constraints, values)
    def test_adding_a_member_never_widens(self, one: Any, more: Any, value: Any) -> None:
        """
        Members are a conjunction: what two together take, each takes alone.
        """
        both = {**more, **one}
        assume(_is_well_formed(one) and _is_well_formed(both))
        if holds(both, value):
            assert holds(one, value)

    @given(constraints)
    def test_it_survives_the_wire(self, constraint: Any) -> None:
        """
        A rule read from its own canonical form is the same rule.
        """
        assume(_is_well_formed(constraint))
        rule = read_rule({"tool": "t", "args": {"a": constraint}})
        assert jcs.decode(DECODER, jcs.encode(rule)) == rule


def _is_huge(value: Any) -> bool:
    return not abs(value) <= MAX_INTEGER  # NaN as well


def _is_well_formed(constraint: Any) -> bool:
    try:
        read_constraint(constraint)
    except MalformedTokenError:
        return False
    return True
