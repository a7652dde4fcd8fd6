# SPDX-License-Identifier: Apache-2.0
"""Bound tokens: made and used by their holders, refused for all others, read by any macaroon library."""

import pickle

import pymacaroons  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import AttenuationError, SettingsError
from arx_verifier.token import call_proof, chain, holder, wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import bind, join
from arx_verifier.token.holder import HolderKey
from arx_verifier.token.keyring import MAX_AGREED, PreparedKey
from arx_verifier.token.macaroon import Macaroon
from tests.support import AT, AUDIENCE, KEY, OTHER_KEY, QUICK, REALM, access, mint, verifier
from tests.verifier.discharges import answering, refund, requiring

pytestmark = pytest.mark.spec("16.1", "16.2", "16.3")

HOLDERS = [HolderKey(bytes([number]) * 32) for number in range(1, 6)]
FIRST, SECOND, THIRD, THIEF, _ = HOLDERS
NARROW = Caveat(allow=(Rule(tool="orders.get"),), exp=AT + 60_000, require=("call",))


def bound(*caveats: Caveat, key: HolderKey = FIRST, **changes: str) -> Macaroon:
    """A token that is bound to the first holder."""
    return mint(*caveats, holder=key.public, aud_key=holder.audience_public(KEY), **changes)


def handed(hops: int, *caveats: Caveat) -> Macaroon:
    """A bound token after so many delegations."""
    token = bound(*caveats)
    for number in range(hops):
        token = token.delegate("acme/worker", NARROW, key=HOLDERS[number + 1].public, by=HOLDERS[number])
    return token


def signed(token: Macaroon, key: HolderKey, *, signs: bool = False) -> str:
    """A call of a bound token."""
    return call_proof.CallSigner(token, AUDIENCE, key, signs=signs).sign(call_proof.fields_of(access()), AT)


@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("hops", [0, 1, 3])
def test_the_last_holder_calls(hops: int, signs: bool) -> None:
    """Granted at first sight and when seen; the record names each key and says that it is proven."""
    token, checked = handed(hops), verifier()
    for _ in range(3):
        decision = checked.decide(signed(token, HOLDERS[hops], signs=signs), access())
        assert (decision.code, decision.facts.assurance) == ("ok", "bound")
        assert [each.key for each in decision.facts.holders] == [each.public for each in HOLDERS[: hops + 1]]
        assert len(decision.to_dict()["holders"]) == hops + 1


@pytest.mark.parametrize("seen", [False, True])
def test_a_stolen_text_is_of_no_use(seen: bool) -> None:
    """Neither bare, nor called with another key, nor delegated by a thief: also where the parent is known."""
    token, checked = handed(1), verifier()
    if seen:
        assert checked.decide(signed(token, SECOND), access()).code == "ok"
    assert checked.decide(token.encode(), access()).code == "proof_missing"
    for other in (FIRST, THIEF):
        with pytest.raises(AttenuationError, match="bound to the key"):
            call_proof.CallSigner(token, AUDIENCE, other)
        with pytest.raises(AttenuationError, match="only the holder"):
            token.delegate("acme/thief", key=THIEF.public, by=other)
    body, signature = token.parts()
    for proof in (b"", b"A" * 22, THIEF.sign(b"")):
        text = unproven(body, signature, proof)
        assert checked.decide(text, access()).code == ("proof_invalid" if proof else "proof_missing")


def unproven(body: bytes, signature: bytes, proof: bytes) -> str:
    """A call by who has the text alone: its chain is right, and its proof is a guess."""
    plain = call_proof.CallSigner(mint(), AUDIENCE).sign(call_proof.fields_of(access()), AT)
    call = call_proof.split_call(plain)
    assert call is not None
    guess = wire.base64_of(proof) if len(proof) == holder.SIGNATURE_BYTES else proof
    caveat = call.caveat if not proof else call.plain[:-2] + b',"' + guess + b'"]}'
    body, signature = chain.appended(body, signature, caveat)
    return wire.TOKEN_PREFIX + wire.text_of(body + wire.TAIL + signature)


