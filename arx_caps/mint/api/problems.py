# SPDX-License-Identifier: Apache-2.0
"""Refusals of the mint: RFC 9457 problems and their codes.  SPEC 13, CONTROL 4.2.

The verifier's codes are in ``arx_verifier.errors``; docs/api.md has the mint's in one table.
"""

import http
import json
import logging
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from arx_caps.mint.api.access_log import REQUEST_ID, id_of
from arx_caps.mint.rate_limit import TooOftenError
from arx_caps.settings.realm import Realm
from arx_verifier.errors import REASONS, ArxError, Failure

PATH: Final = "/problems/"


class Code(NamedTuple):
    """A code of the mint.

    Attributes:
        status: The HTTP status of its problems.
        means: What the mint found.
        do: What the client, or its operator, can do.
    """

    status: int
    means: str
    do: str


_TOKEN: Final = "compare it with `[issuer]` and `[[workload]]` of the policy; docs/identity.md"  # noqa: S105 - no secret
_POLICY: Final = "ask `arx policy explain` what it would take"

# By status.  A code is public and never changes; its texts may, and no client may depend on them.
CODES: Final = {
    "bad_assertion": Code(
        401,
        "the assertion is not by an enrolled key, not for this mint, expired, or for another session key",
        "sign a new one",
    ),
    "bad_enrolment": Code(
        401, "the enrolment token is unknown, used or expired", "ask an operator for another: `arx service invite`"
    ),
    "bad_link": Code(401, "the link was used, is too old or was never made", "run `arx console open` again"),
    "bad_proof": Code(
        401,
        "the proof is missing, for another call, too old, or by a wrong key",
        "sign this call with the caller's key; set the clock",
    ),
    "bad_subject_token": Code(
        401, "the subject's token is not a valid one of an issuer that the policy trusts", _TOKEN
    ),
    "bad_workload_token": Code(401, "the workload's token is not valid, or identifies no enrolled agent", _TOKEN),
    "bad_batch": Code(
        403,
        "the records are not signed by their service, or contradict the log's records of their run",
        "inspect that service: docs/audit.md",
    ),
    "exchange_not_allowed": Code(
        403,
        "the task's template does not let this service exchange a token for that audience",
        "add it to `exchange` of the template, for tasks that start later",
    ),
    "connection_refused": Code(
        403,
        "the account, the link or the call is none that the mint's settings and policy allow",
        "`detail` has the reason; docs/people.md",
    ),
    "wrong_caller": Code(
        403, "the call is for another kind of caller", "call as an agent, operator or service, as the API describes"
    ),
    "sign_in_again": Code(403, "the act needs a recent sign-in to the console", "sign in again; docs/console.md"),
    "wrong_form": Code(403, "the form is not from a page of this console and this sign-in", "open the page again"),
    "session_ended": Code(403, "the session or the task has ended", "open another session, or start another task"),
    "no_role": Code(
        403,
        "the policy makes this person no operator",
        "add the person's claims to [[operator]] of the policy; docs/console.md",
    ),
    "session_not_allowed": Code(403, "the policy lets this agent open no session", _POLICY),
    "subject_not_allowed": Code(403, "the policy allows other subjects, or none", _POLICY),
    "subject_required": Code(
        403, "the agent may act only on behalf of a subject", "send the subject's token as `subject_token`"
    ),
    "too_many_sessions": Code(
        403,
        "the agent has as many open sessions as `max_open` of the policy allows",
        "end one of them, or wait until one expires",
    ),
    "approval_denied": Code(403, "an operator denied the approval", "request it again with a better reason"),
    "approval_expired": Code(403, "the approval was given and has expired", "request it again"),
    "approval_withdrawn": Code(
        403, "the approval was withdrawn, or an operator who approved it may approve it no more", "request it again"
    ),
    "too_many_approvals": Code(
        403,
        "the session has as many unanswered requests for approvals as allowed",
        "wait for answers, or finish tasks that need none any more",
    ),
    "unknown_task": Code(403, "the policy has no task of this name for this agent", _POLICY),
    "bad_parameters": Code(
        403,
        "the request exceeds what the policy grants, or the size of a token",
        "request what `failures` and `detail` allow",
    ),
    "not_found": Code(
        404, "it does not exist, or this caller may not see it", "list what exists, and use an id of that list"
    ),
    "method_not_allowed": Code(405, "the path does not have this method", "use a method of the `Allow` header"),
    "agent_exists": Code(409, "an agent of this path is enrolled", "change that agent, or enrol another path"),
    "operator_exists": Code(409, "an operator has or had this name, and records refer to it", "use another name"),
    "key_enrolled": Code(409, "the key is enrolled already", "make a new key: a key belongs to one holder"),
    "conflict": Code(409, "the current state does not allow this change", "read it again; `detail` has the reason"),
    "too_large": Code(413, "the body exceeds the limit of this call", "send a smaller body"),
    "unsupported_media_type": Code(
        415, "the body has another media type", "send the `Content-Type` of the API's description"
    ),
    "idempotency_mismatch": Code(
        422, "this `Idempotency-Key` was used for another call", "use a new random key for each call"
    ),
    "policy": Code(
        422,
        "the policy has a mistake; the one before stays in force",
        "correct it at the line in `detail`; try `arx policy check`",
    ),
    "rate_limited": Code(429, "too many calls", "wait for `Retry-After` seconds; docs/operations.md has the limits"),
    "internal": Code(
        500, "the mint failed", "report the `X-Request-Id` to the mint's operator, who finds the error in its log"
    ),
    "tampered": Code(500, "records of the log are not as they were signed", "follow docs/audit.md"),
    "incomplete": Code(
        503,
        "a part of the log that the answer needs is missing",
        "try again; if it stays missing, follow docs/audit.md",
    ),
    "issuer_unavailable": Code(
        503,
        "the keys of the token's issuer cannot be fetched now",
        "try again; check the mint's connection to the issuer",
    ),
    "no_policy": Code(
        503,
        "this version of the mint refuses the policy that was in force",
        "load another with `arx policy load`; the mint's log has the mistake in the old one",
    ),
}
_LATER: Final = "try again after `Retry-After` seconds"
_ENDED: Final = {
    "revoked": "stop, and report it; start a new task if the operator wants the work done",
    "frozen": "stop, and report it; an operator can thaw it",
}
_RETRIES: Final = {
    "after Retry-After": _LATER,
    "no": "ask for a token that allows it",
    "sign anew": "sign this very call anew",
}


