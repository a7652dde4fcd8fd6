# SPDX-License-Identifier: Apache-2.0
"""An organization's issuer, which exchanges its people's tokens for those of upstreams and for ID-JAGs.  RFC 8693."""

import secrets
import time
from typing import Any, Final

import httpx
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from arx_caps.mint.oauth.token_exchange import TOKEN_EXCHANGE
from tests.gateway.people import CLIENT, Tracker

TYPE: Final = "urn:ietf:params:oauth:token-type:"
UPSTREAM: Final = "https://tracker.example"


class Organization(Tracker):
    """The issuer, and an upstream that accepts its tokens.

    Attributes:
        mint: The URL of the mint whose keys verify actor tokens.
        refuses: The error of each exchange; empty for none.
        audiences: The audience of each token that an exchange gave.
        actors: The verified claims of each actor token.
        partner: The client id of the mint at another issuer.
        given: The type of each answer, if it is not the one that was asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.key = ECKey.generate_key("P-256", {"kid": "org"}, private=True)
        self.documents = {"/keys": {"keys": [self.key.as_dict(private=False)]}}
        self.mint, self.refuses, self.partner, self.given = "", "", "", ""
        self.audiences: list[str] = []
        self.actors: list[dict[str, Any]] = []
        self.identities: dict[str, str] = {}

    def issue(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Answer at the token endpoint."""
        if form["grant_type"] != TOKEN_EXCHANGE:
            return super().issue(form)
        if self.refuses:
            return 400, {"error": self.refuses}
        token, wanted = form["subject_token"], form["requested_token_type"].removeprefix(TYPE)
        of_identity = form["subject_token_type"] == f"{TYPE}id_token"
        found = self.identities.get(token) if of_identity else (self.owner(f"Bearer {token}") or (None,))[0]
        if found is None:
            return 400, {"error": "invalid_request"}
        if "actor_token" in form:
            self.actors.append(self._verified(form["actor_token"]))
        self.audiences.append(form["audience"])
        if wanted == "id-jag":
            return 200, self._assertion(found, form)
        if form["audience"] != UPSTREAM:
            return 400, {"error": "invalid_target"}
        answer = self._tokens(found, form["scope"], form["scope"])
        del answer["refresh_token"]
        return 200, answer | {"issued_token_type": self.given or TYPE + wanted}

    def _assertion(self, person: str, form: dict[str, str]) -> dict[str, Any]:
        now = int(time.time())
        claims = {"iss": self.url, "sub": person, "aud": form["audience"], "client_id": self.partner}
        claims |= {"resource": form["resource"], "scope": form["scope"], "jti": secrets.token_hex(8)}
        header = {"alg": "ES256", "kid": "org", "typ": "oauth-id-jag+jwt"}
        text = jwt.encode(header, claims | {"iat": now, "exp": now + 60}, self.key)
        self.secrets.append(text)
        answer = {"access_token": text, "token_type": "N_A", "expires_in": 60, "scope": form["scope"]}
        return answer | {"issued_token_type": self.given or f"{TYPE}id-jag"}

    def _verified(self, token: str) -> dict[str, Any]:
        keys = KeySet.import_key_set(httpx.get(f"{self.mint}/oauth/jwks", timeout=30).json())
        found = jwt.decode(token, keys)
        assert found.header["typ"] == "arx-actor+jwt"
        return dict(found.claims)

    def _tokens(self, person: str, granted: str, scope: str, nonce: str | None = None) -> dict[str, Any]:
        answer = super()._tokens(person, granted, scope)
        if "openid" in scope.split():
            now = int(time.time())
            claims = {"iss": self.url, "aud": CLIENT, "sub": person, "iat": now, "exp": now + 300, "nonce": nonce}
            claims["jti"] = secrets.token_hex(8)
            text = jwt.encode({"alg": "ES256", "kid": "org"}, claims, self.key)
            self.identities[text] = person
            self.secrets.append(text)
            answer["id_token"] = text
        return answer