def test_the_key_alone_is_of_no_use() -> None:
    """Who has the holder's key and not the text has nothing to call with."""
    checked = verifier()
    own = bound(key=SECOND, id=wire.text_of(b"\3" * 16))
    text = signed(own, SECOND)
    assert checked.decide(text, access()).code == "ok"
    # The proof of the one token in the text of the other.
    call = call_proof.split_call(text)
    assert call is not None
    body, signature = chain.appended(*handed(1).parts(), call.caveat)
    copied = wire.TOKEN_PREFIX + wire.text_of(body + wire.TAIL + signature)
    assert checked.decide(copied, access()).code == "proof_invalid"


def test_a_record_has_no_delegation_that_is_not_signed() -> None:
    """Of a thief's delegation the refusal is recorded, with the holders before it."""
    token, checked = handed(1), verifier()
    raw = token.delegate("acme/worker", key=THIRD.public, by=SECOND).packets[-1]
    assert isinstance(raw, bytes)
    forged = raw.replace(THIRD.public.encode(), THIEF.public.encode())
    body, signature = chain.appended(*token.parts(), forged)
    stolen = Macaroon(body, signature)
    decision = checked.decide(signed(stolen, THIEF), access())
    assert (decision.code, decision.failures[0].rule) == ("bad_signature", "sig")
    assert (decision.facts.named, len(decision.facts.links)) == (("acme/worker",), 1)
    assert [each.key for each in decision.facts.holders] == [FIRST.public, SECOND.public]


@pytest.mark.spec("16.5")
def test_an_outsider_checks_a_delegation_by_its_record() -> None:
    """The record's facts and public keys are enough."""
    facts = verifier().decide(signed(handed(2), THIRD), access()).facts
    for number, each in enumerate(facts.holders[1:]):
        message = holder.hop_message(
            REALM, facts.audience, facts.links[number], facts.named[number], each.key, each.said
        )
        assert holder.has_signed(facts.holders[number].key, message, each.signature)
        assert not holder.has_signed(THIEF.public, message, each.signature)


@pytest.mark.spec("16.5")
def test_an_outsider_checks_a_signed_call_by_its_record() -> None:
    """Who knows tool and arguments finds their digest in it; a call that is proved for the service has no evidence."""
    checked = verifier()
    decision = checked.decide(signed(handed(1), SECOND, signs=True), access())
    evidence, facts = decision.signed, decision.facts
    assert evidence is not None
    head = f"arx/1/signed\0{REALM}\0{facts.audience}\0{facts.links[-1]}\0".encode()
    message = head + evidence.said + evidence.plain
    assert holder.has_signed(facts.holders[-1].key, message, evidence.signature)
    assert not holder.has_signed(FIRST.public, message, evidence.signature)
    prefix, fields = call_proof.digest_prefix(AUDIENCE), call_proof.fields_of(access())
    assert call_proof.call_digest(prefix, evidence.plain[call_proof.STAMP], fields) in evidence.plain
    assert decision.to_dict()["signed"]["signature"] == evidence.signature.hex()
    assert checked.decide(signed(handed(1), SECOND), access()).signed is None


def test_a_holder_of_a_bound_token_needs_the_next_key() -> None:
    """What cannot be used by the receiver is refused when it is delegated."""
    token = bound()
    with pytest.raises(AttenuationError, match="give `key`"):
        token.delegate("acme/worker", by=FIRST)
    for wrong in ("", "A" * 42, "é" * 43, "A" * 42 + "B"):
        with pytest.raises(AttenuationError, match="43 characters"):
            token.delegate("acme/worker", key=wrong, by=FIRST)
    with pytest.raises(AttenuationError, match="bearer token names no key"):
        mint().delegate("acme/worker", key=SECOND.public)
    with pytest.raises(AttenuationError, match="bearer token has no signature"):
        call_proof.CallSigner(mint(), AUDIENCE, FIRST, signs=True)


def test_a_key_of_the_audience_that_is_none() -> None:
    """A point of small order, or a text that is none, is refused by the holder before anything is sent."""
    for wrong in (wire.text_of(bytes(32)), wire.text_of(b"\1" + bytes(31)), "A" * 42 + "B"):
        token = mint(holder=FIRST.public, aud_key=wrong)
        with pytest.raises(AttenuationError, match="names no key of its service"):
            call_proof.CallSigner(token, AUDIENCE, FIRST)


