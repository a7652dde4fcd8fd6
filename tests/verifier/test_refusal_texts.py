# SPDX-License-Identifier: Apache-2.0
"""The sentences of refusals: what must hold, which caveat requires it, and the value of the call."""

from typing import Any

import pytest

from arx_verifier.constraints.constraint import MEMBERS, Constraint, ConstraintLike, FlatConstraint, Url
from arx_verifier.constraints.rule import Rule, explain
from arx_verifier.errors import Failure, refusal, sentence_of
from arx_verifier.refusal_text import refusal_for_model, waiting_for_model
from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.reasons import too_early, too_late, too_new
from tests.support import AT, access, mint, sign, verifier

SITE = Url(scheme="https", host="*.example.com")
ARGUMENTS: list[tuple[ConstraintLike, Any, str]] = [
    ("o-1", "o-2", 'must be "o-1", got "o-2"'),
    (
        Constraint(max=20),
        19.99,
        'must be at most 20, got 19.99 (not an integer; for decimals, write max = "20")',
    ),
    (
        Constraint(range=(-1, 20)),
        "1.5",
        'must be between -1 and 20, got "1.5" (not an integer; for decimals, write range = ["-1","20"])',
    ),
    (Constraint(max=20), True, "must be at most 20, got true (not an integer)"),
    (Constraint(max=20), None, "must be at most 20, got null (not an integer)"),
    (3, "3", 'must be 3, got "3" (of another type; for text, write "3")'),
    ("3", 3, 'must be "3", got 3 (of another type; for numbers, write 3)'),
    ("o-1", 5, 'must be "o-1", got 5 (of another type)'),
    (Constraint(one_of=("EUR", "USD")), "GBP", 'must be one of ["EUR","USD"], got "GBP"'),
    (Constraint(none_of=("a",)), "a", 'must be none of ["a"], got "a"'),
    (Constraint(range=(1, 20)), 50, "must be between 1 and 20, got 50"),
    (Constraint(range=("1.5", "2")), True, 'must be between "1.5" and "2", got true (not a number or a '),
    (Constraint(min=3), 1, "must be at least 3, got 1"),
    (Constraint(max=20), 50, "must be at most 20, got 50"),
    (Constraint(glob="o-*"), "x", 'must match "o-*", got "x"'),
    (Constraint(subpath="/srv/a"), "/etc", 'must be a path at or below "/srv/a", got "/etc"'),
    (
        Constraint(url=SITE),
        "http://a.example",
        'must be a URL with {"host":"*.example.com","scheme":"https"}',
    ),
    (Constraint(cidr="10.0.0.0/8"), "11.0.0.1", 'must be an address in "10.0.0.0/8", got "11.0.0.1"'),
    (Constraint(length=3), "ab", 'must have a length of 3, got "ab"'),
    (Constraint(min_length=3), "ab", 'must have a length of at least 3, got "ab"'),
    (Constraint(max_length=3), 9, "must have a length of at most 3, got 9 (not text or a list)"),
    (Constraint(contains=(1, 2)), [1], "must contain all of [1,2], got [1]"),
    (Constraint(subset=(1, 2)), [3], "must have only items of [1,2], got [3]"),
    (Constraint(all_of=(FlatConstraint(max=3),)), 9, 'must satisfy all of [{"max":3}], got 9'),
    (Constraint(any_of=("a", "b")), "c", 'must satisfy one of ["a","b"], got "c"'),
    (Constraint(not_="a"), "a", 'must not satisfy "a", got "a"'),
]


@pytest.mark.parametrize(("constraint", "value", "text"), ARGUMENTS)
def test_an_argument_is_refused_in_a_sentence(constraint: ConstraintLike, value: Any, text: str) -> None:
    """
    It has the argument, what the constraint requires and the value, in this order.
    """
    [failure] = explain(Rule(tool="t", args={"amount": constraint}), {"amount": value}, "caveat 2")
    assert str(refusal("argument_not_allowed", [failure])).startswith(f"argument not allowed: amount {text}")


def test_each_constraint_has_a_sentence() -> None:
    """
    A new member without words of its own would read "amount newmember must be".
    """
    for word in MEMBERS:
        assert str(Failure("caveat 1", f"amount {word}", "1", "2")).startswith("amount must")


