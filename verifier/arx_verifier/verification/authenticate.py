# SPDX-License-Identifier: Apache-2.0
"""Prove a chain that was not met before: steps 1 to 3 of SPEC 11, and what its caveats say.

Nothing but ``kid`` and ``aud`` is interpreted before the signature holds.  What is proven here is kept and met again in
``verifier``; how a caveat restricts stands in ``chain_state``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from arx_verifier import names
from arx_verifier.errors import ArxError, MalformedTokenError
from arx_verifier.token import call_proof, chain, wire
from arx_verifier.token.call_proof import PresentedCall
from arx_verifier.token.keyring import AudienceKey, KeyRing
from arx_verifier.token.macaroon import MINT_AUDIENCE, Identifier, OperatorIdentifier, read_identifier
from arx_verifier.token.wire import JOINT
from arx_verifier.verification.chain_state import ProvenChain, Refused
from arx_verifier.verification.prohibiting import failures_of

if TYPE_CHECKING:
    from arx_verifier.verification.discharging import Opened

JOINED: Final = Refused("malformed", ())  # what ``prove`` says of a token with discharges: it is not one token


def prove(
    token: str, call: PresentedCall | None, audience: str, keys: KeyRing, discharges: Sequence[str] = ()
) -> ProvenChain | Refused:
    """Prove a presented token.

    Args:
        token: What was presented, a secret.
        call: What ``split_call`` made of it.
        audience: The verifier's audience.
        keys: Its keys.
        discharges: What was presented with it, secrets.

    Returns:
        The chain, without the call it may have carried; or the refusal, ``JOINED`` for what ``prove_joined`` is there.
    """
    if JOINT in token:
        return JOINED
    try:
        if call is None:
            body, signature = wire.read_text(token)
        else:
            body, signature = wire.split_text(call.head) + call.rest, call.signature
        location, raw_identifier, packets = wire.walk(body)
        unverified = read_identifier(raw_identifier)
        if location != keys.location or len(packets) + (call is not None) > wire.MAX_CAVEATS:
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
        opened = _open(discharges, key, raw_identifier, packets, parent, call, keys) if discharges else None
        identifier = check_identifier(unverified, audience, keys)
        proven = ProvenChain(key, identifier, parent, call.rest if call is not None else b"")
        if opened is None:
            proven.read_caveats(packets, audience)
        else:
            _read(proven, opened, len(packets), audience)
    except ArxError as error:
        return Refused(error.code, ())
    return proven


def prove_joined(text: str, audience: str, keys: KeyRing) -> tuple[PresentedCall | None, ProvenChain | Refused]:
    """Prove a token with its discharges.  SPEC 6.7.

    Args:
        text: What was presented, a secret.
        audience: The verifier's audience.
        keys: Its keys.

    Returns:
        The call that the token carried, and the chain with the caveats of the discharges; or the refusal.
    """
    from arx_verifier.token.discharge import MAX_DISCHARGES

    token, *discharges = text.split(JOINT, MAX_DISCHARGES + 1)
    if len(text) > wire.MAX_CREDENTIAL_CHARS or len(discharges) > MAX_DISCHARGES:
        return None, JOINED
    call = call_proof.split_call(token)
    return call, prove(token, call, audience, keys, discharges)


def _open(
    discharges: Sequence[str],
    key: AudienceKey,
    identifier: bytes,
    packets: tuple[bytes | wire.ThirdParty, ...],
    parent: bytes,
    call: PresentedCall | None,
    keys: KeyRing,
) -> "Opened":
    from arx_verifier.verification.discharging import open_discharges  # and with it what opens boxes: few calls need it

    return open_discharges(
        discharges,
        key=key.derived,
        identifier=identifier,
        packets=packets,
        parent=parent,
        location=keys.location,
        room=wire.MAX_CAVEATS - (call is not None),
    )


def _read(proven: ProvenChain, opened: "Opened", own: int, audience: str) -> None:
    """Read the caveats of discharges behind the token's *own*."""
    from arx_verifier.verification.discharging import speaks_of_holders

    wrong = speaks_of_holders(opened.packets, own)
    proven.read_caveats(opened.packets if wrong is None else opened.packets[:own], audience)
    proven.once = tuple([(place, opened.own_name(place, name), at) for place, name, at in proven.once])
    proven.unmet = tuple(unmet for unmet in proven.unmet if unmet[0] not in opened.answered)
    if wrong is not None and proven.refused is None:
        index, error = wrong
        proven.refused = Refused(error.code, failures_of(error, index))


def check_identifier(identifier: Identifier | OperatorIdentifier, audience: str, keys: KeyRing) -> Identifier:
    """Hold a proven identifier to the realm's outer limits.

    Args:
        identifier: What ``read_identifier`` read.
        audience: This verifier's audience.
        keys: For the realm's longest token life.

    Returns:
        The identifier, an agent's.

    Raises:
        MalformedTokenError: An operator's, a life longer than the realm's, a bound token, no task, or a name that is
            none of SPEC 4.4.
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
    session = identifier.session
    if not names.are_ids(session, identifier.task or session) or not names.can_grant(
        identifier.agent, identifier.policy
    ):
        raise MalformedTokenError("agent, session, task and policy are named as SPEC 4.4 says")
    return identifier
