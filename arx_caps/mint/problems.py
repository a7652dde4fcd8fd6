# SPDX-License-Identifier: Apache-2.0
"""How the mint says no: RFC 9457 problems with a stable code.  SPEC 13.

``STATUS`` is the whole set of codes that the mint adds to ``REASONS``.  A problem says what was expected; never a key,
a token, or a line of a program.
"""

import http
import json
import logging
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from arx_caps.mint.limits import TooOftenError
from arx_caps.mint.observing import REQUEST_ID, id_of
from arx_verifier.errors import REASONS, ArxError, Failure

STATUS: Final = {
    "attenuation": 400,
    "bad_assertion": 401,
    "bad_enrolment": 401,
    "bad_proof": 401,
    "bad_subject_token": 401,
    "bad_workload_token": 401,
    "bad_batch": 403,
    "not_granted": 403,
    "exchange_not_allowed": 403,
    "wrong_caller": 403,
    "session_ended": 403,
    "session_not_allowed": 403,
    "subject_not_allowed": 403,
    "subject_required": 403,
    "too_many_sessions": 403,
    "unknown_task": 403,
    "bad_parameters": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "agent_exists": 409,
    "operator_exists": 409,
    "key_enrolled": 409,
    "conflict": 409,
    "too_large": 413,
    "unsupported_media_type": 415,
    "idempotency_mismatch": 422,
    "policy": 422,
    "rate_limited": 429,
    "internal": 500,
    "tampered": 500,
    "incomplete": 503,
    "issuer_unavailable": 503,
}
_OF_HTTP: Final = {404: "not_found", 405: "method_not_allowed"}
_PROOF_CODES: Final = ("bad_proof", "replayed")
RETRY_AFTER_S: Final = "1"  # a lease is renewed several times in this time

_log = logging.getLogger(__name__)


class FailureShown(msgspec.Struct, frozen=True, kw_only=True):
    """What was expected at a place, by which rule, and what came."""

    place: str
    rule: str
    expected: str
    came: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal (RFC 9457); ``code`` is what a program goes by, ``detail`` is for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    failures: list[FailureShown] | UnsetType = UNSET


def status_of(code: str) -> int:
    """Return the HTTP status of a code.

    Args:
        code: A key of ``REASONS`` or of ``STATUS``.
    """
    return STATUS[code] if code in STATUS else REASONS[code].status


def problem(
    code: str,
    detail: str,
    *,
    realm: str,
    failures: Sequence[Failure] = (),
    headers: dict[str, str] | None = None,
    status: int | None = None,
) -> Response:
    """Write a refusal.

    Args:
        code: A key of ``REASONS`` or of ``STATUS``.
        detail: A sentence for people; no secret.
        realm: The realm's name, for the challenge of a 401.
        failures: What was expected and what came.
        headers: More headers.
        status: Where the code is in neither table.
    """
    if status is None:
        status = status_of(code)
    told = Problem(
        type="about:blank",
        title=http.HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        failures=[FailureShown(**failure._asdict()) for failure in failures] or UNSET,
    )
    sent = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})}
    if status == http.HTTPStatus.UNAUTHORIZED:
        error = "invalid_dpop_proof" if code in _PROOF_CODES else "invalid_token"
        said = "" if code == "missing_token" else f', error="{error}"'
        sent["WWW-Authenticate"] = f'DPoP realm="{realm}", algs="EdDSA Ed25519"{said}'
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        sent["Retry-After"] = RETRY_AFTER_S
    # Beyond ASCII is escaped: what a stranger sent could hold half a surrogate, which UTF-8 has no bytes for.
    body = json.dumps(msgspec.to_builtins(told)).encode("ascii")
    return Response(body, status, sent, media_type="application/problem+json")


def of_error(error: ArxError, realm: str) -> Response:
    """Write the refusal that an error is."""
    known = error.code in STATUS or error.code in REASONS
    status = None if known else error.status_hint
    headers = {"Retry-After": str(error.wait_s)} if isinstance(error, TooOftenError) else None
    return problem(error.code, str(error), realm=realm, failures=error.failures, status=status, headers=headers)


def of_http(request: Request, error: Exception) -> Response:
    """Write what the framework refused: an unknown path or another method."""
    assert isinstance(error, HTTPException)
    code = _OF_HTTP.get(error.status_code, "malformed_request")
    realm = request.app.state.mint.realm.name
    return problem(code, str(error.detail), realm=realm, headers=dict(error.headers or {}), status=error.status_code)


def of_bug(request: Request, error: Exception) -> Response:
    """Write that something went wrong here; what, is for the log alone."""
    number = id_of(request)
    _log.error("failed", exc_info=error, extra={"facts": {"request": number}})
    realm = request.app.state.mint.realm.name
    headers = {REQUEST_ID: number} if number is not None else None
    return problem("internal", "the mint failed to answer; its log says more", realm=realm, headers=headers)
