# SPDX-License-Identifier: Apache-2.0
"""This mint as the client of an issuer: metadata, login of a person, token endpoint.  RFC 6749, 7636, 8414, 9207.

``login.oidc`` logs people in at the realm's issuer, ``connections.account_issuer`` gets tokens of people's accounts.
"""

import contextlib
import hashlib
import hmac
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, TypeAlias
from urllib.parse import quote_plus, urlencode, urlsplit

import httpx
import msgspec

from arx_caps.credentials.secret_source import read_secret
from arx_caps.http.client import fetch, no_answer
from arx_caps.mint.keys.jwks import MAX_BYTES, TIMEOUT, TOTAL_S
from arx_caps.settings.connections import ConnectionTerms
from arx_caps.settings.realm import Login, Realm, is_safe_url
from arx_verifier.errors import ArxError, GrantError, RequestError, SettingsError, UnavailableError
from arx_verifier.request import read_json_object
from arx_verifier.token import wire

RFC_8414: Final = "{origin}/.well-known/oauth-authorization-server{path}"
OPENID: Final = "{origin}{path}/.well-known/openid-configuration"  # OIDC Discovery 4
RETRY_S: Final = 10  # after the metadata could not be read: not each login may cost a thread the issuer's timeout
MOST_WAITING: Final = 8  # calls of one issuer at once: a slow one must not hold all threads of the mint
MAX_CODE_CHARS: Final = 2048
SECRET_BYTES: Final = 32  # of what a browser keeps
_Terms: TypeAlias = Login | ConnectionTerms
_ERROR: Final = re.compile("[a-z_]{1,40}")


class IssuerBusyError(UnavailableError):
    """Too many calls of the issuer run, or another one refreshes; this one has sent nothing."""


class IssuerMetadata(msgspec.Struct, frozen=True):
    """An issuer's metadata.  RFC 8414, OIDC Discovery 3."""

    issuer: str
    token_endpoint: str
    authorization_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    revocation_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False
    claims_parameter_supported: bool = False


