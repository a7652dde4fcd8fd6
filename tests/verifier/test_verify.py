# SPDX-License-Identifier: Apache-2.0
"""Every reason a verifier can give, made through ``decide``; and what is asked before what."""

from collections.abc import Callable
from typing import Any

import pytest

from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import (
    REASONS,
    AccessError,
    ArxError,
    SettingsError,
    StoreError,
    TokenError,
    UnavailableError,
    refusal,
)
from arx_verifier.journal.decision import Decision, InMemoryDecisions
from arx_verifier.ledger.memory import MemoryLedger
from arx_verifier.request import UNSEEN_BODY, HttpCall
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token import chain, wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.nonces import MemoryNonces
from arx_verifier.verification.verifier import Verifier
from tests.support import (
    ANYTHING,
    AT,
    INCARNATION,
    KEY,
    OTHER_KEY,
    REALM,
    FullDecisions,
    MovedEpochs,
    SlowDecisions,
    access,
    forge_caveats,
    mint,
    sign,
    spec_examples,
    verifier,
)

HOP = "BwcHBwcHBwcH"


def with_third_party(identifier: bytes = b'{"id":"x"}') -> str:
    """A rightly signed token with a third-party caveat, which no verifier could open."""
    parent, third = mint(), wire.ThirdPartyPacket(b"https://approve.example", identifier, b"v" * 48)
    body, signature = parent.parts()
    signature = chain.extend_third_party(signature, third.verification_id, third.identifier)
    return Macaroon(body + wire.caveat_packet(third), signature).encode()


def epochs_after(*steps: tuple[str, str]) -> UnsafeLocalEpochs:
    """An epoch in which this was killed or frozen."""
    epochs = UnsafeLocalEpochs(INCARNATION)
    for op, target in steps:
        {"kill": epochs.kill, "freeze": epochs.freeze}[op](target)
    return epochs


def moved(ms: int, *, answers: bool = True) -> MovedEpochs:
    """An epoch whose clock has moved on since its last probe."""
    epochs = MovedEpochs()
    epochs.move(ms)
    epochs.answers = answers
    return epochs


def in_state(change: Callable[[MovedEpochs], object]) -> MovedEpochs:
    """An epoch that something happened to."""
    epochs = MovedEpochs()
    change(epochs)
    return epochs


def syncing(epochs: MovedEpochs) -> None:
    """A view without a lease, whose store does not answer."""
    epochs.answers = False
    epochs.adopt(INCARNATION, 0, {}, {})


class NoNonces(MemoryNonces):
    """A nonce store that does not answer."""

    def spend(self, key: bytes | str, expires_ms: int, now_ms: int) -> bool:
        """Fail as a network store does."""
        raise StoreError("no answer")


BUDGET = mint(ANYTHING, Caveat(spend=("b", "usd", "1", "task", AT))).encode()


def ledger(opens: int = AT - 1) -> MemoryLedger:
    """A ledger that began then."""
    made = MemoryLedger(clock=lambda: AT)
    made.since = opens
    return made


def replayed() -> Decision:
    """The second of two equal calls."""
    checked, token = verifier(), sign(mint(), access())
    assert checked.decide(token, access()).code == "ok"
    return checked.decide(token, access())


def deciding(token: str, request: object = None, **parts: object) -> Callable[[], Decision]:
    """A decision of a verifier with these parts."""
    return lambda: verifier(**parts).decide(token, access() if request is None else request)  # type: ignore[arg-type]


ATTENUATE = Caveat(allow=(Rule(tool="orders.get", args={"id": "o-1"}),))
HIDDEN = HttpCall("POST", "/orders", UNSEEN_BODY)
ROWS = {"opened": AT, "marks": (("call", "a", "session", ("*",)),)}


def marked() -> Decision:
    """The second of two calls of which one forbids the other."""
    checked = verifier(ledger=ledger())
    token = mint(Caveat(allow=(Rule(tool="*"),), after=((("a",), ("*",)),), **ROWS)).encode()  # type: ignore[arg-type]
    assert checked.decide(token, access()).code == "ok"
    return checked.decide(token, access())


