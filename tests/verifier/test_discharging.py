# SPDX-License-Identifier: Apache-2.0
"""A verifier and discharges: what answers, for which call, and what does not."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import RevokedError, ValidityError
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token import chain
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import bind, join
from arx_verifier.token.macaroon import Macaroon
from tests.support import (
    ANYTHING,
    AT,
    INCARNATION,
    OTHER_KEY,
    MovedEpochs,
    access,
    mint,
    sign,
    verifier,
)
from tests.verifier.discharges import (
    APPROVED,
    ATTENUATED,
    CALL,
    GOOD,
    ORDER,
    RULE,
    TOKEN,
    answering,
    code,
    named,
    refund,
    requiring,
    sent,
)


@pytest.mark.spec("6.8")
def test_an_approved_call_is_allowed_once() -> None:
    """The discharge answers for this very call, one time, with a call's token or with the task's."""
    checked = verifier()
    decision = checked.decide(sent(TOKEN, [GOOD]), refund())
    assert decision.code == "ok"
    assert code(sent(TOKEN, [GOOD]), checked=checked) == "already_used"
    assert code(join(TOKEN.encode(), [bind(GOOD, TOKEN)])) == "ok"
    assert code(sign(TOKEN, refund())) == "missing_discharge"


@pytest.mark.spec("6.6")
def test_a_grant_is_of_the_token_and_its_discharge() -> None:
    """Its end, its sub-tasks and what ends it include what the discharge says; so does the record."""
    epochs, sink = UnsafeLocalEpochs(INCARNATION), InMemoryDecisions(clock=lambda: AT)
    checked = verifier(epochs=epochs, decisions=sink)
    long = answering(Caveat(exp=2**53 - 1, task="a-2"))
    soon, later = checked.verify(sent(TOKEN, [GOOD]), refund()), checked.verify(sent(TOKEN, [long]), refund())
    assert (soon.exp, later.exp) == (AT + 60_000, AT + 540_000)
    assert [kept.facts.tasks for kept in sink.decisions] == [("a-1",), ("a-2",)]
    epochs.kill("task:a-1")
    with pytest.raises((RevokedError, ValidityError)):
        soon.recheck()
    assert soon.look_again() is not None
    assert code(sent(TOKEN, [GOOD]), checked=checked) == "revoked"
    assert code(sent(TOKEN, [long]), checked=checked) == "ok"


@pytest.mark.spec("6.4")
def test_only_the_tools_it_names_are_held_back() -> None:
    """Other calls need no discharge; a third-party caveat without tools binds each, once the rest is in order."""
    token = requiring(mint(Caveat(allow=(RULE, Rule(tool="orders.get")))))
    checked = verifier()
    for _ in range(3):
        request = access("orders.get", {"id": "o-1"})
        assert code(sign(token, request), request, checked) == "ok"
        found = checked.decide(sign(token, refund()), refund())
        assert (found.code, len(found.failures)) == ("missing_discharge", 1)
        assert found.failures[0][:4] == (
            "caveat 2",
            "third-party caveat",
            "a discharge for k1.0:" + "t-" + "a" * 16,
            "none",
        )
        assert code(sign(token, refund({})), refund({}), checked) == "argument_not_allowed"
        other = access("orders.put")
        assert code(sign(token, other), other, checked) == "tool_not_allowed"
    whole = requiring(raw=named("x"))
    request = access("orders.get")
    assert code(sign(whole, request), request) == "missing_discharge"
    assert code(sent(whole, [answering(raw=named("x"))], request), request) == "ok"


@pytest.mark.spec("6.6")
def test_what_is_presented_holds_for_whatever_is_called() -> None:
    """An approval that comes with another call does not widen that call, it attenuates it."""
    request = access("orders.get")
    assert code(sign(TOKEN, request), request) == "ok"
    assert code(sent(TOKEN, [GOOD], request), request) == "tool_not_allowed"
    other = refund({**ORDER, "amount": 51})
    assert code(sent(TOKEN, [GOOD], other), other) == "argument_not_allowed"


@pytest.mark.spec("6.7")
def test_cold_and_warm_agree() -> None:
    """A parent that was met without a discharge, or with one, changes nothing for the other."""
    plain = access("orders.get")
    steps: list[tuple[Callable[[], str], Any, str]] = [
        (lambda: sign(TOKEN, plain), plain, "ok"),
        (lambda: sign(TOKEN, refund()), refund(), "missing_discharge"),
        (lambda: sent(TOKEN, [answering(Caveat(allow=(RULE,)))]), refund(), "ok"),
        (lambda: sent(TOKEN, [answering(Caveat(exp=AT))]), refund(), "expired"),
        (lambda: join(TOKEN.encode(), [bind(answering(), TOKEN)]), refund(), "ok"),
        (TOKEN.encode, refund(), "missing_discharge"),
        (TOKEN.encode, plain, "ok"),
        (lambda: sent(TOKEN, [answering(key=OTHER_KEY)]), refund(), "bad_signature"),
    ]
    for order in itertools.islice(itertools.permutations(range(len(steps))), 0, None, 97):
        checked = verifier()
        for step in order:
            make, request, expected = steps[step]
            assert checked.decide(make(), request).code == expected, (order, step)
    assert not any("~" in key for key in (*checked._authenticator._parents, *checked._authenticator._wholes))


@pytest.mark.spec("6.7", "11")
def test_nothing_that_came_with_a_discharge_is_kept() -> None:
    """Neither the credential nor its token: what the discharge took away would be gone, or stay."""
    checked = verifier()
    for _ in range(3):
        assert code(sent(TOKEN, [answering(Caveat(allow=(RULE,)))]), checked=checked) == "ok"
    assert (checked._authenticator._parents, checked._authenticator._wholes, checked._authenticator._cached) == (
        {},
        {},
        0,
    )


@pytest.mark.spec("6.7")
def test_screening_proves_discharges_too() -> None:
    """Before work is spent on a body: a code for what this service's key did not make, and no grant."""
    checked = verifier()
    assert not isinstance(checked.screen(sent(TOKEN, [GOOD])), str)
    assert checked.screen(sent(TOKEN, [answering(key=OTHER_KEY)])) == "bad_signature"
    assert checked.screen(sent(requiring(mint(key=OTHER_KEY)), [GOOD])) == "bad_signature"
    assert checked.screen("arx1_~") == "malformed"


