# SPDX-License-Identifier: Apache-2.0
"""Log a person in at the realm's OpenID Connect issuer: code flow with PKCE.  CONTROL 5.8, OIDC Core 3.1.

``identity.issuer_token`` verifies the ID token.  What the person may do then is for the caller to decide.
"""

import contextlib
import hashlib
import hmac
import json
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote_plus, urlencode, urlsplit

import httpx
import msgspec

from arx_caps.credentials.secret_source import read_secret
from arx_caps.http.client import no_answer
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.issuer_token import AHEAD_S, IssuerToken, verify_issuer_token
from arx_caps.mint.keys.jwks import fetch_document
from arx_caps.settings.realm import Login, is_safe_url
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError, RequestError, SettingsError, UnavailableError
from arx_verifier.request import read_json_object
from arx_verifier.token import wire

CALLBACK: Final = "/oauth/callback"
CONSOLE_CALLBACK: Final = "/console/callback"  # where an answer goes on to, if the console has begun the login
CONSOLE_COOKIE: Final = "arx-console-login"  # in the browser of an operator who has begun a login
CONNECT_LOGIN: Final = "/connect/login"  # the same, if a link to connect an account has begun it
CONNECT_COOKIE: Final = "arx-connect"
PAGE_MS: Final = 10 * 60_000  # for the login of a person
FRESH_S: Final = 300  # how long the issuer's metadata is used
RETRY_S: Final = 10  # after it could not be read: a login may not cost a thread the issuer's timeout each time
MAX_WAITING: Final = 8  # logins that wait for the issuer at once: a slow one must not hold all threads
MAX_CODE_CHARS: Final = 2048
_ERROR: Final = re.compile("[a-z_]{1,40}")
DEVICE_MS: Final = 5 * 60_000  # from the issue of an ID token to its use here


