# SPDX-License-Identifier: Apache-2.0
"""The only call of a task with one name: across its tokens, verifiers that share a store, and restarts."""

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import MINT_AUDIENCE, Macaroon
from arx_verifier.verification.nonces import MemoryNonces, RedisNonces
from tests.support import ANYTHING, AT, KEY, REALM, FullDecisions, access, mint, sign, verifier
from tests.verifier.discharges import APPROVED, answering, refund, requiring, sent

pytestmark = pytest.mark.spec("6.8")

DAY = 86_400_000
A, B = Caveat(once=("a", AT)), Caveat(once=("b", AT))


def code(checked: Any, token: Macaroon, request: Any = None) -> str:
    """What is decided of a fresh call with a token."""
    request = request or access()
    return str(checked.decide(sign(token, request), request).code)


def test_once_is_of_a_task() -> None:
    """All tokens of a task share its names, however they were attenuated or delegated; another task has its own."""
    checked = verifier()
    token = mint(ANYTHING, A)
    assert code(checked, token) == "ok"
    for other in (
        token,
        token.delegate("acme/support/x"),
        mint(ANYTHING, Caveat(exp=AT + 1), A),
        mint(ANYTHING, B, A),
    ):
        assert code(checked, other) == "already_used"
    assert code(checked, mint(ANYTHING, B)) == "already_used", "it was spent with the token that had both"
    assert code(checked, mint(ANYTHING, A, task="t-bbbbbbbbbbbbbbbb")) == "ok"
    assert code(checked, mint(ANYTHING)) == "ok"


def test_what_is_refused_spends_no_name() -> None:
    """Names come last: what is refused before uses none up; what could not be recorded does, as its call."""
    checked = verifier()
    token = mint(Caveat(allow=ANYTHING.allow, net=("192.0.2.0/24",)), A)
    away = access(peer="198.51.100.1")
    assert code(checked, token, away) == "network_not_allowed"
    text = sign(token, access())
    assert [checked.decide(text, access()).code for _ in range(2)] == ["ok", "replayed"]
    assert code(checked, token) == "already_used"
    full = verifier(decisions=FullDecisions(clock=lambda: AT))
    assert [code(full, token) for _ in range(2)] == ["audit_unavailable", "already_used"]


def test_a_refusal_names_the_place() -> None:
    """And what to do, but not who used it."""
    checked = verifier(decisions=(sink := InMemoryDecisions(clock=lambda: AT)))
    for _ in range(2):
        decision = checked.decide(sent(requiring(), [answering(APPROVED)]), refund())
    assert (decision.code, decision.failures[0][:2]) == ("already_used", ("caveat 3", "once"))
    assert "a further one" in str(decision.failures[0])
    assert [kept.code for kept in sink.decisions] == ["ok", "already_used"]


@pytest.mark.parametrize(
    ("issued_at", "at", "expected"),
    [
        (AT, AT, "ok"),
        (AT + 1, AT, "store_unavailable"),
        (AT + 60_000, AT, "store_unavailable"),
        (AT + 60_001, AT, "already_used"),
        (AT - 60_000, AT, "ok"),
        (AT - 60_001, AT, "already_used"),
        (0, AT, "already_used"),
        (2**53 - 1, AT, "already_used"),
        (AT, AT + DAY - 1, "ok"),
        (AT, AT + DAY, "already_used"),
    ],
)
def test_a_name_is_good_for_a_day(issued_at: int, at: int, expected: str) -> None:
    """From when it was given, if the store remembers that time, and never from later on than a clock's error."""
    checked = verifier(nonces=MemoryNonces(now_ms=AT - 60_000))
    token = mint(ANYTHING, Caveat(once=("a", issued_at)), iat=at - 1, exp=at + 1000)
    assert code(checked, token, access(at=at)) == expected