UNPROVEN = mint(Caveat(allow=(Rule(tool="*"),), only_after=(("a", 0, ("*",)),), opened=AT)).encode()
CASES: dict[str, list[Callable[[], Decision]]] = {
    "malformed_request": [deciding(sign(mint(), access()), access(args={"x": float("nan")}))],
    "malformed": [
        deciding(""),
        deciding("arx1_"),
        deciding(mint().encode() + "A"),
        deciding(mint(realm="acme2").encode()),
        deciding(mint(exp=AT + 1, iat=0).encode()),
        deciding(mint(holder="h" * 43).encode()),
        deciding(forge_caveats(b"{}")),
        deciding(forge_caveats(*(b'{"exp":1900000000000}',) * 64)),
    ],
    "unknown_key": [deciding(mint(kid="k2.0").encode()), deciding(mint(kid="k1.1").encode())],
    "bad_signature": [deciding(mint(key=OTHER_KEY).encode()), deciding(sign(mint(key=OTHER_KEY), access()))],
    "unknown_caveat": [deciding(forge_caveats(b'{"zone":1}')), deciding(with_third_party(b"who"))],
    "wrong_audience": [
        deciding(mint(aud="billing").encode()),
        deciding(mint(ANYTHING, Caveat(aud=("billing",))).encode()),
        deciding(mint().encode(), audience="billing"),
    ],
    "not_yet_valid": [deciding(mint(ANYTHING, Caveat(nbf=AT + 1)).encode())],
    "expired": [deciding(mint(exp=AT).encode()), deciding(mint(ANYTHING, Caveat(exp=AT)).encode())],
    "revoked": [
        deciding(mint().encode(), epochs=epochs_after(("kill", "session:s-aaaaaaaaaaaaaaaa"))),
        deciding(mint(born=("another-history", 0)).encode()),
    ],
    "frozen": [deciding(mint().encode(), epochs=epochs_after(("freeze", "agent:acme")))],
    "missing_discharge": [deciding(with_third_party())],
    "tool_not_allowed": [
        deciding(mint(ATTENUATE).encode(), access("orders.put")),
        deciding(mint().encode(), access("")),
    ],
    "argument_not_allowed": [deciding(mint(ATTENUATE).encode(), access(args={"id": "o-2"}))],
    "request_unseen": [
        deciding(mint(ATTENUATE).encode(), access(args={"id": "o-1"}, http=HIDDEN)),
        deciding(
            mint(Caveat(allow=(Rule(tool="*", args={"n": 1}, open=True),))).encode(), access(args={}, http=HIDDEN)
        ),
        deciding(sign(mint(), access(http=HIDDEN._replace(body_digest=bytes(31) + b"1"))), access(http=HIDDEN)),
    ],
    "too_deep": [deciding(mint(ANYTHING, Caveat(to="acme/w", hop=HOP), depth=0).encode())],
    "name_not_allowed": [deciding(mint(ANYTHING, Caveat(delegate_to=("a",)), Caveat(to="b", hop=HOP)).encode())],
    "network_not_allowed": [deciding(mint(ANYTHING, Caveat(net=("10.0.0.0/8",))).encode())],
    "over_service_limit": [
        deciding(mint().encode(), limits={"rules": [{"tool": "orders.put"}]}),
        deciding(mint().encode(), limits={"approve": ["*"]}),
    ],
    "already_used": [
        deciding(mint(ANYTHING, Caveat(once=("a", AT)), Caveat(once=("a", AT))).encode()),
        deciding(mint(ANYTHING, Caveat(once=("a", AT - 60_001))).encode()),
    ],
    "insufficient_budget": [deciding(BUDGET, ledger=ledger(), costs={"orders.get": {"usd": 2}})],
    "budget_exhausted": [deciding(BUDGET, ledger=ledger(opens=AT), costs={"orders.get": {"usd": 1}})],
    "budget_unsupported": [deciding(BUDGET), deciding(BUDGET, ledger=ledger())],
    "after_mark": [marked],
    "mark_missing": [deciding(UNPROVEN, ledger=ledger())],
    "mark_unsupported": [deciding(UNPROVEN)],
    "proof_missing": [deciding(mint(ANYTHING, Caveat(require=("call",))).encode())],
    "proof_invalid": [
        deciding(sign(mint(), access("orders.put"))),
        deciding(sign(mint(), access()), access(at=AT + 10_001)),
        deciding(sign(mint(), access()), nonces=MemoryNonces(now_ms=AT + 1)),
    ],
    "replayed": [replayed],
    "syncing": [deciding(mint().encode(), epochs=in_state(syncing))],
    "stale": [
        deciding(mint().encode(), epochs=moved(1000)),
        deciding(mint(ANYTHING, Caveat(fresh=10)).encode(), epochs=moved(11, answers=False)),
    ],
    "behind": [deciding(mint(born=(INCARNATION, 5)).encode(), epochs=moved(0, answers=False))],
    "fenced": [deciding(mint().encode(), epochs=in_state(lambda e: e.fence("it went back", retire=True)))],
    "closed": [deciding(mint().encode(), epochs=in_state(lambda e: e.close()))],
    "store_unavailable": [
        deciding(sign(mint(), access()), nonces=NoNonces(now_ms=0)),
        deciding(sign(mint(), access()), nonces=MemoryNonces(now_ms=0, capacity=0)),
    ],
    "audit_unavailable": [deciding(mint().encode(), decisions=FullDecisions())],
}


