# SPDX-License-Identifier: Apache-2.0
"""The issuer of an upstream's access tokens, with this mint as its client.  RFC 6749, 7009, 7636, 8414, 9207."""

import contextlib
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec

from arx_caps.http.client import fetch
from arx_caps.mint.connections.vault import HeldAccess
from arx_caps.mint.context import MintContext
from arx_caps.mint.keys.jwks import MAX_BYTES, TIMEOUT, TOTAL_S
from arx_caps.mint.login.oidc import authorization_url, client_credential, derived, fault_of_answer
from arx_caps.settings.connections import ConnectionTerms
from arx_caps.settings.realm import Realm, is_safe_url
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError, RequestError, UnavailableError
from arx_verifier.request import read_json_object
from arx_verifier.token import wire

TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:"  # noqa: S105 - the beginning of a kind of token
ID_JAG: Final = "id-jag"
_GRANT: Final = "urn:ietf:params:oauth:grant-type:"
CALLBACK: Final = "/connect/callback/"  # the connection's name follows: an answer of another issuer comes elsewhere
MAX_TOKEN_CHARS: Final = 16_384
MAX_ACCOUNT_CHARS: Final = 255
MOST_WAITING: Final = 8  # calls of one issuer at once: a slow one must not hold all threads of the mint
MOST_SCOPES: Final = 64  # of one token, in records
_MAX_SCOPE_CHARS: Final = 128
_LASTS_S: Final = 300.0  # of an access token whose answer has no time that can be read
_MOST_S: Final = 366 * 86_400.0
_WAIT_S: Final = 1.0  # of a person's browser, for a place


class IssuerBusyError(UnavailableError):
    """As many calls of the issuer run as may; this one has sent nothing."""


class RefreshRefusedError(GrantError):
    """The issuer has refused a refresh token, for good."""


class ScopesRefusedError(GrantError):
    """The issuer gives the scopes for a refresh token no more."""


