# SPDX-License-Identifier: Apache-2.0
"""What a verifier asks on every call, however often it met the token, and again after it had to wait."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from arx_verifier.errors import RevokedError, UnavailableError, ValidityError
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token import wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.nonces import MemoryNonces
from tests.support import (
    ANYTHING,
    AT,
    INCARNATION,
    KEY,
    TASK,
    MovedEpochs,
    SlowDecisions,
    access,
    mint,
    sign,
    verifier,
)

pytestmark = pytest.mark.spec("11")


def test_warm_tokens_meet_every_check_of_the_moment() -> None:
    """Time, kills, freezes and the caller's address are asked on every call, seen or not."""
    epochs = UnsafeLocalEpochs(INCARNATION)
    checked = verifier(epochs=epochs)
    parent = mint(ANYTHING, Caveat(net=("192.0.2.0/24",)))

    def code(**request: Any) -> str:
        asked = access(**request)
        return checked.decide(sign(parent, asked), asked).code

    assert code() == "ok"
    assert code(at=AT + 540_000) == "expired"
    assert code(peer="10.0.0.1") == "network_not_allowed"
    epochs.freeze("agent:acme")
    assert code() == "frozen"
    epochs.thaw("agent:acme")
    assert code() == "ok"
    epochs.kill(f"task:{TASK}")
    assert code() == "revoked"


def test_a_refused_call_spends_no_nonce() -> None:
    """Only a call that passed every other check uses up its nonce: repaired, the same call goes through once."""
    epochs = UnsafeLocalEpochs(INCARNATION)
    nonces = MemoryNonces(now_ms=AT - 60_000)
    checked = verifier(epochs=epochs, nonces=nonces)
    parent = mint(ANYTHING, Caveat(net=("192.0.2.0/24",)))
    token = sign(parent, access())
    epochs.freeze("realm")
    assert checked.decide(token, access()).code == "frozen"
    epochs.thaw("realm")
    assert checked.decide(token, access(peer=None)).code == "network_not_allowed"
    assert checked.decide(token, access("other")).code == "proof_invalid"
    assert len(nonces) == 0
    assert checked.decide(token, access()).code == "ok"
    assert checked.decide(token, access()).code == "replayed"
    assert len(nonces) == 1


def test_one_call_wins_among_threads() -> None:
    """The same one-shot token in many threads at once is allowed exactly once."""
    checked, parent = verifier(), mint()
    with ThreadPoolExecutor(4) as threads:
        for n in range(20):
            request = access(at=AT + n)
            token = sign(parent, request)
            codes = threads.map(lambda _, token=token, request=request: checked.decide(token, request).code, range(4))
            assert sorted(codes) == ["ok", "replayed", "replayed", "replayed"]


@pytest.mark.spec("6.1")
def test_fresh_waits_for_a_probe() -> None:
    """``fresh`` accepts a young view, asks for a newer one, and never more than it must."""
    epochs = MovedEpochs()
    checked = verifier(epochs=epochs)
    token = mint(ANYTHING, Caveat(fresh=100)).encode()
    epochs.move(100)
    assert checked.decide(token, access()).code == "ok"
    assert epochs.asked == 0
    epochs.move(1)
    assert checked.try_decide(token, access()) is None
    assert checked.decide(token, access()).code == "ok"
    assert epochs.asked == 1
    assert checked.try_decide(token, access()) is not None


@pytest.mark.spec("6.1")
def test_fresh_zero_asks_after_the_request() -> None:
    """0 means a probe that left after the request came; the smallest of several counts."""
    epochs = MovedEpochs()
    checked = verifier(epochs=epochs)
    token = mint(ANYTHING, Caveat(fresh=0), Caveat(fresh=60_000)).encode()
    epochs.move(1)
    assert checked.decide(token, access()).code == "ok"
    assert epochs.asked == 1
    epochs.move(1)
    epochs.answers = False
    assert checked.decide(token, access()).code == "stale"