def find_code(code: str) -> Code | None:
    """Return a code of the mint or of the verifier, or None."""
    if code in CODES:
        return CODES[code]
    reason = REASONS.get(code)
    if reason is None:
        return None
    do = _ENDED.get(code) or _RETRIES.get(reason.retry, f"try again {reason.retry}")
    return Code(reason.status, reason.meaning, do)


_OF_HTTP: Final = {404: "not_found", 405: "method_not_allowed"}
_PROOF_CODES: Final = ("bad_proof", "replayed")  # RFC 9449 7.1 has an error code of its own for them
RETRY_AFTER_S: Final = "1"  # the lease is renewed several times a second, so a stale view has most likely recovered

_log = logging.getLogger(__name__)


class FailureShown(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule expected at a place, and what came."""

    place: str
    rule: str
    expected: str
    came: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal (RFC 9457).

    ``code`` is stable and for programs; ``detail`` is for people; ``type`` is an address that explains the code.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    failures: list[FailureShown] | UnsetType = UNSET


def type_of(code: str, issuer: str) -> str:
    """Return the URL at which a mint explains a code."""
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
    """Return a refusal as a response.

    Args:
        code: A code of the mint or the verifier.
        detail: A sentence for people; no secret.
        realm: The realm.
        failures: What was expected and what came.
        headers: Further headers.
        status: A status instead of the code's own.
    """
    known = find_code(code)
    if status is None:
        status = known.status if known is not None else http.HTTPStatus.INTERNAL_SERVER_ERROR
    refusal = Problem(
        type=type_of(code, realm.issuer),
        title=known.means if known is not None else http.HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        failures=[FailureShown(**failure._asdict()) for failure in failures] or UNSET,
    )
    # A refusal holds for now only, and no browser may take a detail, which can quote a request, for HTML.
    sent_headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})}
    if status == http.HTTPStatus.UNAUTHORIZED:
        error = "invalid_dpop_proof" if code in _PROOF_CODES else "invalid_token"
        # RFC 6750 3: without credentials, no error code.
        parameter = "" if code == "missing_token" else f', error="{error}"'
        sent_headers["WWW-Authenticate"] = f'DPoP realm="{realm.name}", algs="EdDSA Ed25519"{parameter}'
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        sent_headers["Retry-After"] = RETRY_AFTER_S
    # Escaped to ASCII: a request's text may have half of a surrogate pair, which UTF-8 cannot encode.
    body = json.dumps(msgspec.to_builtins(refusal)).encode("ascii")
    return Response(body, status, sent_headers, media_type="application/problem+json")


def status_of(error: ArxError) -> int:
    """Return the HTTP status of an error's refusal."""
    known = find_code(error.code)
    return known.status if known is not None else error.status_hint


def of_error(error: ArxError, realm: Realm) -> Response:
    """Return an error as a refusal."""
    headers = {"Retry-After": str(error.wait_s)} if isinstance(error, TooOftenError) else None
    return problem(
        error.code, str(error), realm=realm, failures=error.failures, status=status_of(error), headers=headers
    )


def of_http(request: Request, error: Exception) -> Response:
    """Return a refusal of the framework, an unknown path or method, as a problem."""
    assert isinstance(error, HTTPException)
    code, headers = _OF_HTTP.get(error.status_code, "malformed_request"), dict(error.headers or {})
    detail = str(error.detail)
    if code == "not_found":
        detail = "unknown path; /openapi.json lists all paths"
    elif code == "method_not_allowed":
        detail = f"method not allowed: expected {headers.get('Allow', 'another method')}"
    realm = request.app.state.mint.realm
    return problem(code, detail, realm=realm, headers=headers, status=error.status_code)


def of_bug(request: Request, error: Exception) -> Response:
    """Return an unexpected error as ``internal``, and log it."""
    number = id_of(request)
    _log.error("failed", exc_info=error, extra={"facts": {"request": number}})
    realm = request.app.state.mint.realm
    headers = {REQUEST_ID: number} if number is not None else None
    # Its text is for the log alone: it could contain a key, a token or another caller's data.
    return problem("internal", "the mint failed to answer; its log has the error", realm=realm, headers=headers)
