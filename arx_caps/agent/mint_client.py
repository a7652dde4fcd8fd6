# SPDX-License-Identifier: Apache-2.0
"""Talk to the mint over HTTP: proofs go with each call, its problems come back as typed errors.  RFC 9449, RFC 9457.

Nothing is tried twice: a proof is good for one attempt, and whoever starts a task should know that it may have started.
No answer's text goes into an error but the mint's own detail, so that no token can.
"""

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx
import msgspec

from arx_caps.jose import SigningKey, make_dpop
from arx_verifier.errors import (
    REASONS,
    ArxError,
    Failure,
    GrantError,
    StoreError,
    TokenError,
    UnavailableError,
    refusal,
    shorten,
)

# A kill that is waited for takes its time; a mint that does not even accept a connection will not.
TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)


class _Problem(msgspec.Struct, frozen=True):
    """What is read of an RFC 9457 problem."""

    code: str = ""
    detail: str = ""
    title: str = ""
    failures: tuple[dict[str, str], ...] = ()


def takes_proxy(issuer: str) -> bool:
    """Tell whether a proxy that the environment names may stand between a caller and this mint.

    Over plain HTTP it would read assertions and bundles, with which it could act as the agent; and between two programs
    of one machine it has no business.  Who needs one all the same brings a client of its own.
    """
    try:
        url = httpx.URL(issuer)
    except httpx.InvalidURL:
        return False
    return url.scheme == "https" and not _is_loopback(url.host)


def is_private(issuer: str) -> bool:
    """Tell whether what this mint answers can be read by nobody on the way: TLS, or the same machine."""
    try:
        url = httpx.URL(issuer)
    except httpx.InvalidURL:
        return False
    return url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class MintClient:
    """Calls one mint.

    Args:
        issuer: The mint's public base URL.
        now: The caller's clock, ms since the Unix epoch.
        client: Sends; a client of its own when left out.
    """

    __slots__ = ("_http", "_now", "issuer")

    def __init__(self, issuer: str, *, now: Callable[[], int], client: httpx.Client | None = None) -> None:
        self.issuer = issuer.rstrip("/")
        self._now = now
        self._http = client or httpx.Client(timeout=TIMEOUT, trust_env=takes_proxy(self.issuer))

    def call(
        self,
        method: str,
        path: str,
        *,
        key: SigningKey,
        token: str | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make one call with a proof by ``key``.

        Args:
            method: GET, POST or DELETE.
            path: From ``/v1`` on.
            key: The session's key.
            token: The session's token, once there is one.
            body: JSON; members that are None are left out.

        Returns:
            The answer's JSON object.

        Raises:
            StoreError: The mint does not answer.
            UnavailableError: It answers that it cannot do this now.
            TokenError: It does not accept who is asking.
            GrantError: It refuses what is asked for.
            RequestError: It cannot read what is asked for.
        """
        return self._read(self._send(method, path, key=key, token=token, body=body))

    def fetch(self, path: str, *, key: SigningKey, token: str) -> bytes:
        """Get a file; otherwise as ``call``."""
        response = self._send("GET", path, key=key, token=token, body=None)
        if not response.is_success:
            raise _error_of(response, self.issuer)
        return response.content

    def _send(
        self, method: str, path: str, *, key: SigningKey, token: str | None, body: Mapping[str, Any] | None
    ) -> httpx.Response:
        url = self.issuer + path
        headers = {"DPoP": make_dpop(key, method=method, url=url, now=self._now(), token=token)}
        if token is not None:
            headers["Authorization"] = f"DPoP {_sendable(token)}"
        said = None if body is None else {name: value for name, value in body.items() if value is not None}
        try:
            # A redirect would carry assertion and token to where they are not for.
            return self._http.request(method, url, headers=headers, json=said, auth=None, follow_redirects=False)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise StoreError(
                f"{shorten(self.issuer)} is not the address of a mint, such as http://127.0.0.1:8700"
            ) from error
        except httpx.RequestError as error:
            # Where no connection came about, nothing was sent.
            unheard = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            known = "it did not hear this call" if unheard else "whether it heard this call is not known"
            raise StoreError(
                f"the mint at {self.issuer} does not answer ({type(error).__name__}): see that it runs (`arx up`) and "
                f"that the address is right; {known}"
            ) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        if not response.is_success:
            raise _error_of(response, self.issuer)
        try:
            return msgspec.json.decode(response.content, type=dict[str, Any])
        except (msgspec.DecodeError, ValueError, RecursionError):
            # Not chained: what was sent could be quoted.
            raise StoreError(f"what answers at {self.issuer} is not a mint of this version") from None

    def __repr__(self) -> str:
        return f"<MintClient of {self.issuer}>"


def _sendable(token: str) -> str:
    """Refuse what no header can hold, here and without a word of it: the HTTP client's error would quote it whole."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise refusal("malformed")
    return token


def _error_of(response: httpx.Response, issuer: str) -> ArxError:
    """Make the typed error of a refusal."""
    status = response.status_code
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except (msgspec.DecodeError, ValueError, RecursionError):
        problem = _Problem()
    if not problem.code:
        return UnavailableError(f"{issuer} answered {status} without saying why; is it a mint?", code="not_a_mint")
    failures = [Failure(*(failure.get(name, "") for name in Failure._fields)) for failure in problem.failures]
    kind: type[ArxError] = type(refusal(problem.code)) if problem.code in REASONS else _kind_of(status)
    message = problem.detail or problem.title or f"the mint answered {status}"
    untold = [str(failure) for failure in failures if str(failure) not in message]
    if untold:
        message += ": " + "; ".join(untold)
    error = kind(message, code=problem.code, failures=failures)
    error.status_hint = status
    return error


def _kind_of(status: int) -> type[ArxError]:
    if status == httpx.codes.UNAUTHORIZED:
        return TokenError
    return UnavailableError if status >= 500 or status == httpx.codes.TOO_MANY_REQUESTS else GrantError
