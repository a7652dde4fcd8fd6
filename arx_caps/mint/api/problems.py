# SPDX-License-Identifier: Apache-2.0
"""How the mint says no: RFC 9457 problems with a stable code.  SPEC 13, 22.2.

A problem says what was expected; never a key, a token, or a line of a program.  Which codes there are is in ``codes``.
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

from arx_caps.mint.api.access_log import REQUEST_ID, id_of
from arx_caps.mint.api.codes import PATH, find_code
from arx_caps.mint.rate_limit import TooOftenError
from arx_caps.realm import Realm
from arx_verifier.errors import ArxError, Failure

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
    """A refusal (RFC 9457); ``code`` is what a program goes by, ``detail`` is for people, ``type`` tells them more."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    failures: list[FailureShown] | UnsetType = UNSET


def type_of(code: str, issuer: str) -> str:
    """Return the address at which a mint explains a code."""
    return f"{issuer}{PATH}{code}"


def problem(
    code: str,
    detail: str,
    *,
    realm: Realm,
    failures: Sequence[Failure] = (),
    headers: dict[str, str] | None = None,
    status: int | None = None,
) -> Response:
    """Write a refusal.

    Args:
        code: One that ``find_code`` knows.
        detail: A sentence for people; no secret.
        realm: The realm.
        failures: What was expected and what came.
        headers: More headers.
        status: Another status than the code's own.
    """
    known = find_code(code)
    if status is None:
        status = known.status if known is not None else http.HTTPStatus.INTERNAL_SERVER_ERROR
    told = Problem(
        type=type_of(code, realm.issuer),
        title=known.means if known is not None else http.HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        failures=[FailureShown(**failure._asdict()) for failure in failures] or UNSET,
    )
    sent = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})}
    if status == http.HTTPStatus.UNAUTHORIZED:
        error = "invalid_dpop_proof" if code in _PROOF_CODES else "invalid_token"
        said = "" if code == "missing_token" else f', error="{error}"'
        sent["WWW-Authenticate"] = f'DPoP realm="{realm.name}", algs="EdDSA Ed25519"{said}'
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        sent["Retry-After"] = RETRY_AFTER_S
    # Beyond ASCII is escaped: what a stranger sent could hold half a surrogate, which UTF-8 has no bytes for.
    body = json.dumps(msgspec.to_builtins(told)).encode("ascii")
    return Response(body, status, sent, media_type="application/problem+json")


def of_error(error: ArxError, realm: Realm) -> Response:
    """Write the refusal that an error is."""
    status = error.status_hint if find_code(error.code) is None else None
    headers = {"Retry-After": str(error.wait_s)} if isinstance(error, TooOftenError) else None
    return problem(error.code, str(error), realm=realm, failures=error.failures, status=status, headers=headers)


def of_http(request: Request, error: Exception) -> Response:
    """Write what the framework refused: an unknown path or another method."""
    assert isinstance(error, HTTPException)
    code, headers = _OF_HTTP.get(error.status_code, "malformed_request"), dict(error.headers or {})
    detail = str(error.detail)
    if code == "not_found":
        detail = "the mint has no such path; /openapi.json has all that there are"
    elif code == "method_not_allowed":
        detail = f"this path takes {headers.get('Allow', 'other methods')}"
    realm = request.app.state.mint.realm
    return problem(code, detail, realm=realm, headers=headers, status=error.status_code)


def of_bug(request: Request, error: Exception) -> Response:
    """Write that something went wrong here; what, is for the log alone."""
    number = id_of(request)
    _log.error("failed", exc_info=error, extra={"facts": {"request": number}})
    realm = request.app.state.mint.realm
    headers = {REQUEST_ID: number} if number is not None else None
    return problem("internal", "the mint failed to answer; its log says more", realm=realm, headers=headers)
