# SPDX-License-Identifier: Apache-2.0
"""The HTTP answer to a refusal: RFC 6750 in the header, RFC 9457 in the body.  SPEC 13."""

import http
import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from arx_verifier.errors import REASONS, Failure, Shortfall, sentence_of

CONTENT_TYPE: Final = b"application/problem+json"
BUDGET_HEADER: Final = b"arx-budget"  # of an allowed call: what is left, a dictionary of RFC 9651
RETRY_AFTER_S: Final = b"1"  # a lease is renewed several times in this time


class Answer(NamedTuple):
    """One HTTP answer.

    Attributes:
        status: The status code.
        headers: Names in lower case and values, as ASGI takes them.
        body: The body; leave it out for HEAD.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def answer(
    code: str,
    *,
    realm: str,
    failures: Sequence[Failure] = (),
    decision: str = "",
    status: int | None = None,
    detail: str | None = None,
) -> Answer:
    """Return the answer to a refusal.

    Args:
        code: A key of ``REASONS``.
        realm: The realm whose tokens the service accepts, for the challenge.
        failures: The expected and the received values, if the caller may know them.
        decision: The id of the recorded decision, if there is one.
        status: Replaces the code's own HTTP status.
        detail: Replaces the code's own sentence; no secret.

    Raises:
        KeyError: The code is not in ``REASONS``.
    """
    reason = REASONS[code]
    status = reason.status if status is None else status
    meaning = detail or reason.meaning
    detail = detail or sentence_of(code, failures)
    problem: dict[str, Any] = {"type": "about:blank", "title": http.HTTPStatus(status).phrase, "status": status}
    problem |= {"detail": detail, "code": code, "retry": reason.retry}
    if decision:
        problem["decision"] = decision
    if failures:
        problem["failures"] = [failure._asdict() for failure in failures]
        if isinstance(failures[0], Shortfall):
            problem["budget"] = failures[0].budget()
    body = json.dumps(problem).encode("ascii")
    headers = [
        (b"content-type", CONTENT_TYPE),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),  # another caller must not get this caller's refusal
        (b"x-content-type-options", b"nosniff"),  # the failures quote the caller's values: no browser may run them
    ]
    # Proxies bound the size of headers, so the challenge has the meaning alone.
    if status in (401, 403) or reason.oauth_error is not None:
        headers.append((b"www-authenticate", _challenge(realm, reason.oauth_error, meaning)))
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", RETRY_AFTER_S))
    return Answer(status, headers, body)


def _challenge(realm: str, error: str | None, description: str) -> bytes:
    """Return the challenge of RFC 6750 3; without a token it has no error code (RFC 6750 3.1)."""
    text = f'Bearer realm="{_quotable(realm)}"'
    if error is not None:
        text += f', error="{error}", error_description="{_quotable(description)}"'
    return text.encode("ascii")


def _quotable(text: str) -> str:
    """Replace the characters that RFC 6750 3 does not allow."""
    # A line break would start another header.
    return "".join(character if " " <= character <= "~" and character not in '"\\' else "?" for character in text)
