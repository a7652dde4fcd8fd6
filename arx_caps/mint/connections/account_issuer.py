# SPDX-License-Identifier: Apache-2.0
"""The issuer of an upstream's access tokens, with this mint as its client.  RFC 6749, 7009, 7523, 8693."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx
import msgspec

from arx_caps.credentials.secret_source import SecretStruct
from arx_caps.mint.connections.vault import HeldAccess
from arx_caps.mint.context import MintContext
from arx_caps.mint.login.issuer_client import OPENID, RFC_8414, IssuerClient, derived, object_of
from arx_caps.settings.connections import ConnectionTerms
from arx_caps.settings.realm import Realm
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError
from arx_verifier.request import read_json_object
from arx_verifier.token import wire

TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:"  # noqa: S105 - the beginning of a kind of token
ID_JAG: Final = "id-jag"
_GRANT: Final = "urn:ietf:params:oauth:grant-type:"
CALLBACK: Final = "/connect/callback/"  # the connection's name follows: an answer of another issuer comes elsewhere
MAX_TOKEN_CHARS: Final = 16_384
MAX_ACCOUNT_CHARS: Final = 255
MOST_SCOPES: Final = 64  # of one token, in records
_MAX_SCOPE_CHARS: Final = 128
_LASTS_S: Final = 300.0  # of an access token whose answer has no time that can be read
_MOST_S: Final = 366 * 86_400.0


class RefreshRefusedError(GrantError):
    """The issuer has refused a refresh token, for good."""


class ScopesRefusedError(GrantError):
    """The issuer gives the scopes for a refresh token no more."""


class IssuedTokens(SecretStruct, frozen=True):
    """An answer of a token endpoint, a secret."""

    access_token: str
    token_type: str
    refresh_token: str | None = None
    # Read when the refresh token is used up: what cannot be read must not lose the new one.
    expires_in: Any = None
    scope: Any = None
    id_token: Any = None
    issued_token_type: Any = None

    def held(self, asked: Sequence[str]) -> HeldAccess:
        """Return the access token, with the ID token beside it."""
        identity = self.id_token if isinstance(self.id_token, str) and _is_token(self.id_token) else ""
        try:
            lasts = float(self.expires_in)
        except (TypeError, ValueError, OverflowError):
            lasts = math.nan
        until = now_ms() + int(1000 * (min(max(lasts, 0.0), _MOST_S) if math.isfinite(lasts) else _LASTS_S))
        return HeldAccess(self.access_token, until, self._scopes(asked), identity)

    def _scopes(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Return the scopes of the access token: as the issuer names them, else those asked for.  RFC 6749 5.1."""
        if not isinstance(self.scope, str):
            return tuple(asked)
        named = (each for each in self.scope.split(" ") if each.isascii() and each.isprintable())
        return tuple(dict.fromkeys(each for each in named if 0 < len(each) <= _MAX_SCOPE_CHARS))[:MOST_SCOPES]