def test_a_fresh_view_is_awaited_before_anything_is_spent() -> None:
    """A discharge may ask for a probe, as a token does: what waited is judged again, and used up once."""
    made = answering(Caveat(fresh=0, once=("a-1", AT)))
    for answers, expected in ((True, ["ok", "already_used"]), (False, ["stale", "stale"])):
        epochs = MovedEpochs()
        epochs.move(5)
        epochs.answers = answers
        checked = verifier(epochs=epochs)
        codes = [
            asyncio.run(checked.decide_async(sent(TOKEN, [made]), refund())).code,
            code(sent(TOKEN, [made]), checked=checked),
        ]
        assert codes == expected
        assert epochs.asked


SIBLING = TOKEN.attenuate(Caveat(task="y"))
BEHIND_CALL = Macaroon(GOOD.parts()[0], chain.extend(bytes(32), CALL.encode()))


@pytest.mark.spec("6.7")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (join(CALL, [GOOD]), "bad_signature"),
        (join(CALL, [BEHIND_CALL]), "bad_signature"),
        (join(CALL, [bind(GOOD, ATTENUATED)]), "bad_signature"),
        (join(CALL, [bind(GOOD, mint())]), "bad_signature"),
        (join(sign(ATTENUATED, refund()), [bind(GOOD, TOKEN)]), "bad_signature"),
        (join(sign(ATTENUATED, refund()), [bind(GOOD, SIBLING)]), "bad_signature"),
        (join(CALL, [bind(bind(GOOD, TOKEN), TOKEN)]), "bad_signature"),
        (join(CALL, [bind(GOOD, TOKEN).attenuate(Caveat(exp=AT + 1))]), "bad_signature"),
        (sent(TOKEN, [answering(APPROVED, key=OTHER_KEY)]), "bad_signature"),
        (sent(TOKEN, [GOOD, answering(raw=named("x"))]), "malformed"),
        (sent(TOKEN, [GOOD, GOOD]), "malformed"),
        (sent(TOKEN, [GOOD, answering()]), "malformed"),
        (sent(mint(), [GOOD]), "malformed"),
        (sent(TOKEN, [answering(APPROVED, realm="acme2")]), "malformed"),
        (sent(TOKEN, [answering(raw=named("other"))]), "malformed"),
        ("~" + CALL, "malformed"),
        (CALL + "~", "malformed"),
        (CALL + "~~" + bind(GOOD, TOKEN).encode(), "malformed"),
        (bind(GOOD, TOKEN).encode() + "~" + CALL, "malformed"),
        (join(CALL, [bind(GOOD, TOKEN)]) + "~" + CALL, "malformed"),
        (join(sign(requiring(mint(aud="billing")), refund()), [GOOD]), "wrong_audience"),
        (join(sign(requiring(mint(kid="k2.0")), refund()), [GOOD]), "unknown_key"),
    ],
)
def test_what_answers_nothing_is_refused_unread(text: str, expected: str) -> None:
    """Unbound, bound to another token, of another key, unasked, doubled: a code, no facts, and no record of its own."""
    sink = InMemoryDecisions(clock=lambda: AT)
    decision = verifier(decisions=sink).decide(text, refund())
    assert (decision.code, decision.failures, decision.facts.agent) == (expected, (), "")
    assert [kept.code for kept in sink.decisions] == ["counted"]


