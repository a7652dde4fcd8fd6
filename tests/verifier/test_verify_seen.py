# SPDX-License-Identifier: Apache-2.0
"""A verifier that met a token before decides as one that did not; what it remembers is shared with no other."""

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier import limits
from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.token import call_proof, chain, wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Macaroon
from tests.support import (
    ANYTHING,
    AT,
    AUDIENCE,
    KEY,
    OTHER_KEY,
    QUICK,
    REALM,
    access,
    aligned_parents,
    code_of,
    mint,
    sign,
    verifier,
)

pytestmark = pytest.mark.spec("11")

CAVEATS = st.lists(
    st.sampled_from(
        [
            Caveat(exp=AT + 4_000),
            Caveat(nbf=AT - 4_000),
            Caveat(net=("192.0.2.0/24",)),
            Caveat(aud=(AUDIENCE, "billing")),
            Caveat(to="acme/w", hop="BwcHBwcHBwcH"),
            Caveat(allow=(Rule(tool="orders.*", args={"id": Constraint(glob="o-*")}, open=True),)),
            Caveat(allow=(Rule(tool="orders.get"), Rule(tool="warm.up"))),
            Caveat(fresh=60_000),
            Caveat(require=("call",)),
        ]
    ),
    max_size=4,
)
REQUESTS = st.builds(
    access,
    tool=st.sampled_from(["orders.get", "orders.put", "warm.up", ""]),
    args=st.sampled_from([{}, {"id": "o-1"}, {"id": 5}, {"id": "x"}, {"id": "o-1", "more": "m"}]),
    at=st.sampled_from([AT - 5_000, AT, AT + 3_999, AT + 4_000, AT + 10_001]),
    peer=st.sampled_from(["192.0.2.7", "198.51.100.1", None]),
)


@QUICK
@given(CAVEATS, REQUESTS, st.integers(0, 2), st.booleans())
def test_cold_and_warm_always_agree(caveats: list[Caveat], request_: Any, alignment: int, alter: bool) -> None:
    """Whatever a token says and whatever is asked, having seen its parent changes no decision."""
    parent = aligned_parents()[alignment].attenuate(*caveats)
    warm = verifier()
    for tool in ("warm.up", "orders.get"):
        for args in ({}, {"id": "o-1"}):
            earlier = access(tool, args, at=AT)
            warm.decide(sign(parent, earlier), earlier)
            warm.decide(parent.encode(), earlier)
    for token in (sign(parent, access(request_.tool, dict(request_.args))), parent.encode()):
        text = token[:-9] + ("A" if token[-9] != "A" else "B") + token[-8:] if alter else token
        assert warm.decide(text, request_).code == code_of(text, request_)


@pytest.mark.parametrize("first", ["whole", "signed"])
def test_a_parents_text_followed_by_a_call_is_refused(first: str) -> None:
    """A whole token is no head: what is met as the one is never found as the other, warm or cold."""
    for parent in aligned_parents(ANYTHING, Caveat(exp=AT + 1000)):
        text = parent.encode()
        raw = parent.to_bytes()
        good = Macaroon.parse(sign(parent, access(at=AT + 1))).packets[-1]
        assert isinstance(good, bytes)
        for signed_with in (parent.parts()[1], raw[-32:], KEY):
            tail = call_proof.MARK + good[10:] + b"\0" + wire.TAIL + chain.extend(signed_with, good)
            joined = text + wire.text_of(tail)
            warm = verifier()
            seen = text if first == "whole" else sign(parent, access())
            assert warm.decide(seen, access()).code == "ok"
            request = access(at=AT + 1)
            assert warm.decide(joined, request).code == code_of(joined, request) == "malformed"
            assert warm.decide(wire.TOKEN_PREFIX + wire.text_of(raw + tail), request).code == "malformed"


def test_the_parent_is_proven_once() -> None:
    """The second call of a parent costs no second chain: its entry is found and kept."""
    checked, parent = verifier(), mint()
    for n in range(3):
        assert checked.decide(sign(parent, access(at=AT + n)), access(at=AT + n)).code == "ok"
        assert len(checked._authenticator._parents) == 1
    kept = next(iter(checked._authenticator._parents.values()))
    assert checked.decide(sign(parent, access()), access()).code == "ok"
    assert next(iter(checked._authenticator._parents.values())) is kept


@pytest.mark.parametrize(
    "refused",
    [
        access("orders.put"),
        access(peer="198.51.100.1"),
        access(at=AT + 20_000),
    ],
)
def test_only_what_was_granted_is_remembered(refused: Any) -> None:
    """A refusal leaves nothing behind."""
    parent = mint(Caveat(allow=(Rule(tool="orders.get"),)), Caveat(net=("192.0.2.0/24",)), Caveat(exp=AT + 9_000))
    checked = verifier()
    assert checked.decide(sign(parent, refused), refused).code != "ok"
    assert checked.decide(parent.encode(), refused).code != "ok"
    assert not checked._authenticator._parents
    assert not checked._authenticator._wholes


