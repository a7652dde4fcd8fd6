# SPDX-License-Identifier: Apache-2.0
"""The HTTP answer to a refusal: RFC 6750 in the header, RFC 9457 in the body.  SPEC 13.

What may be told is decided before: an unproven refusal has no failures to tell.  Nothing here knows ASGI.
"""

import http
import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from arx_verifier.errors import REASONS, Failure

CONTENT_TYPE: Final = b"application/problem+json"
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
    """Write the answer to a refusal.

    Args:
        code: A key of ``REASONS``.
        realm: Whose tokens are wanted, for the challenge.
        failures: What was expected and what came, where that may be told.
        decision: The id of the recorded decision, if there is one.
        status: Another status than the code's own.
        detail: Another sentence than the code's own; no secret.

    Returns:
        The answer.
    """
    reason = REASONS[code]
    status = reason.status if status is None else status
    detail = detail or reason.meaning
    problem: dict[str, Any] = {"type": "about:blank", "title": http.HTTPStatus(status).phrase, "status": status}
    problem |= {"detail": detail, "code": code, "retry": reason.retry}
    if decision:
        problem["decision"] = decision
    if failures:
        problem["failures"] = [failure._asdict() for failure in failures]
    body = json.dumps(problem).encode("ascii")
    headers = [
        (b"content-type", CONTENT_TYPE),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if status in (401, 403) or reason.oauth_error is not None:
        headers.append((b"www-authenticate", _challenge(realm, reason.oauth_error, detail)))
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", RETRY_AFTER_S))
    return Answer(status, headers, body)


def _challenge(realm: str, error: str | None, description: str) -> bytes:
    """RFC 6750 3; a request without a token is told no error, as 3.1 says."""
    text = f'Bearer realm="{_quotable(realm)}"'
    if error is not None:
        text += f', error="{error}", error_description="{_quotable(description)}"'
    return text.encode("ascii")


def _quotable(text: str) -> str:
    """Keep to the characters of RFC 6750 3: no quote, no backslash, and no line break that would start a header."""
    return "".join(character if " " <= character <= "~" and character not in '"\\' else "?" for character in text)
