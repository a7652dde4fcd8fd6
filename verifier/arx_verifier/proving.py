# SPDX-License-Identifier: Apache-2.0
"""Prove a chain that was not met before: steps 1 to 3 of SPEC 11, and what its caveats say.

Nothing but ``kid`` and ``aud`` is interpreted before the signature holds.  What is proven here is kept and met again in
``verify``; how a caveat restricts stands in ``proven``.
"""

from arx_verifier import chain, codec
from arx_verifier.errors import ArxError
from arx_verifier.keys import KeyRing
from arx_verifier.macaroon import read_identifier
from arx_verifier.presented import Call
from arx_verifier.proven import ProvenChain, Refused, check_identifier


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
            body, signature = codec.split_body(codec.split_text(token))
        else:
            body, signature = codec.split_text(call.head) + call.rest, call.signature
        location, raw_identifier, packets = codec.walk(body)
        unverified = read_identifier(raw_identifier)
        if location != keys.location or len(packets) + (call is not None) > codec.MAX_CAVEATS:
            return Refused("malformed", ())
    except ArxError as error:
        return Refused(error.code, ())
    if unverified.aud != audience:
        return Refused("wrong_audience", ())
    key = keys.get(unverified.kid)
    if key is None:
        return Refused("unknown_key", ())
    parent = chain.fold(key.derived, raw_identifier, packets)
    folded = chain.extend(parent, call.caveat) if call is not None else parent
    if not chain.equal(folded, signature):
        return Refused("bad_signature", ())
    try:
        identifier = check_identifier(unverified, audience, keys)
        proven = ProvenChain(key, identifier, parent, call.rest if call is not None else b"")
        proven.read_caveats(packets, audience)
    except ArxError as error:
        return Refused(error.code, ())
    return proven
