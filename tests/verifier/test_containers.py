# SPDX-License-Identifier: Apache-2.0
"""Members of objects and items of lists: a closed world at every level, and a pinned list is that list."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from arx_verifier.constraints.constraint import Constraint, compile_constraint, read_constraint
from arx_verifier.constraints.rule import Rule, compile_rule, explain, merge, permits, read_rule
from arx_verifier.errors import AttenuationError, MalformedTokenError
from arx_verifier.jcs import jcs
from arx_verifier.limits import MAX_EACH
from tests.support import QUICK

pytestmark = pytest.mark.spec("7.2")


def optional(constraint: Any) -> Any:
    return {**(constraint if type(constraint) is dict else {"equal": constraint}), "optional": True}


NAMES = st.sampled_from(["a", "b", "c d", "\u00e9"])
SCALARS = st.sampled_from(["x", "y", "5", 0, 1, 5, True, False])
NUMBERS = st.sampled_from([0, 1, 5, 5.0, 5.5, -0.0])
VALUES = st.recursive(
    SCALARS | NUMBERS | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.just("z"), inner, max_size=3),
    max_leaves=8,
)
FLAT = SCALARS | st.sampled_from(
    [{"any": True}, {"range": [0, 1]}, {"max": "5.2"}, {"one_of": ["x", 5]}, {"equal": ["x", 5]}]
)
CONSTRAINTS = st.recursive(
    FLAT,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"each": inner | st.lists(inner, max_size=3)}),
        st.fixed_dictionaries(
            {"fields": st.dictionaries(NAMES, inner | inner.map(optional), max_size=3)},
            optional={"open": st.just(True)},
        ),
    ),
    max_leaves=5,
)


def read(constraint: Any) -> Any:
    try:
        return read_constraint(constraint)
    except MalformedTokenError:
        return None


def holds(constraint: Any, value: Any) -> bool:
    return compile_constraint(read_constraint(constraint))(value)


def canonical(value: Any) -> Any:
    """A value as RFC 8785 compares it: numbers by their decimal, true and 1 apart."""
    if type(value) in (int, float):
        return "number", Decimal(repr(value)).normalize() + 0
    if type(value) is list:
        return "list", [canonical(item) for item in value]
    if type(value) is dict:
        return "object", {name: canonical(item) for name, item in value.items()}
    return type(value).__name__, value


def second(constraint: Any, value: Any) -> bool:
    """SPEC 7.2 for these constraints, written down once more and slowly."""
    if type(constraint) is not dict:
        constraint = {"equal": constraint}
    for word, operand in constraint.items():
        kind, canonical_text = canonical(value)
        if word == "any" or word == "optional" or word == "open":
            good = True
        elif word == "equal":
            good = canonical(operand) == (kind, canonical_text)
        elif word == "one_of":
            good = (kind, canonical_text) in map(canonical, operand)
        elif word == "range":
            good = (
                kind == "number"
                and canonical_text == int(canonical_text)
                and operand[0] <= canonical_text <= operand[1]
            )
        elif word == "max":
            good = (kind == "number" or value in ("5", "0")) and Decimal(canonical_text) <= Decimal(operand)
        elif word == "each" and type(operand) is list:
            good = kind == "list" and len(value) == len(operand) and all(map(second, operand, value))
        elif word == "each":
            good = kind == "list" and all(second(operand, item) for item in value)
        else:
            named = all(
                second(part, value[name]) if name in value else type(part) is dict and "optional" in part
                for name, part in (operand.items() if kind == "object" else ())
            )
            good = kind == "object" and named and ("open" in constraint or value.keys() <= operand.keys())
        if not good:
            return False
    return True


def pin(value: Any) -> Any:
    """The constraint of exactly this value, as a policy writes it; a fraction is the decimal in a range."""
    if type(value) is list:
        return {"each": [pin(item) for item in value]}
    if type(value) is dict:
        return {"fields": {name: pin(item) for name, item in value.items()}}
    if type(value) is float and not value.is_integer():
        return {"range": [str(Decimal(repr(value))), str(Decimal(repr(value)))]}
    return int(value) if type(value) is float else value


ROWS = st.lists(st.dictionaries(NAMES, SCALARS | NUMBERS, max_size=3), max_size=3)


@settings(QUICK, max_examples=400)
@given(CONSTRAINTS, VALUES)
def test_it_is_what_a_second_reading_says(constraint: Any, value: Any) -> None:
    """Also of values that are made to fit: what a constraint pins is tried beside what is drawn."""
    assume(read(constraint) is not None)
    assert holds(constraint, value) == second(constraint, value)


@settings(QUICK, max_examples=400)
@given(ROWS, ROWS | VALUES, st.data())
def test_a_pinned_list_of_objects_is_exactly_that_list(pinned: list[Any], other: Any, data: st.DataObject) -> None:
    """In its order, with its length, and nothing more in any object; a number in either spelling."""
    constraint = pin(pinned)
    assert holds(constraint, pinned)
    assert holds(constraint, json.loads(jcs(pinned)))
    changed = json.loads(json.dumps(pinned))
    how = data.draw(st.sampled_from(["order", "more", "less", "member", "missing", "value"]))
    rows = [row for row in changed if row]
    if how == "order":
        changed.reverse()
    elif how == "more":
        changed.append({})
    elif how == "less" and changed:
        changed.pop()
    elif how == "member" and changed:
        changed[-1]["z"] = None
    elif rows:
        name = data.draw(st.sampled_from(sorted(rows[0])))
        if how == "missing":
            del rows[0][name]
        else:
            rows[0][name] = data.draw(SCALARS | st.none() | st.just([]))
    for value in (changed, other):
        # A decimal in text passes a range as well.
        text = "5.5" in repr(pinned) and "5" in repr(value)
        assert holds(constraint, value) == (canonical(value) == canonical(pinned)) or text


@settings(QUICK, max_examples=300)
@given(CONSTRAINTS, VALUES, st.booleans())
def test_both_roads_agree(constraint: Any, value: Any, present: bool) -> None:
    """``permits`` is true exactly when ``explain`` has nothing to say, and a failure names a path of the argument."""
    assume(read(constraint) is not None)
    rule = read_rule({"tool": "t", "args": {"arg": constraint}})
    args = {"arg": value} if present else {}
    found = explain(rule, args, "here")
    assert permits(compile_rule(rule), args) == (found == [])
    assert all(failure.rule.startswith("arg") and len(str(failure)) < 1000 for failure in found)


@settings(QUICK, max_examples=300)
@given(CONSTRAINTS, CONSTRAINTS, VALUES)
def test_two_constraints_never_take_more_than_one(one: Any, other: Any, value: Any) -> None:
    """What a holder adds in a second rule takes away, whatever the first says."""
    assume(read(one) is not None and read(other) is not None)
    rules = [compile_rule(read_rule({"tool": "t", "args": {"a": each}})) for each in (one, other)]
    assert permits(merge(rules), {"a": value}) == all(permits(rule, {"a": value}) for rule in rules)


SHIP = {"fields": {"country": "DE", "zip": {"length": 5}, "note": {"any": True, "optional": True}}}
LINES = {"each": [{"fields": {"sku": "a", "n": 2}}, {"fields": {"sku": "b", "n": {"max": 3}}}]}


@pytest.mark.parametrize(
    ("constraint", "value", "says"),
    [
        (SHIP, {"country": "FR", "zip": "10115"}, ['arg.country must be "DE", got "FR"']),
        (SHIP, {"zip": "10115"}, ["arg.country must be given, got nothing"]),
        (SHIP, {"country": "DE", "zip": "10115", "to": 1}, ["arg.to must be left out, got 1"]),
        (SHIP, [], ['arg must be an object with the fields {"country":"DE","note":', "got [] (not an object)"]),
        (LINES, [{"sku": "a", "n": 2}, {"sku": "b", "n": 4}], ["arg[1].n must be at most 3, got 4"]),
        (LINES, [{"sku": "a", "n": 2}], ['arg must be a list whose items satisfy [{"fields":', "got a list of 1"]),
        ({"each": {"max": 3}}, [1, 9, "x"], ["arg[1] must be at most 3", "arg[2] must be at most 3"]),
        ({"each": {"max": 3}}, {}, ['arg must be a list whose items satisfy {"max":3}', "(not a list of at most 1024"]),
        ({"fields": {"a b": 1}}, {"a b": 2}, ["arg.a b must be 1, got 2"]),
        ({"fields": {}}, {"\n": 2}, ["arg.\\x0a must be left out, got 2"]),
    ],
)
def test_a_refusal_names_the_path(constraint: Any, value: Any, says: list[str]) -> None:
    """The member or the item that is wrong, with what it must be; the whole argument only for another kind."""
    found = explain(read_rule({"tool": "t", "args": {"arg": constraint}}), {"arg": value}, "caveat 2")
    text = "; ".join(map(str, found))
    assert all(part in text for part in says), text


def test_a_refusal_is_bounded() -> None:
    """A caller chooses how many items and members are wrong."""
    rule = read_rule({"tool": "t", "args": {"a": {"each": {"fields": {"x": 1}}}}})
    wrong = [{"x": 2, **{f"y{at}": at for at in range(100)}} for _ in range(MAX_EACH)]
    assert len(explain(rule, {"a": wrong}, "caveat 1")) == 32


def test_a_long_list_passes_no_each() -> None:
    """Each item costs more than one of ``subset``: a list that is too long is refused."""
    assert holds({"each": {"max": 1}}, [0] * MAX_EACH)
    assert not holds({"each": {"max": 1}}, [0] * (MAX_EACH + 1))
    assert not holds({"each": {"any": True}}, [0] * (MAX_EACH + 1))


def nested(levels: int, word: str = "fields") -> Any:
    inner: Any = {"max": 1}
    for _ in range(levels):
        inner = {"fields": {"a": inner}} if word == "fields" else {"each": [inner]}
    return inner


@pytest.mark.parametrize(
    "constraint",
    [
        nested(5),
        nested(5, "each"),
        {"each": nested(4)},
        {"each": {"each": 1}},
        {"each": {"fields": {"a": {"each": 1}}}},
        {"each": {"max": 1, "optional": True}},
        {"each": [{"max": 1, "optional": True}]},
        {"each": {}},
        {"each": None},
        {"each": [["a"]]},
        {"each": [{}]},
        {"each": 1.5},
        {"fields": {"a": None}},
        {"fields": {"a": {}}},
        {"fields": {"a": {"optional": True}}},
        {"fields": {"": 1}},
        {"fields": {"\U0001f600": 1}},
        {"fields": ["a"]},
        {"fields": {"a": {"range": [5, 1]}}},
        {"fields": {"a": 1}, "open": False, "extra": 1},
        {"open": True},
        {"open": True, "max": 1},
        {"open": True, "each": 1},
        {"any_of": [{"fields": {"a": 1}}]},
        {"all_of": [{"each": 1}]},
        {"not": {"fields": {"a": 1}}},
        {"not": {"each": 1}},
    ],
    ids=repr,
)
def test_a_bad_operand_is_malformed(constraint: Any) -> None:
    """Too deep, without a test inside, with what makes no sense there, or where only plain tests may be."""
    with pytest.raises(MalformedTokenError):
        read_constraint(constraint)


def test_it_nests_as_deep_as_it_says() -> None:
    """Four levels of objects, of lists, and of both; and a list of lists where the outer one is pinned."""
    assert holds(nested(4), {"a": {"a": {"a": {"a": 1}}}})
    assert holds(nested(4, "each"), [[[[1]]]])
    assert holds({"each": [{"each": {"max": 1}}, 5]}, [[0, 1], 5])
    assert holds({"each": {"fields": {"a": {"each": [1, 2]}}}}, [{"a": [1, 2]}, {"a": [1, 2.0]}])


def test_a_holder_writes_it_in_python() -> None:
    """Constraints in constraints, or plain data; the error names the place of a mistake inside."""
    typed = Constraint(fields={"country": "DE", "lines": Constraint(each=(Constraint(max=1), "a"))}, open=True)
    plain: Any = {"country": "DE", "lines": {"each": [{"max": 1}, "a"]}}
    assert typed == Constraint(fields=plain, open=True)
    assert compile_rule(Rule(tool="t", args={"a": typed})).weight == 6
    with pytest.raises(AttenuationError, match="nest at most 4 deep"):
        Constraint(fields={"a": read_constraint(nested(4))})
    with pytest.raises(AttenuationError, match="Constraint fields"):
        Constraint(fields={"a": 1.5})  # type: ignore[dict-item]  # on purpose
