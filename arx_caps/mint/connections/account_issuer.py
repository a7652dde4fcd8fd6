# SPDX-License-Identifier: Apache-2.0
"""The issuer of an upstream's access tokens, with this mint as its client.  RFC 6749, 7009, 7636, 8414, 9207."""

import hmac
import threading
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote_plus, urlencode, urlsplit

import httpx
import msgspec

from arx_caps.credentials.secret_source import read_secret
from arx_caps.http.client import fetch
from arx_caps.mint.keys.jwks import MAX_BYTES, TIMEOUT, TOTAL_S
from arx_caps.mint.login.oidc import challenge_of, derived
from arx_caps.settings.connections import ConnectionTerms
from arx_caps.settings.realm import Realm, is_safe_url
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError, RequestError, UnavailableError
from arx_verifier.request import read_json_object
from arx_verifier.token import wire

CALLBACK: Final = "/connect/callback/"  # the connection's name follows: an answer of another issuer comes elsewhere
MAX_TOKEN_CHARS: Final = 16_384
MAX_ACCOUNT_CHARS: Final = 255
MOST_WAITING: Final = 8  # calls of one issuer at once: a slow one must not hold all threads of the mint
_LASTS_S: Final = 300.0  # of an access token whose answer has no time


class RefreshRefusedError(GrantError):
    """The issuer has refused a refresh token, for good."""


class _Metadata(msgspec.Struct, frozen=True):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    userinfo_endpoint: str | None = None
    revocation_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False

    def endpoints(self) -> list[str]:
        given = (self.userinfo_endpoint, self.revocation_endpoint)
        return [self.authorization_endpoint, self.token_endpoint, *(url for url in given if url is not None)]


class IssuedTokens(msgspec.Struct, frozen=True):
    """An answer of a token endpoint, a secret; ``expires_at`` is ms since the Unix epoch."""

    access_token: str
    token_type: str
    expires_in: float = _LASTS_S
    refresh_token: str | None = None
    scope: str | None = None
    id_token: str | None = None

    @property
    def expires_at(self) -> int:
        """When the access token expires, counted from now."""
        return now_ms() + int(self.expires_in * 1000)

    def __repr__(self) -> str:
        return "<IssuedTokens>"