@pytest.mark.spec("13")
def test_every_reason_is_made_here() -> None:
    """Each reason that has an example in SPEC 13 has a case here, and so has each state of the process."""
    of_the_process = {"syncing", "stale", "fenced", "closed", "audit_unavailable"}
    assert set(spec_examples()) | of_the_process <= set(CASES)


@pytest.mark.spec("13")
@pytest.mark.parametrize(("code", "case"), [(code, case) for code, cases in CASES.items() for case in cases])
def test_each_reason_is_given(code: str, case: Callable[[], Decision]) -> None:
    """A refusal has its code, no grant, and an error of the class that its status says."""
    decision = case()
    assert decision.code == code
    assert decision.grant is None
    assert not decision.allowed
    error = refusal(decision.code, decision.failures)
    expected = {401: TokenError, 403: AccessError, 503: UnavailableError, 400: ArxError}[REASONS[code].status]
    assert isinstance(error, expected)
    assert error.code == code
    assert error.status_hint == REASONS[code].status


def test_verify_grants_or_raises_what_decide_says() -> None:
    """``verify`` returns a grant or raises the error of the same code, with the same facts."""
    checked = verifier()
    grant = checked.verify(mint(ATTENUATE).encode(), access(args={"id": "o-1"}))
    assert isinstance(grant, Grant)
    assert (grant.tool, grant.session, grant.exp) == ("orders.get", "s-aaaaaaaaaaaaaaaa", AT + 540_000)
    assert repr(grant).startswith("<Grant of orders.get to acme/support")
    with pytest.raises(AccessError) as caught:
        checked.verify(mint(ATTENUATE).encode(), access(args={"id": "o-2"}))
    assert caught.value.code == "argument_not_allowed"
    assert "o-2" in str(caught.value)
    with pytest.raises(TokenError):
        checked.verify("junk", access())


UNPROVEN = ("malformed", "unknown_key", "bad_signature", "wrong_audience")


@pytest.mark.spec("13")
@pytest.mark.parametrize(
    "token",
    ["", "arx1_AAAA", mint(key=OTHER_KEY).encode(), mint(kid="k9.0").encode(), mint(aud="billing").encode()],
)
def test_before_the_signature_a_refusal_says_its_code_and_no_more(token: str) -> None:
    """Nothing of an unproven token comes back or is recorded singly; it is counted."""
    sink = InMemoryDecisions(clock=lambda: AT)
    decision = verifier(decisions=sink).decide(token, access())
    assert decision.code in UNPROVEN
    assert decision.failures == ()
    assert decision.facts.agent == ""
    assert [(kept.code, kept.counts[0].code) for kept in sink.decisions] == [("counted", decision.code)]


def spoilt(token: Macaroon) -> str:
    """The same token with a wrong signature."""
    body, signature = token.parts()
    return Macaroon(body, bytes(signature[:-1]) + bytes([signature[-1] ^ 1])).encode()


@pytest.mark.spec("11")
@pytest.mark.parametrize(
    "token",
    [
        mint(exp=AT),
        mint(exp=AT + 1, iat=0),
        mint(ANYTHING, Caveat(nbf=AT + 1)),
        mint(ANYTHING, Caveat(net=("10.0.0.0/8",))),
        mint(ATTENUATE),
        mint(born=("another-history", 0)),
        mint(ANYTHING, Caveat(require=("call",))),
        mint(holder="h" * 43),
        Macaroon.parse(forge_caveats(b'{"zone":1}')),
        Macaroon.parse(forge_caveats(b"{}")),
        Macaroon.parse(with_third_party()),
    ],
)
def test_a_bad_signature_wins_over_everything_it_could_have_said(token: Macaroon) -> None:
    """Any further mistake of an altered token is not reported: it is not authentic."""
    killed = epochs_after(("freeze", "realm"), ("kill", "realm"))
    assert verifier(epochs=killed).decide(spoilt(token), access("nothing")).code == "bad_signature"


@pytest.mark.spec("11")
def test_the_order_of_the_checks() -> None:
    """Caveats before the epoch, the epoch before the nonce, and the record last: each spoilt in turn."""
    closed = MovedEpochs()
    closed.close()
    expired = mint(ANYTHING, Caveat(exp=AT))
    token = sign(expired, access())
    full = FullDecisions(clock=lambda: AT)
    assert verifier(epochs=closed, nonces=NoNonces(), decisions=full).decide(token, access()).code == "expired"
    token = sign(mint(), access())
    assert verifier(epochs=closed, nonces=NoNonces(), decisions=full).decide(token, access()).code == "closed"
    assert verifier(nonces=NoNonces(now_ms=0), decisions=full).decide(token, access()).code == "store_unavailable"
    assert verifier(decisions=full).decide(token, access()).code == "audit_unavailable"
    assert verifier().decide(token, access()).code == "ok"


