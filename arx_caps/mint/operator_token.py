# SPDX-License-Identifier: Apache-2.0
"""Operators' tokens: macaroons of the mint for the mint, which know no session and no epoch.  SPEC 4.3.

A realm kill or a restored store must lock no operator out, so these carry neither incarnation nor birth; ten minutes
and the operator's enrolled key bound them.  Their ``allow`` rules name operator actions, and an operator narrows one
offline like any token: ``arx.kill`` alone is a kill-only credential.  Whether the operator is frozen is not asked here.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final

from arx_verifier import chain, codec
from arx_verifier.bounds import MAX_WORK, size_of
from arx_verifier.caveats import Caveat, read_caveat
from arx_verifier.constraints import Rule, compile_rule, explain, permits
from arx_verifier.errors import ArxError, Failure, MalformedTokenError, refusal
from arx_verifier.keys import KeyRing
from arx_verifier.macaroon import ID_BYTES, MINT_AUDIENCE, Macaroon, OperatorIdentifier

TTL_MS: Final = 10 * 60 * 1000
ALL_ACTIONS: Final = (Rule(tool="arx.*"),)
# An operator's token is handed to nobody and has no task: any other member is unknown here, and what is unknown
# prohibits.
UNDERSTOOD: Final = frozenset(("allow", "exp", "nbf"))


def mint_operator_token(operator: str, *, kid: str, key: bytes, realm: str, now: int) -> tuple[Macaroon, int]:
    """Make an operator's token and return it with the time it ends, ms."""
    identifier = OperatorIdentifier(
        aud=MINT_AUDIENCE,
        exp=now + TTL_MS,
        iat=now,
        id=codec.text_of(secrets.token_bytes(ID_BYTES)),
        kid=kid,
        operator=operator,
        v=1,
    )
    return Macaroon.mint(identifier, key=key, realm=realm, caveats=(Caveat(allow=ALL_ACTIONS),)), identifier.exp


def check_operator_token(
    macaroon: Macaroon, keys: KeyRing, *, action: str | None, args: Mapping[str, Any], now: int
) -> OperatorIdentifier:
    """Prove an operator's token and hold an action to its rules.

    Args:
        macaroon: What was presented.
        keys: The mint's own keys.
        action: What is to be done; None asks only who this is.
        args: With what.
        now: ms since the Unix epoch.

    Returns:
        The proven identifier.

    Raises:
        TokenError: The token is not usable.
        AccessError: It does not allow this.
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
    packets = [packet for packet in macaroon.packets if isinstance(packet, bytes)]
    if len(packets) != len(macaroon.packets):
        raise refusal("missing_discharge")
    if not chain.equal(chain.fold(key.derived, macaroon.identifier, packets), signature):
        raise refusal("bad_signature")
    # From here on the content is authentic.
    if not 0 < identifier.exp - identifier.iat <= TTL_MS:
        raise refusal("malformed")
    if now >= identifier.exp:
        raise refusal("expired")
    if not packets:
        raise refusal("malformed")
    for index, packet in enumerate(packets):
        _judge(f"caveat {index + 1}", packet, first=index == 0, action=action, args=args, now=now)
    return identifier


def _judge(place: str, packet: bytes, *, first: bool, action: str | None, args: Mapping[str, Any], now: int) -> None:
    try:
        caveat = read_caveat(packet)
        said = {name for name in caveat.__struct_fields__ if getattr(caveat, name) is not None}
        if first and caveat.allow is None:
            raise MalformedTokenError("a token's first caveat says what it allows")
        rules = [(compile_rule(rule), rule) for rule in caveat.allow or ()]
    except ArxError as error:
        failure = Failure(place, "shape", "a caveat of SPEC 6", str(error))
        raise refusal(error.code, (failure,)) from error
    if said - UNDERSTOOD:
        raise refusal("unknown_caveat", (Failure(place, "member", "allow, exp or nbf", ", ".join(sorted(said))),))
    if caveat.exp is not None and now >= caveat.exp:
        raise refusal("expired", (Failure(place, "exp", f"a time before {caveat.exp}", str(now)),))
    if caveat.nbf is not None and now < caveat.nbf:
        raise refusal("not_yet_valid", (Failure(place, "nbf", f"a time from {caveat.nbf} on", str(now)),))
    if action is None or caveat.allow is None:
        return
    matching = [(compiled, rule) for compiled, rule in rules if compiled.matches_tool(action)]
    if not matching:
        wanted = " or ".join(rule.tool for rule in caveat.allow)
        raise refusal("tool_not_allowed", (Failure(place, "tool", wanted, action),))
    if sum(compiled.weight for compiled, _ in matching) * size_of(args) > MAX_WORK:
        failure = Failure(place, "size", "fewer or shorter arguments", "more work than is allowed")
        raise refusal("argument_not_allowed", (failure,))
    if not any(permits(compiled, args) for compiled, _ in matching):
        failures = [failure for _, rule in matching for failure in explain(rule, args, place)]
        raise refusal("argument_not_allowed", failures)