class AccountIssuer:
    """One issuer.  It is safe to use from any thread.

    Args:
        realm: The realm.
        name: The connection's name.
        terms: Its table.
    """

    def __init__(self, realm: Realm, name: str, terms: ConnectionTerms) -> None:
        self._realm, self.name, self.terms = realm, name, terms
        self._known: _Metadata | None = None  # fixed from the first answer to the end of this process
        self._waiting = threading.Semaphore(MOST_WAITING)

    @property
    def redirect_uri(self) -> str:
        """The redirect URI, of this connection alone."""
        return self._realm.issuer + CALLBACK + self.name

    def url(self, secret: bytes) -> str:
        """Return the URL at which a person logs in and consents.

        Args:
            secret: Random bytes that the person's browser keeps.

        Raises:
            UnavailableError: The issuer does not answer.
        """
        query = {"response_type": "code", "client_id": self.terms.client_id, "redirect_uri": self.redirect_uri}
        query |= {"scope": " ".join(self.terms.scopes), "state": derived(secret, "state")}
        query |= {"code_challenge": challenge_of(derived(secret, "verifier")), "code_challenge_method": "S256"}
        query |= {"nonce": derived(secret, "nonce")} if "openid" in self.terms.scopes else {}
        endpoint = self._metadata().authorization_endpoint
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(query)}"

    def require_answer(self, secret: bytes, answer: Mapping[str, str]) -> None:
        """Require that an answer is for this browser's attempt, and from this issuer.  RFC 9207.

        Raises:
            GrantError: It is not.
        """
        if not hmac.compare_digest(answer.get("state", "").encode(), derived(secret, "state").encode()):
            raise _wrong("the answer is for another attempt")
        sender = answer.get("iss")
        if sender is None and self._metadata().authorization_response_iss_parameter_supported:
            raise _wrong("iss is missing in the answer")
        if sender is not None and sender != self.terms.issuer:
            raise _wrong("the answer is from another issuer")

    def redeem(self, secret: bytes, code: str) -> IssuedTokens:
        """Redeem an authorization code.

        Raises:
            GrantError: The issuer refuses it.
            UnavailableError: It does not answer.
        """
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self.redirect_uri}
        try:
            return self._token(form | {"code_verifier": derived(secret, "verifier")})
        except RefreshRefusedError:
            raise _wrong("the issuer refuses the code") from None

    def refresh(self, token: str, scopes: str) -> IssuedTokens:
        """Use a refresh token.

        Args:
            token: The refresh token, a secret.
            scopes: The scopes of the access token.

        Raises:
            RefreshRefusedError: The issuer refuses it for good (``invalid_grant``).
            GrantError: It refuses something else.
            UnavailableError: It does not answer; what it did is not known.
        """
        return self._token({"grant_type": "refresh_token", "refresh_token": token, "scope": scopes})

    def revoke(self, token: str) -> bool:
        """Revoke a refresh or access token at the issuer (RFC 7009); return whether the issuer confirmed it."""
        try:
            endpoint = self._metadata().revocation_endpoint
            return endpoint is not None and self._send(endpoint, {"token": token})[0] == 200
        except ArxError:
            return False

    def account(self, secret: bytes, tokens: IssuedTokens) -> tuple[str, str]:
        """Return the account that tokens are of, and a name of it for people.

        Raises:
            GrantError: The issuer names none, or names two.
            UnavailableError: It does not answer.
        """
        claims: dict[str, Any] = {}
        if tokens.id_token is not None:
            claims = self._id_claims(secret, tokens.id_token)
        place = self._metadata().userinfo_endpoint
        if place is not None:
            status, raw = self._fetch(place, None, None, tokens.access_token)
            found = _object(raw) if status == 200 else {}
            if claims and status == 200 and found.get("sub") != claims["sub"]:
                raise _wrong("userinfo is of another account than the ID token")
            claims |= found
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_ACCOUNT_CHARS or not subject.isprintable():
            raise _wrong("the issuer does not name the account: ask for the scope openid")
        shown = next((claims[name] for name in ("preferred_username", "email", "name") if claims.get(name)), subject)
        return subject, str(shown)[:MAX_ACCOUNT_CHARS]

    def _id_claims(self, secret: bytes, token: str) -> dict[str, Any]:
        """Return the claims of an ID token that came from the token endpoint itself.  OIDC Core 3.1.3.7."""
        try:
            claims = read_json_object(wire.bytes_of(token.split(".")[1]))
        except (ArxError, IndexError, ValueError) as error:
            raise _wrong("the ID token cannot be read") from error
        audience = claims.get("aud")
        client = self.terms.client_id
        if claims.get("iss") != self.terms.issuer or client not in (audience if type(audience) is list else [audience]):
            raise _wrong("the ID token is of another issuer, or for another client")
        if claims.get("azp", client) != client or claims.get("nonce") != derived(secret, "nonce"):
            raise _wrong("the ID token is of another login")
        expiry = claims.get("exp")
        if not isinstance(expiry, int | float) or expiry * 1000 <= now_ms():
            raise _wrong("the ID token has expired")
        return claims

    def _token(self, form: Mapping[str, str]) -> IssuedTokens:
        status, raw = self._send(self._metadata().token_endpoint, form)
        if status != 200:
            code = _object(raw).get("error") if 400 <= status < 500 else None
            if code == "invalid_grant":
                raise RefreshRefusedError("the issuer refuses the grant (invalid_grant)", code="connection_ended")
            if isinstance(code, str):
                raise _wrong(f"the issuer answered {code[:40]!r}")
            raise self._unavailable(f"its token endpoint answered {status}")
        try:
            found = msgspec.convert(_object(raw), IssuedTokens, strict=False)
        except msgspec.ValidationError:
            raise self._unavailable("its token endpoint answered without a token") from None
        texts = [text for text in (found.access_token, found.refresh_token) if text is not None]
        if found.token_type.lower() != "bearer" or not all(map(_is_token, texts)):
            raise self._unavailable("its token endpoint answered with no bearer token of ASCII")
        return found

    def _send(self, url: str, form: Mapping[str, str]) -> tuple[int, bytes]:
        """Send a form as the client."""
        terms, basic = self.terms, None
        whole = dict(form)
        secret = None if terms.client_secret is None else read_secret(terms.client_secret, self._realm.folder)
        if secret is None:
            whole["client_id"] = terms.client_id
        elif "client_secret_basic" in self._metadata().token_endpoint_auth_methods_supported:
            basic = (quote_plus(terms.client_id), quote_plus(secret))  # RFC 6749 2.3.1
        else:
            whole |= {"client_id": terms.client_id, "client_secret": secret}
        return self._fetch(url, whole, basic)

    def _metadata(self) -> _Metadata:
        if self._known is None:
            self._known = self._discover()
        return self._known

    def _discover(self) -> _Metadata:
        place = urlsplit(self.terms.issuer)
        path = place.path.rstrip("/")
        base = f"{place.scheme}://{place.netloc}"
        # RFC 8414 3, and OIDC Discovery 4 for issuers that have the older document alone.
        for url in (
            f"{base}/.well-known/oauth-authorization-server{path}",
            f"{base}{path}/.well-known/openid-configuration",
        ):
            status, raw = self._fetch(url, None, None)
            if status == 200:
                break
        else:
            raise self._unavailable("its metadata cannot be read")
        try:
            found = msgspec.convert(_object(raw), _Metadata)
        except msgspec.ValidationError:
            raise self._unavailable("its metadata lacks an endpoint") from None
        # Another issuer's metadata would lead people, codes and the client's secret there.
        if found.issuer != self.terms.issuer:
            raise self._unavailable("its metadata names another issuer")
        if not all(map(is_safe_url, found.endpoints())):
            raise self._unavailable("its metadata has an endpoint that is not https:")
        return found

    def _fetch(
        self, url: str, form: Mapping[str, str] | None, basic: tuple[str, str] | None, bearer: str | None = None
    ) -> tuple[int, bytes]:
        if not self._waiting.acquire(blocking=False):
            raise self._unavailable("too many calls wait for it")
        try:
            bounds: Any = {"timeout": TIMEOUT, "total_s": TOTAL_S, "longest": MAX_BYTES, "ca": self._realm.ca}
            return fetch(url, form=form, basic=basic, bearer=bearer, **bounds)
        except (httpx.HTTPError, httpx.InvalidURL, RequestError) as error:
            # Not chained: the request has a secret.
            raise self._unavailable(f"it does not answer ({type(error).__name__})") from None
        finally:
            self._waiting.release()

    def _unavailable(self, why: str) -> UnavailableError:
        return UnavailableError(f"the issuer of {self.name}: {why}", code="issuer_unavailable")

    def __repr__(self) -> str:
        return f"<AccountIssuer of {self.name}>"


def _is_token(text: str) -> bool:
    return bool(text) and len(text) <= MAX_TOKEN_CHARS and text.isascii() and text.isprintable() and " " not in text


def _object(raw: bytes) -> dict[str, Any]:
    try:
        return read_json_object(raw)
    except (ArxError, ValueError, RecursionError):
        return {}


def _wrong(message: str) -> GrantError:
    return GrantError(f"connection: {message}", code="connection_refused")