@pytest.mark.parametrize("name", ["tool", "exp", "shape", "amount max"])
def test_an_argument_can_have_the_name_of_a_rule(name: str) -> None:
    """
    A missing or an unnamed one is the argument all the same.
    """
    missing = explain(Rule(tool="t", args={name: 1}), {}, "caveat 1")
    unnamed = explain(Rule(tool="t", args={}), {name: 1}, "caveat 1")
    assert [str(failure) for failure in (*missing, *unnamed)] == [
        f"{name} must be given, got nothing",
        f"{name} must be left out, got 1",
    ]


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (too_late("token", AT, AT + 562), "the token must be used before 2027-01-15 08:00:00.000Z, got "),
        (too_late("token", AT, AT + 562), "2027-01-15 08:00:00.562Z, 562 ms later"),
        (
            too_early("caveat 2", AT, AT - 45_000),
            "the token must be used at 2027-01-15 08:00:00.000Z or later",
        ),
        (too_early("caveat 2", AT, AT - 45_000), "got 2027-01-15 07:59:15.000Z, 45 s earlier"),
        (too_new(AT + 99_400, AT), "at most 60 s after 2027-01-15 08:00:00.000Z, the time here, got"),
        (too_late("token", 2**53, 2**53), "before 9007199254740992 ms after 1970"),
    ],
)
def test_a_time_is_refused_with_both_times_and_the_difference(failure: Failure, text: str) -> None:
    """
    In UTC, to the millisecond.
    """
    assert text in str(failure)


TOKEN = mint(Caveat(allow=(Rule(tool="orders.get"),), aud=("orders",), depth=1, delegate_to=("acme/*",)))
CHAINS = {
    "too deep: depth must be at least 1 for a further delegation, got 0 before acme/b": ("acme/a", "acme/b"),
    "name not allowed: the next holder must match acme/*, got sales": ("sales",),
}


@pytest.mark.parametrize("text", CHAINS)
def test_a_chain_is_refused_in_a_sentence(text: str) -> None:
    """
    With the restriction that it violates.
    """
    token = TOKEN
    for holder in CHAINS[text]:
        token = token.attenuate(Caveat(to=holder, hop="AAAAAAAAAAAA"))
    decision = verifier().decide(token.encode(), access())
    assert sentence_of(decision.code, decision.all_failures()) == text


def test_a_call_is_refused_in_a_sentence() -> None:
    """
    Another tool, another call, an old one, and one that was made before.
    """
    checked, token = verifier(), sign(TOKEN, access())
    refused = [
        checked.decide(TOKEN.encode(), access(tool="orders.refund")),
        checked.decide(token, access(args={"order_id": "o-9"})),
        checked.decide(token, access(at=AT + 45_000)),
        *[checked.decide(token, access()) for _ in range(2)][1:],
    ]
    assert [sentence_of(decision.code, decision.all_failures()) for decision in refused] == [
        'tool not allowed: the tool must be orders.get, got "orders.refund"',
        "proof invalid: the call must have the tool and arguments that were signed, got others",
        "proof invalid: the call must be signed at most 10 s before and 2 s after this service's time, "
        "got 45 s before it: set the clocks",
        "replayed: the call must have an unused nonce, got a used one: sign the call anew",
    ]


def test_a_model_reads_what_a_missing_approval_is() -> None:
    """
    Not which third-party caveat of the token wants a discharge, but who has to answer what, and what to do meanwhile.
    """
    wanted = Failure("caveat 3", "third-party caveat", "a discharge for k1.1:t-aaaaaaaaaaaaaaaa", "none")
    assert refusal_for_model("refund", "missing_discharge", [wanted], "38ec869ae8d8-1") == (
        "refund was refused: an operator has to approve this call with exactly these arguments, and no approval came "
        "with it. Do not repeat this call before an operator has approved it. Say that the approval is needed, and go "
        "on without it. (decision 38ec869ae8d8-1)"
    )
    assert waiting_for_model("refund") == (
        "refund waits: an operator has to approve this call with exactly these arguments, and was asked. The run goes "
        "on with the answer. Do not repeat this call meanwhile."
    )


def test_an_erased_record_keeps_place_and_rule() -> None:
    """
    What was expected and what came may be of a person.
    """
    failure = Failure("caveat 3", "amount range", "", "")
    assert (str(failure), failure.located()) == ("amount range: erased", "amount range: erased (caveat 3)")


@pytest.mark.parametrize(
    ("failure", "text", "located"),
    [
        (
            Failure("caveat 2", "amount max", "20", "50"),
            "amount must be at most 20, got 50",
            "at most 20 (caveat 2), got",
        ),
        (Failure("identifier", "iat", "new", "old"), "the token must be issued new, got old", "new (identifier), got"),
        (
            Failure("caveat 3", "delegate_to of caveat 1", "acme/*", "sales"),
            "the next holder must match acme/*, got sales",
            "acme/* (delegate_to of caveat 1), got",
        ),
        (Failure("call", "nonce", "new", "old"), "the call must have new, got old", "have new, got old"),
        (
            Failure("[[operator]]", "as in force", "no change", "one"),
            "as in force must be no change ([[operator]]), got one",
            "no change ([[operator]]), got",
        ),
    ],
)
def test_only_a_reader_of_the_token_has_the_place_in_it(failure: Failure, text: str, located: str) -> None:
    """
    A caller, an operator or a model cannot look up a caveat by its number; a place of the policy can be looked up.
    """
    assert str(failure) == text
    assert located in failure.located()