def test_a_name_is_remembered_for_its_day() -> None:
    """Also when many others come and go meanwhile; after it, it is refused for its age."""
    nonces = MemoryNonces(now_ms=AT - 60_000)
    checked = verifier(nonces=nonces)
    for at in [AT, AT + 1, *range(AT + 60_000, AT + 2 * DAY, DAY // 7)]:
        token = mint(ANYTHING, A, iat=at - 1, exp=at + 1000)
        assert code(checked, token, access(at=at)) == ("ok" if at == AT else "already_used")
        assert code(checked, mint(iat=at - 1, exp=at + 1000), access(at=at)) == "ok"
    assert nonces.spend(b"one more", AT + 2 * DAY, AT + 2 * DAY)
    assert len(nonces) <= 3


def test_a_worker_whose_clock_is_behind_uses_no_name_again() -> None:
    """At the end of its day a name is still good there; so it is remembered for longer than it is good."""
    nonces = MemoryNonces(now_ms=AT - 60_000)
    ahead, behind = verifier(nonces=nonces), verifier(nonces=nonces)
    codes = []
    for checked, at in ((ahead, AT), (ahead, AT + DAY + 59_000), (behind, AT + DAY - 1)):
        token = mint(ANYTHING, A, iat=at - 1, exp=at + 1000)
        codes.append(checked.decide(token.encode(), access(at=at)))
    assert [(each.code, [failure.came for failure in each.failures]) for each in codes] == [
        ("ok", []),
        ("already_used", ["another: request a new one"]),
        ("already_used", ["a further one"]),
    ]


def test_a_restarted_store_believes_nothing_old() -> None:
    """Who started later cannot know what was used before: another approval it is."""
    token = requiring()
    assert verifier().decide(sent(token, [answering(APPROVED)]), refund()).code == "ok"
    request = refund(at=AT + 2000)
    later = verifier(nonces=MemoryNonces(now_ms=AT + 1))
    decision = later.decide(sent(token, [answering(APPROVED)], request), request)
    assert (decision.code, decision.failures[0].rule) == ("already_used", "once")
    fresh = answering(Caveat(once=("a-2", AT + 1500)))
    assert later.decide(sent(token, [fresh], request), request).code == "ok"


def test_a_token_of_the_mint_has_its_sessions_names() -> None:
    """It has no task; another session's names are not its own."""
    checked = verifier(audience=MINT_AUDIENCE, keys=KeyRing({"k1.0": KEY}, realm=REALM))
    for session, expected in (("s-1", "ok"), ("s-1", "already_used"), ("s-2", "ok")):
        token = mint(ANYTHING, A, aud=MINT_AUDIENCE, task=None, session=session)
        assert checked.decide(token.encode(), access()).code == expected


def test_eight_names() -> None:
    """Each is remembered for a day; more are malformed, wherever they stand."""
    names = [Caveat(once=(f"n{number}", AT)) for number in range(9)]
    assert code(verifier(), mint(ANYTHING, *names[:8])) == "ok"
    assert code(verifier(), mint(ANYTHING, *names)) == "malformed"
    token = requiring(mint(ANYTHING, *names[:5]))
    assert verifier().decide(sent(token, [answering(*names[5:])]), refund()).code == "malformed"


def test_of_calls_at_once_one_has_the_name() -> None:
    """Many threads, one verifier, one approval, another call each."""
    checked, token, made = verifier(), requiring(), answering(APPROVED)
    texts = [sent(token, [made]) for _ in range(64)]
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda text: checked.decide(text, refund()).code, texts))
    assert sorted(codes) == ["already_used"] * 63 + ["ok"]


@pytest.mark.servers
def test_verifiers_that_share_a_store_share_its_names(own_valkey: Any) -> None:
    """Of two workers one allows it; a store that restarted without its data, or is gone, nothing given before."""
    prefix = f"once:{secrets.token_hex(4)}:"
    stores = [RedisNonces(own_valkey.url, prefix) for _ in range(2)]
    for store in stores:  # each looks at its server's start when it connects
        store.spend(secrets.token_bytes(8), AT, AT - 1)
    now = time.time_ns() // 1_000_000
    workers = [verifier(nonces=store) for store in stores]
    token = mint(ANYTHING, Caveat(once=("a", now)), iat=now - 1000, exp=now + 60_000)
    assert [code(worker, token, access(at=now)) for worker in (*workers, *workers)] == ["ok", *["already_used"] * 3]
    own_valkey.stop()
    assert code(workers[0], token, access(at=now)) == "store_unavailable"
    old = RedisNonces(own_valkey.start(), prefix)
    before = mint(ANYTHING, Caveat(once=("b", now - 3_600_000)), iat=now - 3_700_000, exp=now + 60_000)
    assert verifier(nonces=old).decide(before.encode(), access(at=now)).code == "already_used"
    for store in (*stores, old):
        store.close()