@pytest.mark.spec("2.3", "14")
def test_nine_discharges_are_too_many() -> None:
    """Eight that are all asked for are taken, in any order; the ninth is malformed before anything is opened."""
    token = mint()
    for number in range(9):
        token = requiring(token, named(f"d{number}"))
    made = [bind(answering(raw=named(f"d{number}")), token) for number in range(9)]
    request = access("orders.get")
    assert code(join(sign(token, request), made[:8][::-1]), request) == "missing_discharge"
    assert code("~".join([sign(token, request), *[each.encode() for each in made]]), request) == "malformed"
    eight = mint()
    for number in range(8):
        eight = requiring(eight, named(f"d{number}"))
    assert (
        code(sent(eight, [answering(raw=named(f"d{number}")) for number in (3, 1, 0, 2, 7, 5, 6, 4)], request), request)
        == "ok"
    )


@pytest.mark.spec("6.7")
@pytest.mark.parametrize(("depth", "expected"), [(1, "ok"), (2, "ok"), (4, "ok"), (5, "malformed")])
def test_a_discharge_may_third_party_another(depth: int, expected: str) -> None:
    """Each bound to the token; four deep at most; what the innermost says holds as well."""
    made = [answering(raw=named(f"d{level}")) for level in range(depth)]
    for level in range(depth - 1):
        made[level] = requiring(made[level], named(f"d{level + 1}"))
    token, request = requiring(raw=named("d0")), access("orders.get")
    assert code(sent(token, made, request), request) == expected
    made[-1] = made[-1].attenuate(Caveat(exp=AT))
    assert code(sent(token, made, request), request) == ("expired" if expected == "ok" else expected)
    if depth > 1:
        found = verifier().decide(sent(token, made[:-1], request), request)
        assert found.code == "missing_discharge"
        assert found.failures[0][:3] == (f"caveat {depth + 1}", "third-party caveat", f"a discharge for d{depth - 1}")