@pytest.mark.spec("13")
def test_what_a_caller_learns_of_a_kill() -> None:
    """That there was one; not whose, and not when."""
    decision = verifier(epochs=epochs_after(("kill", "subject:of-another"), ("kill", "realm"))).decide(
        mint().encode(), access()
    )
    assert (decision.code, decision.failures) == ("revoked", ())


@pytest.mark.spec("12.2")
def test_a_request_without_a_token_is_counted() -> None:
    """An adapter refuses it through the verifier, so that a flood is seen."""
    sink = InMemoryDecisions(clock=lambda: AT)
    assert verifier(decisions=sink).refuse("missing_token", access()).code == "missing_token"
    assert sink.decisions[0].counts[0].code == "missing_token"


@pytest.mark.parametrize("audience", ["", "Orders", "arx", "arx.other", "arxiv", "a" * 65, "a/b", "orders\n"])
def test_no_start_under_a_name_that_is_no_audience(audience: str) -> None:
    """A service's name is checked when it starts; names of ARx's own are reserved."""
    with pytest.raises(SettingsError):
        verifier(audience=audience)


@pytest.mark.spec("4.1")
def test_the_mints_own_tokens_have_no_task() -> None:
    """A verifier for the mint takes what a tool service refuses, and the other way round."""
    ring = KeyRing({"m1.0": KEY}, realm=REALM)
    session = mint(aud="arx.mint", task=None, kid="m1.0").encode()
    assert verifier(audience="arx.mint", keys=ring).decide(session, access()).code == "ok"
    task = mint(aud="arx.mint", kid="m1.0").encode()
    assert verifier(audience="arx.mint", keys=ring).decide(task, access()).code == "malformed"
    assert verifier().decide(mint(task=None).encode(), access()).code == "malformed"


@pytest.mark.spec("10.5")
def test_a_closed_verifier_refuses_all() -> None:
    """After close nothing is granted, warm tokens included; closing twice is harmless."""
    checked = verifier()
    token = mint().encode()
    assert checked.decide(token, access()).code == "ok"
    checked.close()
    checked.close()
    assert checked.decide(token, access()).code == "closed"
    assert repr(checked) == "<Verifier for orders>"
    assert isinstance(checked, Verifier)


@pytest.mark.spec("12.1")
def test_a_refusal_is_recorded_once() -> None:
    """Only an allow is looked at again: a refusal stays what it was, whatever happens while it is written."""
    epochs = UnsafeLocalEpochs(INCARNATION)
    sink = SlowDecisions(lambda: epochs.kill("realm"))
    decision = verifier(epochs=epochs, decisions=sink).decide(mint(ATTENUATE).encode(), access(args={"id": "o-2"}))
    assert decision.code == "argument_not_allowed"
    assert sink.decisions == [decision]


@pytest.mark.spec("17.4")
@pytest.mark.parametrize(
    ("kept", "missing"),
    [(None, "a ledger at this service"), (ledger(), 'a cost in usd for "orders.get" in `costs` of this service')],
    ids=["ledger", "cost"],
)
def test_a_refusal_says_what_the_service_lacks_for_a_budget(kept: MemoryLedger | None, missing: str) -> None:
    """Its operator reads there what to set: the ledger, or the cost of this tool in this unit."""
    decision = deciding(BUDGET, ledger=kept)()
    (failure,) = decision.failures
    assert str(failure) == f"the budget must have {missing}, got none"


@pytest.mark.spec("11")
def test_a_kill_while_the_ledger_answers_ends_the_call() -> None:
    """A ledger may wait for a network: the token is looked at again after it, and what was drawn goes back."""
    epochs, slow = UnsafeLocalEpochs(INCARNATION), ledger()
    take, slow.waits = slow.take, True

    def take_late(*args: Any) -> Any:
        epochs.kill("realm")
        return take(*args)

    slow.take = take_late  # type: ignore[method-assign]
    decision = verifier(epochs=epochs, ledger=slow, costs={"orders.get": {"usd": 1}}).decide(BUDGET, access())
    assert (decision.code, decision.grant) == ("revoked", None)
    (pool,) = slow.pools.values()
    assert pool.used == 0


@pytest.mark.spec("10.5")
def test_the_first_call_waits_for_the_view() -> None:
    """A verifier that has just begun asks for its view before it refuses a call: one probe brings it."""
    epochs = in_state(lambda e: e.adopt(INCARNATION, 0, {}, {}))
    checked = verifier(epochs=epochs)
    assert checked.try_decide(mint().encode(), access()) is None
    assert checked.decide(mint().encode(), access()).code == "ok"
    assert epochs.asked == 1
