# SPDX-License-Identifier: Apache-2.0
"""Operators' tokens: macaroons of the mint for the mint, which know no session and no epoch.  SPEC 4.3.

A realm kill or a restored store must lock no operator out, so these carry neither incarnation nor birth; ten minutes
and the operator's enrolled key bound them.  Their ``allow`` rules are those of the operator's role, and an operator
attenuates one offline like any token.  Whether the operator is frozen, and what the role is by now, is not asked here.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from arx_verifier.constraints import Rule, compile_rule, explain, permits
from arx_verifier.errors import ArxError, Failure, MalformedTokenError, refusal
from arx_verifier.limits import MAX_WORK, size_of
from arx_verifier.token import (
    IAT_AHEAD_MS,
    ID_BYTES,
    MINT_AUDIENCE,
    Caveat,
    KeyRing,
    Macaroon,
    OperatorIdentifier,
    chain,
    read_caveat,
    wire,
)

TTL_MS: Final = 10 * 60 * 1000
# An operator's token is delegated to nobody and has no task: any other member is unknown here, and what is unknown
# prohibits.
UNDERSTOOD: Final = frozenset(("allow", "exp", "nbf"))


def mint_operator_token(
    operator: str, rules: tuple[Rule, ...], *, kid: str, key: bytes, realm: str, now: int
) -> tuple[Macaroon, int]:
    """Make an operator's token with the rules of the role, and return it with the time it ends, ms."""
    identifier = OperatorIdentifier(
        aud=MINT_AUDIENCE,
        exp=now + TTL_MS,
        iat=now,
        id=wire.text_of(secrets.token_bytes(ID_BYTES)),
        kid=kid,
        operator=operator,
        v=1,
    )
    return Macaroon.mint(identifier, key=key, realm=realm, caveats=(Caveat(allow=rules),)), identifier.exp


def prove_operator_token(macaroon: Macaroon, keys: KeyRing) -> OperatorIdentifier:
    """Prove that an operator's token is the mint's own.

    Args:
        macaroon: What was presented.
        keys: The mint's own keys.

    Returns:
        The proven identifier; what the token allows, and until when, is for ``hold_to_token``.

    Raises:
        TokenError: The token is not usable.
    """
    _, signature = macaroon.parts()
    identifier = macaroon.unverified_identifier
    if not isinstance(identifier, OperatorIdentifier) or macaroon.location != keys.realm:
        raise refusal("malformed")
    if identifier.aud != MINT_AUDIENCE:
        raise refusal("wrong_audience")
    key = keys.get(identifier.kid)
    if key is None:
        raise refusal("unknown_key")
    packets = _own(macaroon)
    if len(packets) != len(macaroon.packets):
        raise refusal("missing_discharge")
    if not chain.equal(chain.fold(key.derived, macaroon.identifier, packets), signature):
        raise refusal("bad_signature")
    if not 0 < identifier.exp - identifier.iat <= TTL_MS or not packets:
        raise refusal("malformed")
    return identifier


def hold_to_token(macaroon: Macaroon, *, action: str | None, args: Mapping[str, Any], now: int) -> None:
    """Hold an action to the time and the rules of a proven operator's token.

    Args:
        macaroon: What ``prove_operator_token`` proved.
        action: What is to be done; None asks only whether the token is of now.
        args: With what.
        now: ms since the Unix epoch.

    Raises:
        TokenError: Its time is not now, or it says what is not understood.
        AccessError: It does not allow this.
    """
    if now >= macaroon.unverified_identifier.exp:
        raise refusal("expired")
    iat = macaroon.unverified_identifier.iat
    if now < iat - IAT_AHEAD_MS:
        raise refusal("not_yet_valid", (Failure("identifier", "iat", f"at most {now + IAT_AHEAD_MS}", str(iat)),))
    for index, packet in enumerate(_own(macaroon)):
        _judge(f"caveat {index + 1}", packet, first=index == 0, action=action, args=args, now=now)


def hold_to_rules(place: str, rules: Sequence[Rule], action: str, args: Mapping[str, Any]) -> None:
    """Require that one of some rules allows an action with its arguments.

    Args:
        place: What failures call the rules.
        rules: The rules.
        action: What is to be done.
        args: With what.

    Raises:
        MalformedTokenError: A rule cannot be read.
        AccessError: None allows it.
    """
    matching = [(compiled, rule) for rule in rules if (compiled := compile_rule(rule)).matches_tool(action)]
    if not matching:
        raise refusal("tool_not_allowed", (Failure(place, "tool", " or ".join(rule.tool for rule in rules), action),))
    if sum(compiled.weight for compiled, _ in matching) * size_of(args) > MAX_WORK:
        failure = Failure(place, "size", "fewer or shorter arguments", "more work than is allowed")
        raise refusal("argument_not_allowed", (failure,))
    if not any(permits(compiled, args) for compiled, _ in matching):
        failures = [failure for _, rule in matching for failure in explain(rule, args, place)]
        raise refusal("argument_not_allowed", failures)


def _own(macaroon: Macaroon) -> list[bytes]:
    return [packet for packet in macaroon.packets if isinstance(packet, bytes)]


def _judge(place: str, packet: bytes, *, first: bool, action: str | None, args: Mapping[str, Any], now: int) -> None:
    try:
        caveat = read_caveat(packet)
        said = {name for name in caveat.__struct_fields__ if getattr(caveat, name) is not None}
        if first and caveat.allow is None:
            raise MalformedTokenError("a token's first caveat says what it allows")
        for rule in caveat.allow or ():
            compile_rule(rule)  # one that cannot be read prohibits, whatever is asked
    except ArxError as error:
        failure = Failure(place, "shape", "a caveat of SPEC 6", str(error))
        raise refusal(error.code, (failure,)) from error
    if said - UNDERSTOOD:
        raise refusal("unknown_caveat", (Failure(place, "member", "allow, exp or nbf", ", ".join(sorted(said))),))
    if caveat.exp is not None and now >= caveat.exp:
        raise refusal("expired", (Failure(place, "exp", f"a time before {caveat.exp}", str(now)),))
    if caveat.nbf is not None and now < caveat.nbf:
        raise refusal("not_yet_valid", (Failure(place, "nbf", f"a time from {caveat.nbf} on", str(now)),))
    if action is not None and caveat.allow is not None:
        hold_to_rules(place, caveat.allow, action, args)