@pytest.mark.spec("6.7")
def test_two_that_name_each_other_answer_neither() -> None:
    """Each is spent before it is checked: what they require of each other stays unanswered, and nothing recurses."""
    one = requiring(answering(raw=named("one")), named("two"))
    two = requiring(answering(raw=named("two")), named("one"))
    token, request = requiring(raw=named("one")), access("orders.get")
    assert code(sent(token, [one, two], request), request) == "missing_discharge"
    itself = requiring(answering(raw=named("one")), named("one"))
    assert code(sent(token, [itself], request), request) == "missing_discharge"


HOLDERS = [
    Caveat(to="acme/x", hop="BwcHBwcHBwcH"),
    Caveat(depth=0),
    Caveat(delegate_to=("acme/**",)),
    Caveat(require=("call",)),
    Caveat(call=("a" * 43, AT, "b" * 22)),
]


@pytest.mark.spec("6.6")
@pytest.mark.parametrize("wrong", HOLDERS, ids=lambda caveat: caveat.encode().decode())
def test_a_discharge_says_nothing_of_holders(wrong: Caveat) -> None:
    """Malformed, with its place; what is in the token itself is as it was."""
    token = TOKEN.delegate("acme/support/worker")
    made = answering(APPROVED).attenuate(wrong)
    decision = verifier().decide(sent(token, [made]), refund())
    assert (decision.code, decision.failures[0].place) == ("malformed", "caveat 5")
    assert decision.facts.named == ("acme/support/worker",)


@pytest.mark.spec("6.7")
def test_places_go_on_counting() -> None:
    """Behind the token's caveats come those of the discharges, as they were presented."""
    token = requiring(requiring(mint(), named("a")), named("b"))
    made = [answering(Caveat(task="t"), raw=named("b")), answering(Caveat(net=("10.0.0.0/8",)), raw=named("a"))]
    decision = verifier().decide(sent(token, made), refund())
    assert (decision.code, decision.failures[0].place) == ("network_not_allowed", "caveat 5")
    assert verifier().decide(sent(token, made[::-1]), refund()).failures[0].place == "caveat 4"


@pytest.mark.spec("6.7", "14")
def test_a_credential_has_64_caveats() -> None:
    """Those of the discharges and the call counted."""
    token = requiring(mint(ANYTHING, *[Caveat(exp=AT + 1)] * 40))
    for more, expected in ((21, "ok"), (22, "malformed")):
        assert code(sent(token, [answering(*[Caveat(exp=AT + 1)] * more)])) == expected
    assert code(join(token.encode(), [bind(answering(*[Caveat(exp=AT + 1)] * 22), token)])) == "ok"


@pytest.mark.spec("6.6")
def test_a_discharge_answers_in_each_token_of_the_task() -> None:
    """A holder hands on token and discharge: each binds it to its own token, and the narrowest of all holds."""
    worker = TOKEN.delegate("acme/support/worker", Caveat(exp=AT + 1000))
    helper = worker.delegate("acme/support/worker/helper")
    for holder in (worker, helper):
        decision = verifier().decide(sent(holder, [GOOD]), refund())
        assert decision.grant is not None
        assert decision.grant.exp == AT + 1000
    assert code(join(sign(helper, refund()), [bind(GOOD, worker)])) == "bad_signature"


@pytest.mark.spec("6.4")
def test_an_own_third_party_of_a_holder() -> None:
    """Each holder can require a discharge of the next one, beside the mint's."""
    raw, key = named("ask the boss"), b"k" * 32
    token = requiring(TOKEN.delegate("acme/support/worker"), raw, key, b"https://boss.example")
    mine = answering(Caveat(net=("192.0.2.0/24",)), raw=raw, key=key)
    assert code(sent(token, [GOOD])) == "missing_discharge"
    assert code(sent(token, [mine])) == "missing_discharge"
    assert code(sent(token, [GOOD, mine])) == "ok"