def test_a_discharge_goes_with_a_bound_token() -> None:
    """An approval is bound to the token, and the call still needs its holder."""
    token, checked = requiring(bound()), verifier()
    signer = call_proof.CallSigner(token, AUDIENCE, FIRST)
    made, fields = bind(answering(), token), call_proof.fields_of(refund())
    assert checked.decide(signer.sign(fields, AT), refund()).code == "missing_discharge"
    assert checked.decide(join(signer.sign(fields, AT), [made]), refund()).code == "ok"
    assert checked.decide(join(unproven(*token.parts(), b""), [made]), refund()).code == "proof_missing"


@pytest.mark.spec("16.6")
def test_what_is_kept_of_a_holder_ends_with_its_audience_key() -> None:
    """A replaced audience key agrees on something else, and what is kept is bounded."""
    key = PreparedKey("k1.0", KEY)
    assert key.agree(FIRST.public) == key.agree(FIRST.public) == FIRST.agree(key.public)
    assert PreparedKey("k1.0", OTHER_KEY).agree(FIRST.public) != key.agree(FIRST.public)
    key._agreed.update((str(number), b"") for number in range(MAX_AGREED))
    key.agree(SECOND.public)
    assert len(key._agreed) <= MAX_AGREED + 1
    assert key.agree("A" * 43) is None


def test_a_key_is_no_text_and_is_not_pickled() -> None:
    """Its private half is in no repr."""
    assert repr(FIRST) == f"<HolderKey {FIRST.public}>"
    with pytest.raises(TypeError):
        pickle.dumps(FIRST)
    with pytest.raises(SettingsError):
        HolderKey(b"short")
    assert HolderKey.generate().public != HolderKey.generate().public


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_pymacaroons_checks_the_chain_of_a_bound_token(hops: int) -> None:
    """The task's token, and each one-shot token, of both proofs."""
    token = handed(hops)
    for text in (token.encode(), signed(token, HOLDERS[hops]), signed(token, HOLDERS[hops], signs=True)):
        witness = pymacaroons.Verifier()
        witness.satisfy_general(lambda _: True)
        assert witness.verify(pymacaroons.Macaroon.deserialize(text[len(wire.TOKEN_PREFIX) :]), KEY)


@QUICK
@given(st.integers(0, 2), st.booleans(), st.data())
def test_no_character_of_a_bound_call_can_change(hops: int, signs: bool, data: st.DataObject) -> None:
    """Each bit of the text is covered, at every alignment of the tail."""
    changes = {"model": "m" * data.draw(st.integers(1, 3))}
    token = bound(**changes)
    for number in range(hops):
        token = token.delegate("acme/worker", key=HOLDERS[number + 1].public, by=HOLDERS[number])
    text = signed(token, HOLDERS[hops], signs=signs)
    checked = verifier()
    assert checked.decide(text, access()).code == "ok"
    text = signed(token, HOLDERS[hops], signs=signs)
    at = data.draw(st.integers(0, len(text) - 1))
    flipped = data.draw(st.sampled_from(sorted({*wire.URL_CHARS} - {text[at]})))
    assert checked.decide(text[:at] + flipped + text[at + 1 :], access()).code != "ok"


@QUICK
@given(st.binary(max_size=120), st.sampled_from([b"", b',"nbf":1', b',"net":["10.0.0.0/8"]']), st.data())
def test_what_is_cut_out_of_a_delegation_is_put_back_alike(junk: bytes, between: bytes, data: st.DataObject) -> None:
    """A caveat is either left as it is, or is the plain one with both members in their places."""
    key, sig = SECOND.public.encode(), wire.base64_of(bytes(64))
    good = b'{"hop":"' + b"h" * 12 + b'","key":"' + key + b'"' + between + b',"sig":"' + sig + b'","to":"acme"}'
    at = data.draw(st.integers(0, len(good)))
    packet = good[:at] + junk + good[at + data.draw(st.integers(0, 8)) :]
    plain, found = holder.unbound(packet)
    if found is None:
        assert plain == packet
        return
    text = found.key.encode()
    assert packet.count(text) >= 1
    assert found.unsigned.replace(b',"key":"' + text + b'"', b"", 1) == plain
    assert packet.replace(b',"sig":"' + wire.base64_of(found.signature) + b'"', b"", 1) == found.unsigned
    assert len(found.signature) == holder.SIGNATURE_BYTES
