# SPDX-License-Identifier: Apache-2.0
"""Mint and verify operators' tokens: macaroons of the mint, for the mint.  SPEC 4.3.

An operator attenuates its token offline like any other token.  Whether the operator is frozen, and which role it has
now, is checked in ``authenticate``.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from arx_verifier.constraints.rule import Rule, compile_rule, explain, permits
from arx_verifier.errors import ArxError, Failure, MalformedTokenError, refusal
from arx_verifier.limits import MAX_WORK, size_of
from arx_verifier.token import chain, wire
from arx_verifier.token.caveats import Caveat, read_caveat
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import IAT_AHEAD_MS, ID_BYTES, MINT_AUDIENCE, Macaroon, OperatorIdentifier
from arx_verifier.verification.reasons import too_early, too_late, too_new

# Short, because no kill reaches an operator's token: only a freeze of the operator, or the removal of its key, does.
TTL_MS: Final = 10 * 60 * 1000
# An operator's token is never delegated and has no task.  Any other member is unknown here, and an unknown member
# prohibits.
UNDERSTOOD: Final = frozenset(("allow", "exp", "nbf"))


def mint_operator_token(
    operator: str, rules: tuple[Rule, ...], *, kid: str, key: bytes, realm: str, now: int
) -> tuple[Macaroon, int]:
    """Return a new operator's token with the rules of the role, and its expiry.

    Args:
        operator: The operator's id.
        rules: The rules of its role.
        kid: The id of the mint's current key.
        key: That key.
        realm: The realm's name.
        now: ms since the Unix epoch.

    Returns:
        The token, and when it expires, ms since the Unix epoch.
    """
    # Neither incarnation nor birth: a realm kill or a restored store must lock no operator out.
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


def verify_operator_token(macaroon: Macaroon, keys: KeyRing) -> OperatorIdentifier:
    """Verify the signature and the shape of an operator's token.

    Args:
        macaroon: The presented token.
        keys: The mint's own keys.

    Returns:
        The authentic identifier.  Expiry and rules are for ``require_token_allows``.

    Raises:
        TokenError: The token is not one of this mint, or has a wrong shape.
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
    # A third-party caveat needs a discharge, and no request of an operator can carry one.
    if len(packets) != len(macaroon.packets):
        raise refusal("missing_discharge")
    if not chain.equal(chain.fold(key.derived, macaroon.identifier, packets), signature):
        raise refusal("bad_signature")
    # Bounds the life that any token may claim, whichever version of the mint signed it.
    if not 0 < identifier.exp - identifier.iat <= TTL_MS or not packets:
        raise refusal("malformed")
    return identifier


def require_token_allows(macaroon: Macaroon, *, action: str | None, args: Mapping[str, Any], now: int) -> None:
    """Require that an authentic operator's token is valid now and allows an action.

    Args:
        macaroon: A token that ``verify_operator_token`` accepted.
        action: The action; None checks only the time.
        args: The action's arguments.
        now: ms since the Unix epoch.

    Raises:
        TokenError: It has expired, is not valid yet, or has a caveat that is not understood.
        AccessError: It does not allow this action with these arguments.
    """
    if now >= macaroon.unverified_identifier.exp:
        raise refusal("expired")
    iat = macaroon.unverified_identifier.iat
    if now < iat - IAT_AHEAD_MS:
        raise refusal("not_yet_valid", (too_new(iat, now),))
    for index, packet in enumerate(_own(macaroon)):
        place = f"caveat {index + 1}"
        _require_caveat_allows(place, packet, first=index == 0, action=action, args=args, now=now)


def require_rules_allow(place: str, rules: Sequence[Rule], action: str, args: Mapping[str, Any]) -> None:
    """Require that one of the rules allows an action with its arguments.

    Args:
        place: The name of the rules in failures.
        rules: The rules.
        action: The action.
        args: The action's arguments.

    Raises:
        MalformedTokenError: A rule cannot be parsed.
        AccessError: No rule allows it.
    """
    matching = [(compiled, rule) for rule in rules if (compiled := compile_rule(rule)).matches_tool(action)]
    if not matching:
        raise refusal("tool_not_allowed", (Failure(place, "tool", " or ".join(rule.tool for rule in rules), action),))
    # Bounds the CPU time of one call: both the rules and the arguments are the caller's choice.
    if sum(compiled.weight for compiled, _ in matching) * size_of(args) > MAX_WORK:
        failure = Failure(
            place, "size of the arguments", "fewer or shorter arguments", "more than one call may have tested"
        )
        raise refusal("argument_not_allowed", (failure,))
    if not any(permits(compiled, args) for compiled, _ in matching):
        failures = [failure for _, rule in matching for failure in explain(rule, args, place)]
        raise refusal("argument_not_allowed", failures)


def _own(macaroon: Macaroon) -> list[bytes]:
    return [packet for packet in macaroon.packets if isinstance(packet, bytes)]


def _require_caveat_allows(
    place: str, packet: bytes, *, first: bool, action: str | None, args: Mapping[str, Any], now: int
) -> None:
    try:
        caveat = read_caveat(packet)
        members = {name for name in caveat.__struct_fields__ if getattr(caveat, name) is not None}
        # Without it the token would allow every action.
        if first and caveat.allow is None:
            raise MalformedTokenError("expected `allow` in the first caveat")
        for rule in caveat.allow or ():
            compile_rule(rule)  # a rule that cannot be parsed prohibits, whichever action is called
    except ArxError as error:
        failure = Failure(place, "shape", "a caveat of SPEC 6", str(error))
        raise refusal(error.code, (failure,)) from error
    if members - UNDERSTOOD:
        raise refusal("unknown_caveat", (Failure(place, "member", "allow, exp or nbf", ", ".join(sorted(members))),))
    if caveat.exp is not None and now >= caveat.exp:
        raise refusal("expired", (too_late(place, caveat.exp, now),))
    if caveat.nbf is not None and now < caveat.nbf:
        raise refusal("not_yet_valid", (too_early(place, caveat.nbf, now),))
    if action is not None and caveat.allow is not None:
        require_rules_allow(place, caveat.allow, action, args)
