# SPDX-License-Identifier: Apache-2.0
"""The errors of the OAuth routes.  RFC 6749 5.2, RFC 7591 3.2.2, RFC 8707 2, RFC 9449 5."""

from collections.abc import Mapping
from http.client import BAD_REQUEST, SERVICE_UNAVAILABLE, UNAUTHORIZED
from typing import Final, Literal, TypeAlias

from arx_verifier.errors import GrantError

OAuthCode: TypeAlias = Literal[
    "invalid_client",
    "invalid_client_metadata",
    "invalid_dpop_proof",
    "invalid_grant",
    "invalid_redirect_uri",
    "invalid_request",
    "invalid_scope",
    "invalid_target",
    "unauthorized_client",
    "unsupported_grant_type",
    "unsupported_response_type",
    "access_denied",
    "temporarily_unavailable",
]

_STATUSES: Final[Mapping[OAuthCode, int]] = {
    "invalid_client": UNAUTHORIZED,
    "temporarily_unavailable": SERVICE_UNAVAILABLE,
}


class OAuthError(GrantError):
    """A refusal of an OAuth route.

    Attributes:
        error: The code of the answer.
    """

    def __init__(self, error: OAuthCode, description: str) -> None:
        super().__init__(description, code="bad_parameters")
        self.error = error

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _STATUSES.get(self.error, BAD_REQUEST)


def plain_description(text: str) -> str:
    """Return a text in the characters that ``error_description`` may have (RFC 6749 4.1.2.1, 5.2)."""
    return "".join(char if " " <= char <= "~" and char not in '"\\' else "'" for char in text)
