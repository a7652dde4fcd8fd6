# SPDX-License-Identifier: Apache-2.0
"""Describe a token without verifying it: its identifier, and what each caveat removes.  SPEC 4 to 8.

All of it is *unverified* and must be printed as such: only a verifier with the audience's key can authenticate it.
"""

import hashlib
from typing import Any

import msgspec

from arx_caps.agent.tasks.outline import unverified_chain
from arx_caps.text.caveat_text import after_any, removals
from arx_verifier.errors import ArxError
from arx_verifier.token import call_proof, caveats, wire
from arx_verifier.token.discharge import ThirdPartyCaveat
from arx_verifier.token.macaroon import IAT_AHEAD_MS, Macaroon, OperatorIdentifier, about


class Step(msgspec.Struct, frozen=True):
    """The description of one caveat.

    Attributes:
        place: Its place, as refusals name it: ``caveat 1``.
        kind: ``mint``, ``delegation``, ``attenuation``, ``third_party_caveat``, ``approval`` or ``call``.
        to: The agent that a delegation names, or None.
        removes: A phrase for each restriction.
        caveat: Its members, or None if it is malformed.
    """

    place: str
    kind: str
    to: str | None
    removes: tuple[str, ...]
    caveat: dict[str, Any] | None


def fingerprint(text: str) -> str:
    """Return a name for a secret text: the first 16 hex digits of its SHA-256."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]


def describe_token(macaroon: Macaroon) -> dict[str, Any]:
    """Return a token's description for JSON, without its signature.

    Raises:
        MalformedTokenError: The identifier is malformed.
    """
    identifier = macaroon.unverified_identifier
    facts: dict[str, Any] = {
        "audience": identifier.aud,
        "fingerprint": fingerprint(macaroon.encode()),
        "realm": macaroon.location,
        "kid": identifier.kid,
        "issued_at": identifier.iat,
        "expires_at": identifier.exp,
        "one_shot": macaroon.is_one_shot,
        "caveats": [msgspec.to_builtins(step) for step in steps(macaroon)],
    }
    if isinstance(identifier, OperatorIdentifier):
        return {"operator": identifier.operator} | facts
    # The verifier's own code computes expiry, holder and targets, so the description cannot differ from the decision.
    chain = unverified_chain(macaroon)
    refused, bound = chain.refused, macaroon.bound_to
    return facts | {
        "agent": identifier.agent,
        "session": identifier.session,
        "task": identifier.task,
        "subject": list(identifier.subject) if identifier.subject else None,
        "model": identifier.model,
        "meta": dict(about(identifier)),
        "policy": identifier.policy,
        "born": list(identifier.born),
        "expires_at": chain.exp,
        "not_before": chain.nbf if chain.nbf > identifier.iat - IAT_AHEAD_MS else None,
        "holder": chain.facts.named[-1] if chain.facts.named else identifier.agent,
        "named": list(chain.facts.named),
        "link": chain.facts.links[-1] if chain.facts.links else identifier.id,
        "links": [identifier.id, *chain.facts.links],
        "bound_to": None if bound is None else bound.holder,
        "needs_call": chain.needs_call,
        "targets": list(chain.targets),
        "never_accepted": None
        if refused is None
        else {"code": refused.code, "failures": [failure.located() for failure in refused.failures]},
    }


def describe_discharge(macaroon: Macaroon) -> dict[str, Any]:
    """Return a discharge's description for JSON, without its signature.

    Raises:
        UnknownCaveatError: This version does not know the form of its third-party caveat.
    """
    answers = ThirdPartyCaveat.read(macaroon.identifier)
    return {
        "answers": msgspec.to_builtins(answers),
        "fingerprint": fingerprint(macaroon.encode()),
        "realm": macaroon.location,
        "caveats": [msgspec.to_builtins(msgspec.structs.replace(step, kind="approval")) for step in steps(macaroon)],
    }


def steps(macaroon: Macaroon) -> list[Step]:
    """Return the description of each caveat."""
    found: list[Step] = []
    handed = False
    packets, call = list(macaroon.packets), call_proof.split_call(macaroon.encode())
    if call is not None:
        packets[-1] = call.plain  # without its holder's proof, which no reader of caveats knows
    for index, packet in enumerate(packets):
        place = f"caveat {index + 1}"
        if isinstance(packet, wire.ThirdPartyPacket):
            found.append(_third_party(place, packet))
            continue
        try:
            caveat = caveats.read_caveat(packet)
        except ArxError as error:
            found.append(Step(place, "attenuation", None, (f"everything: {error}",), None))
            continue
        handed = handed or caveat.to is not None
        kind = "delegation" if caveat.to is not None else "call" if caveat.call is not None else "attenuation"
        kind = "mint" if kind == "attenuation" and not handed and index == 0 else kind
        found.append(Step(place, kind, caveat.to, tuple(removals(caveat)), msgspec.to_builtins(caveat)))
    return found


def _third_party(place: str, packet: wire.ThirdPartyPacket) -> Step:
    """Return the description of a third-party caveat: the calls that need an approval."""
    try:
        required = ThirdPartyCaveat.read(packet.identifier)
    except ArxError as error:
        return Step(place, "third_party_caveat", None, (f"everything: {error}",), None)
    which = "every call" if required.tools is None else f"calls of {' or '.join(required.tools)}"
    if required.when is not None:
        which += f" once {after_any(required.when)}"
    content = {"third_party": msgspec.to_builtins(required)}
    return Step(
        place, "third_party_caveat", None, (f"{which} without an approval, a discharge for {required.id}",), content
    )
