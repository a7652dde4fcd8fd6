# SPDX-License-Identifier: Apache-2.0
"""Refusals of the mint: RFC 9457 problems with a stable code, and the table of codes.  SPEC 13, CONTROL 4.2.

A problem says what was expected; never a key, a token, or a line of a program.  ``CODES`` has every code that the mint
adds to the verifier's: its HTTP status, its meaning and what a client can do.  The ``type`` of a problem is an address
of the mint that explains the code; docs/api.md has all of them in one table.
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
from arx_caps.realm import Realm
from arx_verifier.errors import REASONS, ArxError, Failure

PATH: Final = "/problems/"


class Code(NamedTuple):
    """One code.

    Attributes:
        status: HTTP status of the answer.
        means: What was found.
        do: What a client, or whoever runs it, can do about it.
    """

    status: int
    means: str
    do: str


_TOKEN: Final = "compare it with `[issuer]` and `[[workload]]` of the policy; docs/identity.md"  # noqa: S105 - no secret
_POLICY: Final = "`arx policy explain` says what it would take"

CODES: Final = {
    "bad_assertion": Code(
        401,
        "the assertion is not by an enrolled key, not for this mint, over, or for another session key",
        "sign a new one",
    ),
    "bad_enrolment": Code(
        401, "the enrolment token is unknown, used or over", "ask an operator for another: `arx service invite`"
    ),
    "bad_proof": Code(
        401,
        "the proof is missing, of another call, too old, or not by the key that it must be by",
        "sign this very call, with the clock right",
    ),
    "bad_subject_token": Code(401, "the subject's token proves nobody whom the policy believes", _TOKEN),
    "bad_workload_token": Code(401, "the workload's token is no enrolled agent's", _TOKEN),
    "bad_batch": Code(
        403,
        "the records are not their service's, or contradict what the log has of their run",
        "look at that service: docs/audit.md",
    ),
    "exchange_not_allowed": Code(
        403,
        "the task's template does not let this service go on at that audience",
        "add it to `exchange` of the template, for tasks that start later",
    ),
    "wrong_caller": Code(
        403, "this call is for somebody of another kind", "call as the one whom the description names"
    ),
    "session_ended": Code(403, "the session, or the task, is over", "open another session, or start another task"),
    "session_not_allowed": Code(403, "the policy lets this agent open no session", _POLICY),
    "subject_not_allowed": Code(403, "the policy names other people, or none", _POLICY),
    "subject_required": Code(403, "the agent acts on somebody's behalf alone", "give their token as `subject_token`"),
    "too_many_sessions": Code(
        403,
        "the agent has as many sessions as the policy lets it have at once",
        "end one; `max_open` of the policy says how many",
    ),
    "approval_denied": Code(403, "an operator denied it", "do without, or ask again with a better reason"),
    "approval_expired": Code(403, "it was approved, and the time for using it is over", "ask again"),
    "approval_withdrawn": Code(403, "an operator withdrew it", "do without, or ask again"),
    "too_many_approvals": Code(
        403,
        "as many requests of the session wait for an answer as may",
        "wait for answers, or finish tasks that need none any more",
    ),
    "unknown_task": Code(403, "this agent may start no task of this name", _POLICY),
    "bad_parameters": Code(
        403,
        "what is asked for is more than the policy grants, or fits into no token",
        "ask for what `failures` and `detail` say",
    ),
    "not_found": Code(
        404, "it is not there, or not for this caller to see", "look at what there is in the list that it would be in"
    ),
    "method_not_allowed": Code(405, "the path has no such method", "use one that `Allow` names"),
    "agent_exists": Code(409, "an agent of this path is enrolled", "change that one, or enrol another path"),
    "operator_exists": Code(409, "an operator has, or had, this name: records name it", "take another name"),
    "key_enrolled": Code(409, "the key is enrolled already", "make a fresh one: a key belongs to one holder"),
    "conflict": Code(409, "it cannot be done to what is there now", "look again; `detail` says what stands in the way"),
    "too_large": Code(413, "the body is longer than this call takes", "send less"),
    "unsupported_media_type": Code(
        415, "the body is of another kind", "say in `Content-Type` what the description says"
    ),
    "idempotency_mismatch": Code(
        422, "this `Idempotency-Key` stood for another call", "choose a fresh one for each thing"
    ),
    "policy": Code(
        422,
        "the policy has a mistake; the one before stays in force",
        "mend it where `detail` says: `arx policy check`",
    ),
    "rate_limited": Code(429, "too many calls", "wait for `Retry-After` seconds; docs/operations.md has the limits"),
    "internal": Code(500, "the mint failed over it", "give whoever runs it the `X-Request-Id`: its log says more"),
    "tampered": Code(500, "the log's records are not as they were signed", "docs/audit.md says what to do"),
    "incomplete": Code(
        503,
        "something of the log that the answer needs is not there",
        "try again; docs/audit.md says what to do if that does not help",
    ),
    "issuer_unavailable": Code(
        503, "the keys of the token's issuer cannot be had now", "try again; see to the mint's way to the issuer"
    ),
    "no_policy": Code(
        503,
        "this version of the mint refuses the policy that was in force",
        "`arx policy load` one that it takes; its log says what is wrong with the other",
    ),
}
_LATER: Final = "try again after `Retry-After` seconds"
_ENDED: Final = {
    "revoked": "stop, and report it; a new task, if the operator wants the work done",
    "frozen": "stop, and report it; an operator thaws it",
}
_RETRIES: Final = {
    "after Retry-After": _LATER,
    "no": "ask for a token that allows it",
    "sign anew": "sign this very call anew",
}


def find_code(code: str) -> Code | None:
    """Return what is known of a code, one of the mint's or of the verifier's; None where it is neither."""
    if code in CODES:
        return CODES[code]
    reason = REASONS.get(code)
    if reason is None:
        return None
    do = _ENDED.get(code) or _RETRIES.get(reason.retry, f"try again {reason.retry}")
    return Code(reason.status, reason.meaning, do)


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
