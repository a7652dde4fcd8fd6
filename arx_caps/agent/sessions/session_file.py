# SPDX-License-Identifier: Apache-2.0
"""The file of an open session, which outlives its process: ``Session.save`` and ``arx session open`` write it.

It is a secret: the session's token and the private key that the token is bound to.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self

from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from arx_caps.credentials.jose import SigningKey
from arx_verifier.errors import SettingsError

VERSION: Final = 1


class SessionFile(NamedTuple):
    """The content of a session file.

    Attributes:
        issuer: The mint's public base URL.
        session: The session as the mint showed it last.
        token: The session's token.
        key: The key that it is bound to.
        ca: File of a further authority for TLS, or None.
    """

    issuer: str
    session: dict[str, Any]
    token: str
    key: SigningKey
    ca: str | None = None

    def content(self) -> dict[str, Any]:
        """Return the JSON object, a secret."""
        content = {"v": VERSION, "issuer": self.issuer, "session": self.session, "token": self.token}
        content |= {"key": self.key.private_jwk()}
        return content if self.ca is None else content | {"ca": self.ca}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """Read the JSON object; whether the session is still open, only the mint can say.

        Args:
            content: The decoded file.

        Raises:
            SettingsError: It is no session file, or its key is invalid.
        """
        session, token, ca = content.get("session"), content.get("token"), content.get("ca")
        if content.get("v") != VERSION or not isinstance(session, dict) or not isinstance(token, str):
            raise SettingsError("expected a session file")
        try:
            key = SigningKey(OKPKey.import_key({name: content["key"][name] for name in ("kty", "crv", "x", "d")}))
        except (JoseError, KeyError, TypeError, ValueError):
            # Not chained: the text of a parser could quote the private half.
            raise SettingsError("the session's key is invalid") from None
        return cls(str(content.get("issuer")), session, token, key, ca if isinstance(ca, str) else None)

    def __repr__(self) -> str:
        return f"<SessionFile of {self.session.get('id')}>"