class IssuerClient:
    """A client of one issuer.  It is safe to use from any thread.

    Attributes:
        issuer: The issuer's URL.
        redirect_uri: Where the issuer's answers come.
        noun: What it is for, in refusals.
        refusal: Their code.
        documents: Where the metadata may be, tried in this order.
        fresh_s: How long they are used, s.
        wait_s: How long a call waits for a place among ``MOST_WAITING``, s.

    Args:
        realm: The realm.
        name: The issuer, in errors.
        terms: The issuer, and the mint's id and secret there.
        path: The path of ``redirect_uri``.
        scope: The scope to ask for.
        later: Where further secrets are, tried in this order if the issuer refuses the client.
    """

    noun: ClassVar[str]
    refusal: ClassVar[str]
    documents: ClassVar[Sequence[str]]
    fresh_s: ClassVar[float]
    wait_s: ClassVar[float]

    def __init__(self, realm: Realm, name: str, terms: _Terms, path: str, scope: str, *later: str | None) -> None:
        self.issuer, self.redirect_uri = terms.issuer, realm.issuer + path
        self._realm, self._name, self._client_id, self._scope = realm, name, terms.client_id, scope
        self._secrets = [source for source in (terms.client_secret, *later) if source is not None]
        # The metadata, or why they cannot be read, and since when (s of the monotonic clock).
        self._known: tuple[float, IssuerMetadata | UnavailableError] | None = None
        self._reading = threading.Lock()
        self._places, self._held = threading.Semaphore(MOST_WAITING), threading.local()

    @contextlib.contextmanager
    def place(self, wait_s: float = 0.0) -> Iterator[None]:
        """Hold a place for calls of the issuer in this thread; without it, each call takes its own.

        Args:
            wait_s: How long to wait for one.

        Raises:
            IssuerBusyError: All are taken.
        """
        if getattr(self._held, "is_held", False):
            yield
            return
        if not self._places.acquire(timeout=wait_s):
            raise IssuerBusyError(f"{self._name}: too many calls wait for it", code="issuer_unavailable")
        self._held.is_held = True
        try:
            yield
        finally:
            self._held.is_held = False
            self._places.release()

    def read_metadata(self) -> IssuerMetadata:
        """Return where the issuer's endpoints are.

        Raises:
            UnavailableError: They cannot be read.
        """
        known = self._last()
        if known is None:
            # One thread asks the issuer, and the others wait for its result.
            with self.place(self.wait_s), self._reading:
                known = self._last()
                if known is None:
                    try:
                        known = self._discover()
                    except UnavailableError as error:
                        known = error
                    self._known = (time.monotonic(), known)
        if isinstance(known, UnavailableError):
            raise UnavailableError(str(known), code="issuer_unavailable")
        return known

    def login_url(self, secret: bytes, more: Mapping[str, str] = {}) -> str:
        """Return the URL of a request for an authorization code.  RFC 6749 4.1.1, RFC 7636.

        Args:
            secret: Random bytes that the person's browser keeps; state, nonce and verifier are derived from them.
            more: Further parameters.

        Raises:
            UnavailableError: The issuer does not answer.
        """
        query = {"response_type": "code", "client_id": self._client_id, "redirect_uri": self.redirect_uri}
        query |= {"scope": self._scope, "state": derived(secret, "state"), "code_challenge_method": "S256"}
        query |= {"code_challenge": challenge_of(derived(secret, "verifier")), **more}
        if "openid" in self._scope.split(" "):
            query["nonce"] = derived(secret, "nonce")
        endpoint = self.read_metadata().authorization_endpoint
        if endpoint is None:
            raise self.unavailable("its metadata lack authorization_endpoint")
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(query)}"

    def read_answer(self, secret: bytes, answer: Mapping[str, str]) -> tuple[str, str]:
        """Return the authorization code of an answer; without a usable one, an empty text and what happened.

        Args:
            secret: As for ``login_url``.
            answer: The query of the callback.

        Raises:
            GrantError: It is not for this browser's attempt, or not from this issuer (RFC 9207).
            UnavailableError: The issuer does not answer.
        """
        if not hmac.compare_digest(answer.get("state", "").encode(), derived(secret, "state").encode()):
            raise self.refused("the answer is for another attempt")
        names_issuer, sender = self.read_metadata().authorization_response_iss_parameter_supported, answer.get("iss")
        if sender is None and names_issuer:
            raise self.refused("iss is missing in the answer")
        if sender not in (None, self.issuer):
            raise self.refused("the answer is from another issuer")
        code, error = answer.get("code", ""), answer.get("error", "")
        if 0 < len(code) <= MAX_CODE_CHARS:
            return code, ""
        why = f": the issuer answered {error}" if _ERROR.fullmatch(error) else ""
        return "", f"the login failed or was cancelled{why}"

    def redeem_code(self, secret: bytes, code: str) -> dict[str, Any]:
        """Return the answer of the token endpoint to an authorization code.

        Raises:
            GrantError: The issuer refuses it.
            UnavailableError: It does not answer.
        """
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self.redirect_uri}
        return self.ask_token(form | {"code_verifier": derived(secret, "verifier")})

    def ask_token(self, form: Mapping[str, str], **refusals: type[GrantError]) -> dict[str, Any]:
        """Return the answer of the token endpoint.

        Args:
            form: The request.
            refusals: By the issuer's error, the error to raise.

        Raises:
            GrantError: The issuer refuses it.
            UnavailableError: It does not answer.
        """
        status, raw = self.send(self.read_metadata().token_endpoint, form)
        answer = object_of(raw)
        if status == httpx.codes.OK:
            return answer
        error = answer.get("error")
        if 400 <= status < 500 and isinstance(error, str):
            raise self.refused(f"the issuer answered {error[:40]!r}", refusals.get(error, GrantError))
        raise self.unavailable(f"its token endpoint answered {status}")

    def send(self, url: str, form: Mapping[str, str]) -> tuple[int, bytes]:
        """Return status and body of the answer to a form that is sent as the client.

        Raises:
            SettingsError: The client's secret cannot be read.
            UnavailableError: The issuer does not answer.
        """
        if not self._secrets:
            return self.fetch(url, {**form, "client_id": self._client_id})
        for source in self._secrets:
            secret = read_secret(source, self._realm.folder)
            if "client_secret_basic" in self.read_metadata().token_endpoint_auth_methods_supported:
                basic = (quote_plus(self._client_id), quote_plus(secret))  # RFC 6749 2.3.1
                answer = self.fetch(url, form, basic=basic)
            else:
                answer = self.fetch(url, {**form, "client_id": self._client_id, "client_secret": secret})
            # A client that is refused has used up no token.
            if object_of(answer[1]).get("error") != "invalid_client":
                break
        return answer

    def fetch(self, url: str, form: Mapping[str, str] | None = None, **credential: Any) -> tuple[int, bytes]:
        """Return status and body of an answer of the issuer.

        Args:
            url: One of its endpoints.
            form: What to send.
            credential: ``basic`` or ``bearer``, as ``http.client.fetch`` takes it.

        Raises:
            UnavailableError: It does not answer.
        """
        bounds: Any = {"timeout": TIMEOUT, "total_s": TOTAL_S, "longest": MAX_BYTES, "ca": self._realm.ca}
        try:
            with self.place(self.wait_s):
                return fetch(url, form=form, **credential, **bounds)
        except (httpx.HTTPError, httpx.InvalidURL, RequestError, SettingsError) as error:
            own = isinstance(error, RequestError | SettingsError)
            # Not chained: the request has a secret.
            raise self.unavailable(str(error) if own else f"it does not answer ({no_answer(error, url)})") from None

    def refused(self, why: str, kind: type[GrantError] = GrantError) -> GrantError:
        """Return a refusal."""
        return kind(f"{self.noun}: {why}", code=self.refusal)

    def unavailable(self, why: str) -> UnavailableError:
        """Return the error of an issuer that does not answer as expected."""
        return UnavailableError(f"{self._name}: {why}", code="issuer_unavailable")

    def _last(self) -> IssuerMetadata | UnavailableError | None:
        """Return the metadata, or why they cannot be read; None if the issuer is to be asked again."""
        if self._known is None:
            return None
        at_s, known = self._known
        lasts_s = RETRY_S if isinstance(known, UnavailableError) else self.fresh_s
        return known if time.monotonic() - at_s < lasts_s else None

    def _discover(self) -> IssuerMetadata:
        place = urlsplit(self.issuer)
        about = {"origin": f"{place.scheme}://{place.netloc}", "path": place.path.rstrip("/")}
        for document in self.documents:
            status, raw = self.fetch(document.format(**about))
            if status == httpx.codes.OK:
                break
        else:
            raise self.unavailable("its metadata cannot be read")
        try:
            found = msgspec.convert(object_of(raw), IssuerMetadata)
        except msgspec.ValidationError:
            raise self.unavailable("its metadata lack an endpoint") from None
        # Another issuer's metadata would lead people, codes and the client's secret there.
        if found.issuer != self.issuer:
            raise self.unavailable("its metadata name another issuer")
        given = (found.authorization_endpoint, found.userinfo_endpoint, found.revocation_endpoint)
        if not all(map(is_safe_url, (found.token_endpoint, *filter(None, given)))):
            raise self.unavailable("its metadata have an endpoint that is not https:")
        return found

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._name}>"


def object_of(raw: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one if the bytes are no JSON object."""
    try:
        return read_json_object(raw)
    except (ArxError, ValueError, RecursionError):
        return {}


def digest_of(secret: str | bytes) -> str:
    """Return the SHA-256 of a random secret, in hex: the database has it in its place."""
    raw = secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else secret
    return hashlib.sha256(raw).hexdigest()


def derived(secret: bytes, purpose: str) -> str:
    """Return a text for one purpose, from which neither the secret nor another purpose's text follows."""
    return wire.text_of(hmac.digest(secret, purpose.encode(), "sha256"))


def challenge_of(verifier: str) -> str:
    """Return the S256 challenge of a verifier (RFC 7636 4.2)."""
    return wire.text_of(hashlib.sha256(verifier.encode()).digest())
