# SPDX-License-Identifier: Apache-2.0
"""Prove a chain that was not met before: steps 1 to 3 of SPEC 11, and what its caveats say.

Nothing but ``kid`` and ``aud`` is interpreted before the signature holds.  What is proven here is kept and met again in
``verify``; how a caveat restricts stands in ``proven``.
"""

from arx_verifier import chain, codec
from arx_verifier.errors import ArxError, MalformedTokenError
from arx_verifier.keys import KeyRing
from arx_verifier.macaroon import MINT_AUDIENCE, Identifier, OperatorIdentifier, read_identifier
from arx_verifier.presented import Call
from arx_verifier.proven import ProvenChain, Refused


def prove(token: str, call: Call | None, audience: str, keys: KeyRing) -> ProvenChain | Refused:
    """Prove a presented token.

    Args:
        token: What was presented, a secret.
        call: What ``split_call`` made of it.
        audience: The verifier's audience.
        keys: Its keys.

    Returns:
        The chain, without the call it may have carried; or the refusal.
    """
    try:
        if call is None:
            body, signature = codec.read_text(token)
        else:
            body, signature = codec.split_text(call.head) + call.rest, call.signature
        location, raw_identifier, packets = codec.walk(body)
        unverified = read_identifier(raw_identifier)
        if location != keys.location or len(packets) + (call is not None) > codec.MAX_CAVEATS:
            return Refused("malformed", ())
        if unverified.aud != audience:
            return Refused("wrong_audience", ())
        key = keys.get(unverified.kid)
        if key is None:
            return Refused("unknown_key", ())
        parent = chain.fold(key.derived, raw_identifier, packets)
        folded = chain.extend(parent, call.caveat) if call is not None else parent
        if not chain.equal(folded, signature):
            return Refused("bad_signature", ())
        identifier = check_identifier(unverified, audience, keys)
        proven = ProvenChain(key, identifier, parent, call.rest if call is not None else b"")
        ProvenChain.read_caveats(proven, packets, audience)
    except ArxError as error:
        return Refused(error.code, ())
    return proven


def check_identifier(identifier: Identifier | OperatorIdentifier, audience: str, keys: KeyRing) -> Identifier:
    """Hold a proven identifier to the realm's outer limits.

    Args:
        identifier: What ``read_identifier`` read.
        audience: This verifier's audience.
        keys: For the realm's longest token life.

    Returns:
        The identifier, an agent's.

    Raises:
        MalformedTokenError: An operator's, a life longer than the realm's, a bound token, or no task.
    """
    if not isinstance(identifier, Identifier):
        raise MalformedTokenError("an operator's token is good for the mint alone")
    if not 0 < identifier.exp - identifier.iat <= keys.max_ttl_ms:
        # A token that lives longer would outlive the record of its kill.
        raise MalformedTokenError(f"a token of this realm lives at most {keys.max_ttl_ms} ms")
    if identifier.holder is not None:
        raise MalformedTokenError("bound tokens are reserved and not accepted by this version")
    if (identifier.task is None) != (audience == MINT_AUDIENCE):
        raise MalformedTokenError("a token for a tool service has a task; one for the mint has none")
    return identifier
