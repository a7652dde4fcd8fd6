# SPDX-License-Identifier: Apache-2.0
"""What a thief can do with the text of a bound token, without its holder's key."""

from arx_verifier.token import HolderKey, Identifier, Macaroon, call_proof, chain, holder, wire

THIEF = HolderKey(b"t" * 32)


def stolen_calls(token: Macaroon, fields: bytes, at_ms: int) -> dict[str, str]:
    """Return a thief's calls by what they are refused as; the chain of each is right.

    Args:
        token: The stolen token.
        fields: ``http_fields`` or ``tool_fields`` of the call.
        at_ms: When it is made.
    """
    bound, signature = token.bound_to, token.parts()[1]
    assert bound is not None
    plain = _plain(bound.audience, fields, at_ms)
    own_key = holder.call_key(THIEF.agree(bound.aud_key), signature, bound.audience)
    evidence = holder.call_message(token.location, bound.audience, bound.link, signature, plain)
    guesses = {
        "proof_missing": b"",
        "proof_invalid": holder.mac_of(own_key, plain),
        "proof_invalid, guessed": b"A" * 22,
        "proof_invalid, signed": wire.base64_of(THIEF.sign(evidence)),
    }
    return {code: _text(token, plain, proof) for code, proof in guesses.items()}


def stolen_delegation(token: Macaroon, to: str) -> Macaroon:
    """Return a token that a thief delegated to itself, by a key of its own."""
    members = {name: getattr(_of(token), name) for name in Identifier.__struct_fields__}
    own = Macaroon.mint(Identifier(**members | {"holder": THIEF.public}), key=bytes(32), realm=token.location)
    raw = own.delegate(to, key=THIEF.public, by=THIEF).packets[-1]
    assert isinstance(raw, bytes)
    return Macaroon(*chain.appended(*token.parts(), raw))


def _of(token: Macaroon) -> Identifier:
    identifier = token.unverified_identifier
    assert isinstance(identifier, Identifier)
    return identifier


def _plain(audience: str, fields: bytes, at_ms: int) -> bytes:
    """Return the caveat of a call of a bearer token."""
    identifier = Identifier(
        agent="a",
        aud=audience,
        born=("i", 0),
        depth=0,
        exp=1,
        iat=0,
        kid="k1.0",
        id="A" * 22,
        session="s",
        task="t",
        v=1,
    )
    bearer = Macaroon.mint(identifier, key=bytes(32), realm="any")
    call = call_proof.split_call(call_proof.CallSigner(bearer, audience).sign(fields, at_ms))
    assert call is not None
    return call.plain


def _text(token: Macaroon, plain: bytes, proof: bytes) -> str:
    caveat = plain if not proof else plain[:-2] + b',"' + proof + b'"]}'
    body, signature = chain.appended(*token.parts(), caveat)
    return wire.TOKEN_PREFIX + wire.text_of(body + wire.TAIL + signature)