def test_a_whole_token_does_not_stand_for_its_calls() -> None:
    """Having met the bare token says nothing about a call with it, and the other way round."""
    parent = mint()
    checked = verifier()
    assert checked.decide(parent.encode(), access()).code == "ok"
    forged = sign(mint(key=OTHER_KEY), access())
    assert checked.decide(forged, access()).code == "bad_signature"
    signed = verifier()
    assert signed.decide(sign(parent, access()), access()).code == "ok"
    assert signed.decide(mint(key=OTHER_KEY).encode(), access()).code == "bad_signature"


@pytest.mark.spec("9")
def test_nothing_leaks_between_audiences_and_keys() -> None:
    """What one service proved helps a token at no other, even under one key ring."""
    ring = KeyRing({"k1.0": KEY}, realm=REALM)
    orders, billing = verifier(keys=ring), verifier(audience="billing", keys=ring)
    parent = mint()
    assert orders.decide(sign(parent, access()), access()).code == "ok"
    assert billing.decide(sign(parent, access()), access()).code == "wrong_audience"
    assert billing.decide(sign(parent, access(), audience="billing"), access()).code == "wrong_audience"
    other_realm = verifier(keys=KeyRing({"k1.0": KEY}, realm="acme2"))
    assert other_realm.decide(sign(parent, access()), access()).code == "malformed"
    other_key = verifier(keys=KeyRing({"k1.0": OTHER_KEY}, realm=REALM))
    assert other_key.decide(sign(parent, access()), access()).code == "bad_signature"


def test_a_replaced_key_is_noticed_at_once() -> None:
    """A warm token is proven anew when its key was replaced, and refused when it is gone."""
    ring = KeyRing({"k1.0": KEY}, realm=REALM)
    checked, parent = verifier(keys=ring), mint()

    def codes(at: int) -> tuple[str, str]:
        request = access(at=AT + at)
        return checked.decide(sign(parent, request), request).code, checked.decide(parent.encode(), request).code

    assert codes(0) == ("ok", "ok")
    kept = next(iter(checked._authenticator._parents.values()))
    ring.replace({"k1.0": KEY, "k2.0": OTHER_KEY})
    assert codes(1) == ("ok", "ok")
    assert next(iter(checked._authenticator._parents.values())) is kept, "this key stays"
    ring.replace({"k1.0": OTHER_KEY})
    assert codes(2) == ("bad_signature", "bad_signature")
    ring.replace({"k2.0": OTHER_KEY})
    assert codes(3) == ("unknown_key", "unknown_key")
    ring.replace({"k1.0": KEY})
    assert codes(4) == ("ok", "ok")


@pytest.mark.parametrize("end", ["time", "key"])
@pytest.mark.parametrize("whole", [False, True])
def test_what_ended_is_forgotten(end: str, whole: bool) -> None:
    """A live signature is not kept longer than its token or its key: as many others come, all that ended is gone."""
    ring = KeyRing({"k1.0": KEY, "k2.0": OTHER_KEY}, realm=REALM)
    checked = verifier(keys=ring)
    entries = checked._authenticator._wholes if whole else checked._authenticator._parents

    def call(parent: Macaroon, at: int) -> str:
        asked = access(at=at)
        return checked.decide(parent.encode() if whole else sign(parent, asked), asked).code

    lasting = [mint(kid="k2.0", key=OTHER_KEY, exp=AT + 500_000, session=f"s-lasts-{n}") for n in range(10)]
    ending = [mint(exp=AT + 1_000, session=f"s-ends-{n}") for n in range(10)]
    for kept, gone in zip(lasting, ending, strict=True):
        assert (call(kept, AT), call(gone, AT)) == ("ok", "ok")
    if end == "key":
        ring.replace({"k2.0": OTHER_KEY})
    later = AT + 2_000 if end == "time" else AT
    fresh = [mint(kid="k2.0", key=OTHER_KEY, exp=AT + 500_000, session=f"s-new-{n}") for n in range(20)]
    for parent in fresh:
        assert call(parent, later) == "ok"
    assert len(entries) == len(lasting) + len(fresh)
    assert all(proven.key.kid == "k2.0" for proven in entries.values())
    assert checked._authenticator._cached == sum(limits.cost_of(key, proven.parts) for key, proven in entries.items())


def test_a_cached_chain_shows_no_secret() -> None:
    """It is in no ``repr``, in no log, and cannot be pickled."""
    checked, parent = verifier(), mint()
    assert checked.decide(sign(parent, access()), access()).code == "ok"
    kept = next(iter(checked._authenticator._parents.values()))
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(kept)
    for shown in (repr(kept), repr(checked), repr(checked._authenticator._parents.values())):
        for secret in (parent.parts()[1], KEY):
            assert secret.hex() not in shown
            assert repr(secret) not in shown
            assert wire.text_of(secret) not in shown


def test_the_cache_is_bounded_in_bytes() -> None:
    """Any number of parents takes a bounded memory, and each is decided alike after it was dropped."""
    checked = verifier(cache_bytes=40_000)
    parents = [mint(session=f"s-{n}") for n in range(40)]
    for parent in parents * 2:
        assert checked.decide(sign(parent, access()), access()).code == "ok"
        assert checked.decide(parent.encode(), access()).code == "ok"
        assert checked._authenticator._cached <= 40_000
    assert len(checked._authenticator._parents) + len(checked._authenticator._wholes) <= 12
    assert verifier(cache_bytes=0).decide(mint().encode(), access()).code == "ok"