class _Discovered(msgspec.Struct, frozen=True):
    """The issuer's metadata (OIDC Discovery 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False
    claims_parameter_supported: bool = False


class OidcLogin:
    """The logins at one issuer.  It is safe to use from any thread.

    Attributes:
        issuer: The issuer's URL.

    Args:
        mint: The mint.
        login: The realm's settings.
    """

    def __init__(self, mint: MintContext, login: Login) -> None:
        self._mint, self._login = mint, login
        self.issuer = login.issuer
        # The issuer's metadata, or why it cannot be read, and since when (s of the monotonic clock).
        self._known: tuple[float, _Discovered | ArxError] | None = None
        self._discovering = threading.Lock()
        self._waiting = threading.Semaphore(MAX_WAITING)

    def url(self, secret: bytes, claims: Collection[str], *, max_age_s: int | None = None, again: bool = False) -> str:
        """Return the URL at which a person logs in.

        Args:
            secret: Random bytes that the person's browser keeps; state, nonce and verifier are derived from them.
            claims: The claims of the ID token that the policy judges.
            max_age_s: How long ago the person may have logged in at the issuer, s; None for any time.
            again: Whether the person must log in now, whatever session the issuer has.

        Raises:
            UnavailableError: ``issuer_unavailable``: the issuer does not answer.
        """
        query = {"client_id": self._login.client_id, "redirect_uri": self._mint.realm.issuer + CALLBACK}
        query |= {"scope": self._login.scope, "nonce": derived(secret, "nonce")}
        query |= {"max_age": str(max_age_s)} if max_age_s is not None else {}
        query |= {"prompt": "login"} if again else {}
        discovered = self._discovered()
        if claims and discovered.claims_parameter_supported:
            # Many issuers put groups into an ID token on request alone (OIDC Core 5.5).
            query["claims"] = json.dumps({"id_token": dict.fromkeys(sorted(claims))})
        return authorization_url(discovered.authorization_endpoint, secret, query)

    def require_answer(self, secret: bytes, answer: Mapping[str, str]) -> None:
        """Require that the issuer's answer is for this browser and from this issuer.

        Args:
            secret: What the browser keeps.
            answer: The query of the callback.

        Raises:
            GrantError: ``bad_subject_token``: it is for another login, or another issuer's (RFC 9207).
            UnavailableError: The issuer does not answer.
        """
        names_issuer = self._discovered().authorization_response_iss_parameter_supported
        if (why := fault_of_answer(secret, answer, self.issuer, names_issuer=names_issuer)) is not None:
            raise _wrong(why)

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
        token = self._verify(lambda: self._exchange(code, derived(secret, "verifier")), self._login.client_id)
        if token.claims.get("nonce") != derived(secret, "nonce"):
            raise _wrong("nonce: expected that of this login")
        # An issuer may know neither max_age nor prompt (OIDC Core 3.1.2.1): what it did shows in the token alone.
        if max_age_s is not None and login_time(token) < now_ms() - (max_age_s + AHEAD_S) * 1000:
            raise _wrong("auth_time: expected a login that is more recent; the issuer must take max_age, and state it")
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
            raise _wrong("this mint takes no login of programs")
        token = self._verify(lambda: text, client)
        # It is bound to no key: the less time a thief has, the better.
        issued = token.claims.get("iat")
        if not isinstance(issued, int) or issued * 1000 < now_ms() - DEVICE_MS:
            raise _wrong("iat: expected an ID token that was issued just now")
        # Without the signature: of an ECDSA signature, anyone can make a second one that verifies.
        signed = hashlib.sha256(text.rpartition(".")[0].encode()).hexdigest()
        unit.spend("login", self._login.issuer, signed, token.expires_at)
        return token

    def _verify(self, get_text: Callable[[], str], client_id: str) -> IssuerToken:
        issuer = next((each for each in self._mint.policy.issuers.values() if each.url == self._login.issuer), None)
        if issuer is None:
            raise _wrong("the policy has no [issuer] with the URL of login_issuer")
        # The policy says whose keys and which algorithms; the audience is this mint as a client, and no other.
        trusted = msgspec.structs.replace(issuer, audience=(client_id,))
        token = verify_issuer_token(
            get_text(), {trusted.name: trusted}, self._mint.issuer_keys, kind="id_token", now=now_ms(), session_kid=""
        )
        if token.claims.get("azp", client_id) != client_id:
            raise _wrong("azp: expected this mint")
        return token

    def _exchange(self, code: str, verifier: str) -> str:
        login, discovered = self._login, self._discovered()
        form = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier}
        form |= {"redirect_uri": self._mint.realm.issuer + CALLBACK, "client_id": login.client_id}
        methods = discovered.token_endpoint_auth_methods_supported
        more, basic = client_credential(login.client_id, login.client_secret, self._mint.realm.folder, methods)
        with self._turn():
            raw = self._fetch(discovered.token_endpoint, form | more, basic)
        try:
            token = read_json_object(raw)["id_token"]
        except (ArxError, KeyError, ValueError, RecursionError):
            raise _wrong("the issuer answered without an ID token") from None
        if not isinstance(token, str) or not token.isascii():
            raise _wrong("the issuer answered without an ID token")
        return token

    def _discovered(self) -> _Discovered:
        known = self._last()
        if known is None:
            # One thread asks the issuer, and the others wait for its result.
            with self._turn(), self._discovering:
                known = self._last()
                if known is None:
                    began = time.monotonic()
                    try:
                        known = self._discover()
                    except UnavailableError as error:
                        known, began = error, time.monotonic()
                    self._known = (began, known)
        if isinstance(known, ArxError):
            raise _unavailable(str(known))
        return known

    def _last(self) -> _Discovered | ArxError | None:
        """Return what the issuer last answered, or that it did not; None if it is to be asked again."""
        if self._known is None:
            return None
        at_s, known = self._known
        return known if time.monotonic() - at_s < (RETRY_S if isinstance(known, ArxError) else FRESH_S) else None

    def _discover(self) -> _Discovered:
        issuer = self._login.issuer
        try:
            raw = self._fetch(f"{issuer.rstrip('/')}/.well-known/openid-configuration", None, None)
            found = msgspec.convert(read_json_object(raw), _Discovered)
        except (ArxError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise _unavailable(f"the metadata of the login issuer cannot be read: {error}") from error
        # Another issuer's metadata would lead people, and the client's secret, to that issuer (OIDC Discovery 4.3).
        if found.issuer != issuer:
            raise _unavailable("the metadata of the login issuer names another issuer")
        if not all(is_safe_url(url) for url in (found.authorization_endpoint, found.token_endpoint)):
            raise _unavailable("the metadata of the login issuer has an endpoint that is not https:")
        return found

    def _fetch(self, url: str, form: Mapping[str, str] | None, basic: tuple[str, str] | None) -> bytes:
        try:
            return fetch_document(url, self._mint.realm.ca, form=form, basic=basic)
        except RequestError as error:
            raise _wrong(str(error)) from error
        except SettingsError as error:
            raise _unavailable(str(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unavailable(f"the login issuer does not answer: {no_answer(error, url)}") from None

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._waiting.acquire(blocking=False):
            raise _unavailable("too many logins wait for the issuer: retry")
        try:
            yield
        finally:
            self._waiting.release()

    def __repr__(self) -> str:
        return f"<OidcLogin at {self._login.issuer}>"


def authorization_url(endpoint: str, secret: bytes, query: Mapping[str, str]) -> str:
    """Return the URL of a request for an authorization code.  RFC 6749 4.1.1, RFC 7636.

    Args:
        endpoint: The issuer's endpoint.
        secret: Random bytes that the person's browser keeps; state and verifier are derived from them.
        query: The other parameters.
    """
    asked = {"response_type": "code", "state": derived(secret, "state"), "code_challenge_method": "S256"}
    asked |= {"code_challenge": challenge_of(derived(secret, "verifier")), **query}
    return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(asked)}"


def fault_of_answer(secret: bytes, answer: Mapping[str, str], issuer: str, *, names_issuer: bool) -> str | None:
    """Return why an answer is not for this browser's attempt, or not from the issuer (RFC 9207); None if it is.

    Args:
        secret: As for ``authorization_url``.
        answer: The query of the callback.
        issuer: The issuer's URL.
        names_issuer: Whether the issuer names itself in each answer.
    """
    if not hmac.compare_digest(answer.get("state", "").encode(), derived(secret, "state").encode()):
        return "the answer is for another attempt"
    sender = answer.get("iss")
    if sender is None:
        return "iss is missing in the answer" if names_issuer else None
    return None if sender == issuer else "the answer is from another issuer"


def client_credential(
    client: str, source: str | None, folder: Path, methods: Collection[str]
) -> tuple[dict[str, str], tuple[str, str] | None]:
    """Return what a client adds to its form, a secret, and its name and password for the header, or None.

    Args:
        client: Its id.
        source: Where its secret is; None for a public client.
        folder: The realm's folder.
        methods: The methods that the issuer takes.

    Raises:
        SettingsError: The secret cannot be read.
    """
    if source is None:
        return {"client_id": client}, None
    secret = read_secret(source, folder)
    if "client_secret_basic" in methods:
        return {}, (quote_plus(client), quote_plus(secret))  # RFC 6749 2.3.1
    return {"client_id": client, "client_secret": secret}, None


def code_in(answer: Mapping[str, str]) -> tuple[str, str]:
    """Return the authorization code of an issuer's answer; without a usable one, an empty text and what happened."""
    code, error = answer.get("code", ""), answer.get("error", "")
    if 0 < len(code) <= MAX_CODE_CHARS:
        return code, ""
    why = f": the issuer answered {error}" if _ERROR.fullmatch(error) else ""
    return "", f"the login failed or was cancelled{why}"


def login_time(token: IssuerToken) -> int:
    """Return when the person logged in at the issuer, ms since the Unix epoch; 0 if the ID token does not say."""
    at = token.claims.get("auth_time")
    # A time ahead of the mint's clock would make the login last longer.
    return min(at * 1000, now_ms()) if type(at) is int and at > 0 else 0


def derived(secret: bytes, purpose: str) -> str:
    """Return a text for one purpose, from which neither the secret nor another purpose's text follows."""
    return wire.text_of(hmac.digest(secret, purpose.encode(), "sha256"))


def challenge_of(verifier: str) -> str:
    """Return the S256 challenge of a verifier (RFC 7636 4.2)."""
    return wire.text_of(hashlib.sha256(verifier.encode()).digest())


def _wrong(message: str) -> GrantError:
    return GrantError(f"login: {message}", code="bad_subject_token")


def _unavailable(message: str) -> UnavailableError:
    return UnavailableError(message, code="issuer_unavailable")