class AccountIssuer(IssuerClient):
    """One issuer.

    Args:
        realm: The realm.
        name: The connection's name.
        terms: Its table.
    """

    noun, refusal, documents = "connection", "connection_refused", (RFC_8414, OPENID)
    fresh_s = math.inf  # from the first answer to the end of this process
    wait_s = 1.0  # of a person's browser

    def __init__(self, realm: Realm, name: str, terms: ConnectionTerms) -> None:
        scope = " ".join(terms.scopes)
        super().__init__(realm, f"the issuer of {name}", terms, CALLBACK + name, scope, terms.client_secret_next)
        self.name, self.terms = name, terms

    def redeem(self, secret: bytes, code: str) -> IssuedTokens:
        """Redeem an authorization code.

        Raises:
            GrantError: The issuer refuses it.
            UnavailableError: It does not answer.
        """
        return self._issued(self.redeem_code(secret, code))

    def refresh(self, token: str, scopes: str) -> IssuedTokens:
        """Use a refresh token.

        Args:
            token: The refresh token, a secret.
            scopes: The scopes of the access token.

        Raises:
            RefreshRefusedError: The issuer refuses it for good (``invalid_grant``).
            ScopesRefusedError: It refuses the scopes (``invalid_scope``).
            GrantError: It refuses something else.
            UnavailableError: It does not answer; what it did is not known.
        """
        form = {"grant_type": "refresh_token", "refresh_token": token, "scope": scopes}
        return self._issued(self.ask_token(form, invalid_grant=RefreshRefusedError, invalid_scope=ScopesRefusedError))

    def exchange(self, token: str, kind: str, wanted: str, **more: str | None) -> IssuedTokens:
        """Exchange a person's token for another one.  RFC 8693.

        Args:
            token: The person's token, a secret.
            kind: Its type: ``access_token`` or ``id_token``.
            wanted: The new one's: ``access_token`` or ``id-jag``.
            more: Further parameters; None leaves one out.

        Raises:
            GrantError: The issuer refuses it.
            UnavailableError: It does not answer, or with a token of another type.
        """
        form = {"grant_type": f"{_GRANT}token-exchange", "subject_token": token}
        form |= {"subject_token_type": TOKEN_TYPE + kind, "requested_token_type": TOKEN_TYPE + wanted}
        form |= {name: value for name, value in more.items() if value is not None}
        issued = self._issued(self.ask_token(form), "n_a" if wanted == ID_JAG else "bearer")
        if issued.issued_token_type != TOKEN_TYPE + wanted:
            raise self.unavailable("its token endpoint answered with a token of another type")
        return issued

    def take_assertion(self, assertion: str, scopes: str) -> IssuedTokens:
        """Redeem an ID-JAG of another issuer.  RFC 7523, draft-ietf-oauth-identity-assertion-authz-grant.

        Raises:
            GrantError: This issuer refuses it.
            UnavailableError: It does not answer.
        """
        form = {"grant_type": f"{_GRANT}jwt-bearer", "assertion": assertion, "scope": scopes}
        return self._issued(self.ask_token(form))

    def revoke(self, token: str) -> bool:
        """Revoke a refresh or access token at the issuer (RFC 7009); return whether the issuer confirmed it."""
        try:
            endpoint = self.read_metadata().revocation_endpoint
            return endpoint is not None and self.send(endpoint, {"token": token})[0] == httpx.codes.OK
        except ArxError:
            return False

    def account(self, secret: bytes, tokens: IssuedTokens) -> tuple[str, str]:
        """Return the account that tokens are of, and a name of it for people.

        Raises:
            GrantError: The issuer names none, or names two.
            UnavailableError: It does not answer.
        """
        claims: dict[str, Any] = {}
        if isinstance(tokens.id_token, str):
            claims = self._id_claims(secret, tokens.id_token)
        place = self.read_metadata().userinfo_endpoint
        if place is not None:
            status, raw = self.fetch(place, bearer=tokens.access_token)
            found = object_of(raw) if status == httpx.codes.OK else {}
            if claims and status == httpx.codes.OK and found.get("sub") != claims["sub"]:
                raise denied("connection: userinfo is of another account than the ID token")
            claims |= found
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_ACCOUNT_CHARS or not subject.isprintable():
            raise denied("connection: the issuer does not name the account: ask for the scope openid")
        shown = next((claims[name] for name in ("preferred_username", "email", "name") if claims.get(name)), subject)
        return subject, str(shown)[:MAX_ACCOUNT_CHARS]

    def _id_claims(self, secret: bytes, token: str) -> dict[str, Any]:
        """Return the claims of an ID token that came from the token endpoint itself.  OIDC Core 3.1.3.7."""
        try:
            claims = read_json_object(wire.bytes_of(token.split(".")[1]))
        except (ArxError, IndexError, ValueError) as error:
            raise denied("connection: the ID token cannot be read") from error
        audience, client = claims.get("aud"), self._client_id
        if claims.get("iss") != self.issuer or client not in (audience if type(audience) is list else [audience]):
            raise denied("connection: the ID token is of another issuer, or for another client")
        if not isinstance(claims.get("sub"), str):
            raise denied("connection: the ID token names no account")
        if claims.get("azp", client) != client or claims.get("nonce") != derived(secret, "nonce"):
            raise denied("connection: the ID token is of another login")
        expiry = claims.get("exp")
        if not isinstance(expiry, int | float) or expiry * 1000 <= now_ms():
            raise denied("connection: the ID token has expired")
        return claims

    def _issued(self, answer: Mapping[str, Any], kind: str = "bearer") -> IssuedTokens:
        """Return what the token endpoint gives, of a type."""
        try:
            found = msgspec.convert(answer, IssuedTokens, strict=False)
        except msgspec.ValidationError:
            raise self.unavailable("its token endpoint answered without a token") from None
        texts = [text for text in (found.access_token, found.refresh_token) if text is not None]
        if found.token_type.lower() != kind or not all(map(_is_token, texts)):
            raise self.unavailable(f"its token endpoint answered with no token of ASCII, of type {kind}")
        return found


def issuer_of(mint: MintContext, name: str) -> AccountIssuer:
    """Return the issuer of a connection.

    Raises:
        GrantError: ``not_found``: the realm's settings have no such connection.
    """
    terms = mint.realm.connection.get(name)
    if terms is None:
        raise GrantError(f"the realm has no [connection.{name}]", code="not_found")
    issuer: AccountIssuer = mint.account_issuers.setdefault(name, AccountIssuer(mint.realm, name, terms))
    return issuer


def _is_token(text: str) -> bool:
    return bool(text) and len(text) <= MAX_TOKEN_CHARS and text.isascii() and text.isprintable() and " " not in text


def denied(message: str) -> GrantError:
    """Return the refusal ``connection_refused``."""
    return GrantError(message, code="connection_refused")