@pytest.mark.spec("10.4")
def test_a_token_of_tomorrow_makes_the_view_catch_up() -> None:
    """A token born after this view is asked about, and accepted once the view has its birth."""
    epochs = MovedEpochs()
    checked = verifier(epochs=epochs)
    token = mint(born=(INCARNATION, 3)).encode()
    assert checked.try_decide(token, access()) is None
    assert checked.decide(token, access()).code == "behind"
    epochs.store = 3
    assert checked.decide(token, access()).code == "ok"


@pytest.mark.parametrize("target", ["session:s-aaaaaaaaaaaaaaaa", "realm"])
def test_a_kill_while_the_record_is_written_is_seen(target: str) -> None:
    """Step 8: an allow whose record took a while is asked about again, refused, and recorded a second time."""
    epochs = UnsafeLocalEpochs(INCARNATION)
    sink = SlowDecisions(lambda: epochs.kill(target))
    checked = verifier(epochs=epochs, decisions=sink)
    assert checked.waits
    decision = checked.decide(mint().encode(), access())
    assert decision.code == "revoked"
    assert decision.grant is None
    assert [kept.code for kept in sink.decisions] == ["ok", "revoked"]
    assert sink.decisions[1] is decision
    assert not checked._authenticator._wholes


def test_a_lease_that_ends_while_the_record_is_written_is_seen() -> None:
    """Step 8 reads the clocks too."""
    epochs = MovedEpochs()
    sink = SlowDecisions(lambda: epochs.move(1000))
    assert verifier(epochs=epochs, decisions=sink).decide(mint().encode(), access()).code == "stale"
    assert [kept.code for kept in sink.decisions] == ["ok", "stale"]


def test_a_slow_nonce_store_is_followed_by_a_second_look() -> None:
    """A kill while a shared store answers is seen, although the record itself does not wait."""
    epochs = UnsafeLocalEpochs(INCARNATION)

    class Slow(MemoryNonces):
        waits = True

        def spend(self, key: bytes | str, expires_ms: int, now_ms: int) -> bool:
            epochs.kill("realm")
            return super().spend(key, expires_ms, now_ms)

    sink = InMemoryDecisions(clock=lambda: AT)
    checked = verifier(epochs=epochs, nonces=Slow(now_ms=0), decisions=sink)
    assert checked.try_decide(sign(mint(), access()), access()) is None, "an event loop must not wait"
    assert checked.decide(sign(mint(), access()), access()).code == "revoked"
    assert [kept.code for kept in sink.decisions] == ["ok", "revoked"]


def test_a_recheck_asks_again() -> None:
    """Before an irreversible step a grant can be asked whether everything still stands."""
    now = time.time_ns() // 1_000_000
    epochs = UnsafeLocalEpochs(INCARNATION)
    checked = verifier(epochs=epochs, nonces=MemoryNonces())
    grant = checked.verify(mint(iat=now, exp=now + 60_000).encode(), access(at=now))
    grant.recheck()
    epochs.kill("agent:acme/support")
    with pytest.raises(RevokedError):
        grant.recheck()
    with pytest.raises(ValidityError):
        verifier().verify(mint(iat=now - 9_000, exp=now - 1_000).encode(), access(at=now - 2_000)).recheck()
    other = verifier()
    grant = other.verify(mint(iat=now, exp=now + 60_000).encode(), access(at=now))
    other.close()
    with pytest.raises(UnavailableError):
        grant.recheck()


@pytest.mark.spec("12.1")
def test_a_decision_records_what_was_decided_under_which_view() -> None:
    """The record has the request, the view and the facts, and no secret."""
    sink = InMemoryDecisions(clock=lambda: AT, verifier="v-1")
    token = sign(mint(), access(args={"card": "4111 1111 1111 1111"}))
    decision = verifier(decisions=sink).decide(token, access(args={"card": "4111 1111 1111 1111"}))
    assert sink.decisions == [decision]
    assert (decision.tool, decision.peer, decision.incarnation, decision.applied) == (
        "orders.get",
        "192.0.2.7",
        INCARNATION,
        0,
    )
    assert decision.agent == "acme/support"
    texts = repr(decision.to_dict()) + repr(decision.pack())
    for secret in ("4111 1111 1111 1111", token, wire.text_of(mint().parts()[1]), KEY.hex()):
        assert secret not in texts