class IssuerMetadata(msgspec.Struct, frozen=True):
    """An issuer's metadata.  RFC 8414."""

    issuer: str
    token_endpoint: str
    authorization_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    revocation_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class IssuedTokens(msgspec.Struct, frozen=True):
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
        self._known: IssuerMetadata | None = None  # fixed from the first answer to the end of this process
        self._places, self._held = threading.Semaphore(MOST_WAITING), threading.local()

    @property
    def redirect_uri(self) -> str:
        """The redirect URI, of this connection alone."""
        return self._realm.issuer + CALLBACK + self.name

    @contextlib.contextmanager
    def place(self, wait_s: float = 0.0) -> Iterator[None]:
        """Hold a place for calls of the issuer in this thread; a call without one waits a second for its own.

        Args:
            wait_s: How long to wait for one.

        Raises:
            IssuerBusyError: All are taken.
        """
        if getattr(self._held, "is_held", False):
            yield
            return
        if not self._places.acquire(timeout=wait_s):
            raise IssuerBusyError(f"the issuer of {self.name}: too many calls wait for it", code="issuer_unavailable")
        self._held.is_held = True
        try:
            yield
        finally:
            self._held.is_held = False
            self._places.release()

    def url(self, secret: bytes) -> str:
        """Return the URL at which a person logs in and consents.

        Args:
            secret: Random bytes that the person's browser keeps.

        Raises:
            UnavailableError: The issuer does not answer.
        """
        query = {"client_id": self.terms.client_id, "redirect_uri": self.redirect_uri}
        query |= {"scope": " ".join(self.terms.scopes)}
        query |= {"nonce": derived(secret, "nonce")} if "openid" in self.terms.scopes else {}
        endpoint = self.read_metadata().authorization_endpoint
        if endpoint is None:
            raise self._unavailable("its metadata lacks authorization_endpoint")
        return authorization_url(endpoint, secret, query)

    def require_answer(self, secret: bytes, answer: Mapping[str, str]) -> None:
        """Require that an answer is for this browser's attempt, and from this issuer.  RFC 9207.

        Raises:
            GrantError: It is not.
        """
        names_issuer = self.read_metadata().authorization_response_iss_parameter_supported
        if (why := fault_of_answer(secret, answer, self.terms.issuer, names_issuer=names_issuer)) is not None:
            raise denied(f"connection: {why}")

    def redeem(self, secret: bytes, code: str) -> IssuedTokens:
        """Redeem an authorization code.

        Raises:
            GrantError: The issuer refuses it.
            UnavailableError: It does not answer.
        """
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self.redirect_uri}
        return self._token(form | {"code_verifier": derived(secret, "verifier")})

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
        return self._token(form, invalid_grant=RefreshRefusedError, invalid_scope=ScopesRefusedError)

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
        issued = self._token(form, "n_a" if wanted == ID_JAG else "bearer")
        if issued.issued_token_type != TOKEN_TYPE + wanted:
            raise self._unavailable("its token endpoint answered with a token of another type")
        return issued

    def take_assertion(self, assertion: str, scopes: str) -> IssuedTokens:
        """Redeem an ID-JAG of another issuer.  RFC 7523, draft-ietf-oauth-identity-assertion-authz-grant.

        Raises:
            GrantError: This issuer refuses it.
            UnavailableError: It does not answer.
        """
        return self._token({"grant_type": f"{_GRANT}jwt-bearer", "assertion": assertion, "scope": scopes})

    def revoke(self, token: str) -> bool:
        """Revoke a refresh or access token at the issuer (RFC 7009); return whether the issuer confirmed it."""
        try:
            endpoint = self.read_metadata().revocation_endpoint
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
        if isinstance(tokens.id_token, str):
            claims = self._id_claims(secret, tokens.id_token)
        place = self.read_metadata().userinfo_endpoint
        if place is not None:
            status, raw = self._fetch(place, bearer=tokens.access_token)
            found = _object(raw) if status == 200 else {}
            if claims and status == 200 and found.get("sub") != claims["sub"]:
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
        audience, client = claims.get("aud"), self.terms.client_id
        if claims.get("iss") != self.terms.issuer or client not in (audience if type(audience) is list else [audience]):
            raise denied("connection: the ID token is of another issuer, or for another client")
        if not isinstance(claims.get("sub"), str):
            raise denied("connection: the ID token names no account")
        if claims.get("azp", client) != client or claims.get("nonce") != derived(secret, "nonce"):
            raise denied("connection: the ID token is of another login")
        expiry = claims.get("exp")
        if not isinstance(expiry, int | float) or expiry * 1000 <= now_ms():
            raise denied("connection: the ID token has expired")
        return claims

    def _token(self, form: Mapping[str, str], kind: str = "bearer", **refusals: type[GrantError]) -> IssuedTokens:
        """Return what the token endpoint gives; raise one of ``refusals`` by the issuer's error."""
        status, raw = self._send(self.read_metadata().token_endpoint, form)
        if status != 200:
            code = _object(raw).get("error") if 400 <= status < 500 else None
            if isinstance(code, str):
                error = refusals.get(code, GrantError)
                raise error(f"connection: the issuer answered {code[:40]!r}", code="connection_refused")
            raise self._unavailable(f"its token endpoint answered {status}")
        try:
            found = msgspec.convert(_object(raw), IssuedTokens, strict=False)
        except msgspec.ValidationError:
            raise self._unavailable("its token endpoint answered without a token") from None
        texts = [text for text in (found.access_token, found.refresh_token) if text is not None]
        if found.token_type.lower() != kind or not all(map(_is_token, texts)):
            raise self._unavailable(f"its token endpoint answered with no token of ASCII, of type {kind}")
        return found

    def _send(self, url: str, form: Mapping[str, str]) -> tuple[int, bytes]:
        """Send a form as the client, with the next secret if the issuer refuses the first."""
        answer = self._send_with(url, form, self.terms.client_secret)
        # A client that is refused has used up no token.
        if self.terms.client_secret_next is not None and _object(answer[1]).get("error") == "invalid_client":
            return self._send_with(url, form, self.terms.client_secret_next)
        return answer

    def _send_with(self, url: str, form: Mapping[str, str], source: str | None) -> tuple[int, bytes]:
        methods = self.read_metadata().token_endpoint_auth_methods_supported
        more, basic = client_credential(self.terms.client_id, source, self._realm.folder, methods)
        return self._fetch(url, {**form, **more}, basic)

    def read_metadata(self) -> IssuerMetadata:
        """Return where the issuer's endpoints are, read once.

        Raises:
            UnavailableError: They cannot be read.
        """
        if self._known is None:
            self._known = self._discover()
        return self._known

    def _discover(self) -> IssuerMetadata:
        place = urlsplit(self.terms.issuer)
        path = place.path.rstrip("/")
        # RFC 8414 3, and OIDC Discovery 4 for issuers that have the older document alone.
        for tail in (f"/.well-known/oauth-authorization-server{path}", f"{path}/.well-known/openid-configuration"):
            status, raw = self._fetch(f"{place.scheme}://{place.netloc}{tail}")
            if status == 200:
                break
        else:
            raise self._unavailable("its metadata cannot be read")
        try:
            found = msgspec.convert(_object(raw), IssuerMetadata)
        except msgspec.ValidationError:
            raise self._unavailable("its metadata lacks an endpoint") from None
        # Another issuer's metadata would lead people, codes and the client's secret there.
        if found.issuer != self.terms.issuer:
            raise self._unavailable("its metadata names another issuer")
        given = (found.authorization_endpoint, found.userinfo_endpoint, found.revocation_endpoint)
        if not all(map(is_safe_url, (found.token_endpoint, *filter(None, given)))):
            raise self._unavailable("its metadata has an endpoint that is not https:")
        return found

    def _fetch(
        self,
        url: str,
        form: Mapping[str, str] | None = None,
        basic: tuple[str, str] | None = None,
        bearer: str | None = None,
    ) -> tuple[int, bytes]:
        bounds: Any = {"timeout": TIMEOUT, "total_s": TOTAL_S, "longest": MAX_BYTES, "ca": self._realm.ca}
        try:
            with self.place(_WAIT_S):
                return fetch(url, form=form, basic=basic, bearer=bearer, **bounds)
        except (httpx.HTTPError, httpx.InvalidURL, RequestError) as error:
            # Not chained: the request has a secret.
            raise self._unavailable(f"it does not answer ({type(error).__name__})") from None

    def _unavailable(self, why: str) -> UnavailableError:
        return UnavailableError(f"the issuer of {self.name}: {why}", code="issuer_unavailable")

    def __repr__(self) -> str:
        return f"<AccountIssuer of {self.name}>"


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


def _object(raw: bytes) -> dict[str, Any]:
    try:
        return read_json_object(raw)
    except (ArxError, ValueError, RecursionError):
        return {}


def denied(message: str) -> GrantError:
    """Return the refusal ``connection_refused``."""
    return GrantError(message, code="connection_refused")
