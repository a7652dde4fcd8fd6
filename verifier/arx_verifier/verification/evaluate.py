# SPDX-License-Identifier: Apache-2.0
"""Apply every restriction of an authenticated token to a request, in order.  SPEC 11, step 4.

This step changes no state and never waits.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from arx_verifier.errors import RequestError
from arx_verifier.jcs import flat_jcs
from arx_verifier.journal.record import form_of
from arx_verifier.request import UNSEEN_BODY, AccessRequest
from arx_verifier.revocation.epoch import Epochs
from arx_verifier.token.call_proof import (
    MAX_AGE_MS,
    MAX_AHEAD_MS,
    STAMP,
    PresentedCall,
    call_digest,
    http_digest,
    tool_digest,
    tool_fields,
)
from arx_verifier.verification.chain_state import ProvenChain
from arx_verifier.verification.reasons import (
    PROOF_MISSING,
    REQUEST_UNSEEN,
    Refused,
    another_call,
    missing_discharge,
    no_form,
    out_of_age,
    out_of_time,
)

if TYPE_CHECKING:
    from arx_verifier.verification.service_limits import ServiceLimits


def judge(
    epochs: Epochs,
    prefix: bytes,
    proven: ProvenChain,
    call: PresentedCall | None,
    request: AccessRequest,
    limits: tuple["ServiceLimits", ...] = (),
) -> tuple[Refused | None, bytes | None]:
    """Apply every restriction.

    Args:
        epochs: The epoch view, which bounds the store's clock.
        prefix: ``call_proof.digest_prefix`` of the audience.
        proven: The chain.
        call: The presented call, or None for a token without a call proof.
        request: The request.
        limits: The limits of the service.

    Returns:
        The refusal or None; and the arguments' JSON, if it was computed, for ``digest_arguments``.
    """
    if proven.refused is not None:
        return proven.refused, None
    # The start is compared with the earliest time that it can be, the end with the latest: a clock error never grants.
    early, late = epochs.times_ms(request.at)
    if late >= proven.exp or early < proven.nbf:
        return out_of_time(proven.nbf, proven.exp, proven.identifier.iat, early, late), None
    http = request.http
    is_unseen = http is not None and http.body_digest == UNSEEN_BODY
    written: bytes | None = None
    if call is not None:
        if not -MAX_AHEAD_MS <= (age := request.at - call.issued_at) <= MAX_AGE_MS:
            return out_of_age(age), None
        if (refused := proven.judge_holder(call)) is not None:
            return refused, None
        try:
            if http is not None:
                digest = http_digest(prefix, call.caveat, *http)
            elif (written := flat_jcs(request.args)) is not None:
                digest = tool_digest(prefix, call.caveat, request.tool, written)  # the fast path of most calls
            else:
                digest = call_digest(prefix, call.caveat[STAMP], tool_fields(request.tool, request.args))
        except (RequestError, UnicodeEncodeError) as error:
            return no_form(error), None
        # Not in constant time: the digest is no secret, and the signature over it was verified in step 3.
        if digest != call.digest:
            return REQUEST_UNSEEN if is_unseen else another_call(request), written
    elif proven.needs_call:
        return PROOF_MISSING, None
    if proven.conditions and (refused := proven.judge_request(request)) is not None:
        return refused, written
    if limits and (refused := _judge_circumstances(limits, request, early, late)) is not None:
        return refused, written
    refused = proven.judge_tool(request.tool, request.args, written)
    if is_unseen:
        refused = proven.judge_unseen(request.tool, request.args, refused)
    if limits and refused is None:
        refused = _judge_limits(limits, proven, request, written, is_unseen)
    if refused is None and written is None and (call is None or http is not None):
        refused, written = _write(request.args)  # no proof covers these arguments, so they were not checked yet
    if refused is None and proven.unmet:  # last: a call that is refused for another reason must not ask for approval
        refused = missing_discharge(proven.unmet, request.tool)
    return refused, written


def _judge_circumstances(
    limits: tuple["ServiceLimits", ...], request: AccessRequest, early: int, late: int
) -> Refused | None:
    """Apply networks and hours of the limits.  SPEC 20."""
    for limit in limits:
        if (refused := limit.judge_circumstances(request, early, late)) is not None:
            return refused
    return None


def _judge_limits(
    limits: tuple["ServiceLimits", ...],
    proven: ProvenChain,
    request: AccessRequest,
    written: bytes | None,
    is_unseen: bool,
) -> Refused | None:
    """Apply the limits to a call that the token allows.  SPEC 20."""
    for limit in limits:
        refused = limit.judge_tool(request, written, is_unseen)
        if refused is None:
            refused = limit.judge_approval(request.tool, proven)
        if refused is not None:
            return refused
    return None


def _write(args: Mapping[str, Any]) -> tuple[Refused | None, bytes | None]:
    """Return the JSON of arguments; or the refusal, if they have none."""
    try:
        return None, form_of(args)
    except RequestError as error:
        return no_form(error), None
