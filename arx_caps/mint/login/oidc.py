# SPDX-License-Identifier: Apache-2.0
"""Log a person in at the realm's OpenID Connect issuer: code flow with PKCE.  CONTROL 5.8, OIDC Core 3.1.

``identity.issuer_token`` verifies the ID token.  What the person may do then is for the caller to decide.
"""

import hashlib
import json
from collections.abc import Callable, Collection
from typing import Final

import msgspec

from arx_caps.mint.context import MintContext
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.issuer_token import AHEAD_S, IssuerToken, verify_issuer_token
from arx_caps.mint.login.issuer_client import OPENID, IssuerClient, derived
from arx_caps.settings.realm import Login
from arx_verifier.clock import now_ms

CALLBACK: Final = "/oauth/callback"
CONSOLE_CALLBACK: Final = "/console/callback"  # where an answer goes on to, if the console has begun the login
CONSOLE_COOKIE: Final = "arx-console-login"  # in the browser of an operator who has begun a login
CONNECT_LOGIN: Final = "/connect/login"  # the same, if a link to connect an account has begun it
CONNECT_COOKIE: Final = "arx-connect"
PAGE_MS: Final = 10 * 60_000  # for the login of a person
DEVICE_MS: Final = 5 * 60_000  # from the issue of an ID token to its use here


class OidcLogin(IssuerClient):
    """The logins at one issuer.

    Args:
        mint: The mint.
        login: The realm's settings.
    """

    noun, refusal, documents, fresh_s = "login", "bad_subject_token", (OPENID,), 300.0
    wait_s = 0.0  # strangers begin logins: many of them must not hold all threads of the mint

    def __init__(self, mint: MintContext, login: Login) -> None:
        super().__init__(mint.realm, "the login issuer", login, CALLBACK, login.scope)
        self._mint, self._login = mint, login

    def url(self, secret: bytes, claims: Collection[str], *, max_age_s: int | None = None, again: bool = False) -> str:
        """Return the URL at which a person logs in.

        Args:
            secret: Random bytes that the person's browser keeps.
            claims: The claims of the ID token that the policy judges.
            max_age_s: How long ago the person may have logged in at the issuer, s; None for any time.
            again: Whether the person must log in now, whatever session the issuer has.

        Raises:
            UnavailableError: ``issuer_unavailable``: the issuer does not answer.
        """
        more = {"max_age": str(max_age_s)} if max_age_s is not None else {}
        more |= {"prompt": "login"} if again else {}
        if claims and self.read_metadata().claims_parameter_supported:
            # Many issuers put groups into an ID token on request alone (OIDC Core 5.5).
            more["claims"] = json.dumps({"id_token": dict.fromkeys(sorted(claims))})
        return self.login_url(secret, more)

    def finish(self, unit: UnitOfWork, secret: bytes, code: str, *, max_age_s: int | None = None) -> IssuerToken:
        """Return the verified ID token of a person, once for each login.

        Args:
            unit: The call's unit of work, in which the login is used.
            secret: What the browser keeps.
            code: The issuer's authorization code.
            max_age_s: As given to ``url``.

        Raises:
            GrantError: ``bad_subject_token``: the issuer refuses the code, or its ID token is wrong.
            UnavailableError: The issuer does not answer.
        """
        token = self._verify(lambda: self._redeem(secret, code), self._login.client_id)
        if token.claims.get("nonce") != derived(secret, "nonce"):
            raise self.refused("nonce: expected that of this login")
        # An issuer may know neither max_age nor prompt (OIDC Core 3.1.2.1): what it did shows in the token alone.
        if max_age_s is not None and login_time(token) < now_ms() - (max_age_s + AHEAD_S) * 1000:
            raise self.refused("auth_time: expected a more recent login; the issuer must take max_age, and state it")
        unit.spend("login", self._login.issuer, derived(secret, "state"), now_ms() + PAGE_MS)
        return token

    def take(self, unit: UnitOfWork, text: str) -> IssuerToken:
        """Return the verified ID token that a program got for a person by a device code (RFC 8628), once.

        Args:
            unit: The call's unit of work, in which the token is used.
            text: The ID token.

        Raises:
            GrantError: ``bad_subject_token``: it is wrong, or too old; ``replayed``: it was used before.
            UnavailableError: The issuer's keys cannot be fetched now.
        """
        client = self._login.device_client_id
        if client is None:
            raise self.refused("this mint takes no login of programs")
        token = self._verify(lambda: text, client)
        # It is bound to no key: the less time a thief has, the better.
        issued = token.claims.get("iat")
        if not isinstance(issued, int) or issued * 1000 < now_ms() - DEVICE_MS:
            raise self.refused("iat: expected an ID token that was issued just now")
        # Without the signature: of an ECDSA signature, anyone can make a second one that verifies.
        signed = hashlib.sha256(text.rpartition(".")[0].encode()).hexdigest()
        unit.spend("login", self._login.issuer, signed, token.expires_at)
        return token

    def _verify(self, get_text: Callable[[], str], client_id: str) -> IssuerToken:
        issuer = next((each for each in self._mint.policy.issuers.values() if each.url == self._login.issuer), None)
        if issuer is None:
            raise self.refused("the policy has no [issuer] with the URL of login_issuer")
        # The policy says whose keys and which algorithms; the audience is this mint as a client, and no other.
        trusted = msgspec.structs.replace(issuer, audience=(client_id,))
        token = verify_issuer_token(
            get_text(), {trusted.name: trusted}, self._mint.issuer_keys, kind="id_token", now=now_ms(), session_kid=""
        )
        if token.claims.get("azp", client_id) != client_id:
            raise self.refused("azp: expected this mint")
        return token

    def _redeem(self, secret: bytes, code: str) -> str:
        token = self.redeem_code(secret, code).get("id_token")
        if not isinstance(token, str) or not token.isascii():
            raise self.refused("the issuer answered without an ID token")
        return token


def login_time(token: IssuerToken) -> int:
    """Return when the person logged in at the issuer, ms since the Unix epoch; 0 if the ID token does not say."""
    at = token.claims.get("auth_time")
    # A time ahead of the mint's clock would make the login last longer.
    return min(at * 1000, now_ms()) if type(at) is int and at > 0 else 0
