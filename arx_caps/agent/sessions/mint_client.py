# SPDX-License-Identifier: Apache-2.0
"""Talk to the mint over HTTP: proofs go with each call, its problems come back as typed errors.  RFC 9449, RFC 9457.

A call whose answer is lost is repeated; what was refused is not.
"""

import json
import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextvars import copy_context
from functools import lru_cache
from typing import Any, Final

import httpx
import msgspec

from arx_caps.credentials.jose import SigningKey, make_dpop
from arx_caps.http.client import USER_AGENT, no_answer, open_client
from arx_verifier.addresses import is_loopback
from arx_verifier.errors import (
    REASONS,
    ArxError,
    Failure,
    GrantError,
    RequestError,
    StoreError,
    TokenError,
    UnavailableError,
    refusal,
    shorten,
)

# A kill that is waited for takes its time; a mint that does not even accept a connection will not.
TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
PAUSES_S: Final = (0.1, 0.3, 1.0, 3.0, 6.0)  # before each repeat: a mint that crashed is started again meanwhile
PATIENCE_S: Final = 60.0  # no repeat begins later than this after the call
KEY_BYTES: Final = 16
OF_PROXIES: Final = (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT)
PROXY_HINT: Final = "ask each mint behind the proxy for /readyz, which says why it refuses; see the proxy's log"
_START: Final = "see that it runs (`arx up`) and that its address is right"
UNEXPLAINED: Final = "about:blank"  # a tool service's problems; the type of a mint's is where it explains the code

Body = Mapping[str, Any]


class LostAnswerError(StoreError):
    """The mint may have received the call, and may have done it, but its answer did not come."""


class _Problem(msgspec.Struct, frozen=True):
    """What is read of an RFC 9457 problem, or of ``/readyz``, with which a proxy answers for mints that cannot."""

    type: str = ""
    code: str = ""
    detail: str = ""
    title: str = ""
    failures: tuple[dict[str, str], ...] = ()
    because: tuple[str, ...] = ()


def takes_proxy(issuer: str) -> bool:
    """Return whether a proxy that the environment names may stand between a caller and this mint.

    A caller that needs one all the same brings a client of its own.
    """
    try:
        url = httpx.URL(issuer)
    except httpx.InvalidURL:
        return False
    # Over plain HTTP a proxy reads assertions and bundles, with which it can act as the agent.  Between two programs of
    # one machine a proxy has no use.
    return url.scheme == "https" and not is_loopback(url.host)


@lru_cache(256)  # clients ask before each message, and to parse a URL takes as long as to sign a call
def is_private(issuer: str) -> bool:
    """Return whether no other party can read this mint's answers on the way: TLS, or the same machine."""
    try:
        url = httpx.URL(issuer)
    except httpx.InvalidURL:
        return False
    return url.scheme == "https" or (url.scheme == "http" and is_loopback(url.host))


class MintClient:
    """Calls one mint.

    Args:
        issuer: The mint's public base URL.
        now: The caller's clock, ms since the Unix epoch.
        client: Sends; a client of its own when left out.
        ca: File of a further authority for TLS, for a client of its own.

    Raises:
        SettingsError: The file of the authority cannot be read.
    """

    __slots__ = ("_http", "_now", "issuer")

    def __init__(
        self, issuer: str, *, now: Callable[[], int], client: httpx.Client | None = None, ca: str | None = None
    ) -> None:
        self.issuer = issuer.rstrip("/")
        self._now = now
        self._http = client or open_client(self.issuer, timeout=TIMEOUT, ca=ca, proxy=takes_proxy(self.issuer))

    def call(
        self,
        method: str,
        path: str,
        *,
        key: SigningKey,
        token: str | None = None,
        body: Body | Callable[[], Body] | None = None,
        repeats: bool = True,
    ) -> dict[str, Any]:
        """Make one call with a proof by ``key``, and repeat it while its answer is lost.  CONTROL 4.4.

        Args:
            method: The HTTP method.
            path: From ``/v1`` on.
            key: The session's key.
            token: The session's token, once there is one.
            body: JSON; members that are None are left out.  A function is asked for it anew for each repeat.
            repeats: Whether it is repeated; a call that only looks is not for a lost answer.

        Returns:
            The answer's JSON object; an empty one where the repeat of a removal finds the caller's own session over.

        Raises:
            StoreError: The mint does not answer; ``LostAnswerError`` where it may have done what it was asked for.
            UnavailableError: It answers that it cannot do this now.
            TokenError: It does not accept who is asking.
            GrantError: It refuses what is asked for.
            RequestError: It cannot read what is asked for, or JSON has no form for a value of the body.
        """
        # A lost answer leaves open whether the mint did the work.  With one key for all repeats the mint answers the
        # first result again, so that no session or task exists that its caller does not know.
        once = {"Idempotency-Key": secrets.token_urlsafe(KEY_BYTES)} if method == "POST" else {}

        def send() -> httpx.Response:
            # Each repeat has a proof of its own: the mint accepts a proof once.
            said = body() if callable(body) else body
            return self._send(method, path, key=key, token=token, body=said, headers=once)

        return self._read(self._until_answered(send, looks=method == "GET") if repeats else send())

    def fetch(self, path: str, *, key: SigningKey, token: str) -> bytes:
        """Get a file; otherwise as ``call``."""
        response = self._until_answered(
            lambda: self._send("GET", path, key=key, token=token, body=None, headers={}), looks=True
        )
        if not response.is_success:
            raise _error_of(response, self.issuer)
        return response.content

    def _send(
        self,
        method: str,
        path: str,
        *,
        key: SigningKey,
        token: str | None,
        body: Body | None,
        headers: Mapping[str, str],
    ) -> httpx.Response:
        url = self.issuer + path
        proof = make_dpop(key, method=method, url=url, now=self._now(), token=token)
        headers = {**headers, "DPoP": proof, "User-Agent": USER_AGENT}
        if token is not None:
            headers["Authorization"] = f"DPoP {_sendable(token)}"
        content = None if body is None else _encode({name: value for name, value in body.items() if value is not None})
        if content is not None:
            headers["Content-Type"] = "application/json"
        about: dict[str, Any] = {"headers": headers, "content": content, "auth": None, "follow_redirects": False}
        try:
            # A redirect would carry assertion and token to where they are not for.
            return _interruptible(lambda: self._http.request(method, url, **about))
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise StoreError(
                f"{shorten(self.issuer)} is not the address of a mint, such as http://127.0.0.1:8700"
            ) from error
        except httpx.RequestError as error:
            # Where no connection came about, nothing was sent.
            unheard = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
            known = "the call was not sent" if unheard else "it is not known whether it received this call"
            raise (StoreError if unheard else LostAnswerError)(
                f"the mint at {self.issuer} does not answer ({no_answer(error, self.issuer)}); {known}", hint=_START
            ) from error

    def _until_answered(self, send: Callable[[], httpx.Response], *, looks: bool) -> httpx.Response:
        """Repeat a call whose answer is lost until there is one, or for as long as that makes sense."""
        began, lost = time.monotonic(), False
        # Once an answer is lost, a later 5xx or 429 is repeated too: it says nothing about the first attempt.
        for pause in (*PAUSES_S, None):
            outcome = _attempt(send)
            lost = lost or (not looks and _leaves_open(outcome))
            late = pause is None or time.monotonic() - began + pause > PATIENCE_S
            if not (lost or _was_not_judged(outcome)) or late or not _passes(outcome):
                break
            time.sleep((pause or 0) * random.uniform(0.5, 1.0))  # noqa: S311 - who was cut off together spreads out
        if isinstance(outcome, httpx.Response):
            # The repeat of a removal that ended the caller's own session proves it by the token that is revoked now.
            over = lost and outcome.request.method == "DELETE" and _problem_of(outcome).code == "revoked"
            return httpx.Response(httpx.codes.OK, json={}) if over else outcome
        # A later attempt that was never sent must not hide that the first one may have been done.
        if lost and not isinstance(outcome, LostAnswerError):
            raise LostAnswerError(
                f"the mint at {self.issuer} no longer answers; it is not known whether it has done this", hint=_START
            ) from outcome
        raise outcome

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


def _attempt(send: Callable[[], httpx.Response]) -> httpx.Response | StoreError:
    try:
        return send()
    except StoreError as error:
        return error


def _leaves_open(outcome: httpx.Response | StoreError) -> bool:
    """Return whether it stays open if the call was done: no answer, a proxy's, or that of a mint that failed in it."""
    if isinstance(outcome, StoreError):
        return isinstance(outcome, LostAnswerError)
    if _was_sent_twice(outcome):
        return True
    status = outcome.status_code
    unavailable = status == httpx.codes.SERVICE_UNAVAILABLE
    return status >= httpx.codes.INTERNAL_SERVER_ERROR and (
        not unavailable or _problem_of(outcome).code in ("", "store_unavailable")
    )


def _passes(outcome: httpx.Response | StoreError) -> bool:
    """Return whether a repeat may be answered otherwise soon."""
    if isinstance(outcome, StoreError):
        return True
    status = outcome.status_code
    failed = status >= httpx.codes.INTERNAL_SERVER_ERROR or status == httpx.codes.TOO_MANY_REQUESTS
    return failed or _was_sent_twice(outcome)


def _encode(body: Body) -> bytes:
    """Return a body as JSON.

    Raises:
        RequestError: A value has no form in JSON, such as NaN or half of a surrogate pair.
    """
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, TypeError, RecursionError) as error:
        # Without its cause, which has the whole body.
        raise RequestError(f"invalid value: expected one that JSON has a form for: {error}") from None


def _interruptible(send: Callable[[], httpx.Response]) -> httpx.Response:
    """Return the answer; Ctrl-C ends the wait for it, not the call.

    Raises:
        BaseException: What the call raises.
    """
    # Python raises KeyboardInterrupt between any two steps of the main thread.  Right after httpcore has locked its
    # connection pool it leaves the lock held, and the next call, as the end of a session, would wait for ever.
    if threading.current_thread() is not threading.main_thread():
        return send()
    done: Future[httpx.Response] = Future()

    def run() -> None:
        try:
            done.set_result(send())
        except BaseException as error:  # raised again in the main thread
            done.set_exception(error)

    threading.Thread(target=copy_context().run, args=(run,), daemon=True).start()  # with the caller's span
    return done.result()


def _was_not_judged(outcome: httpx.Response | StoreError) -> bool:
    """Return whether another mint behind the same proxy may answer: this one's clock is wrong, or two got one proof."""
    if isinstance(outcome, StoreError):
        return False
    unavailable = outcome.status_code == httpx.codes.SERVICE_UNAVAILABLE
    return _was_sent_twice(outcome) or (unavailable and _problem_of(outcome).code == "fenced")


def _was_sent_twice(outcome: httpx.Response) -> bool:
    """Return whether a call's proof was used before: a proxy sent it to a second mint, as the first did not answer."""
    # Each attempt has a proof of its own, so no other call can have used it.  No proxy repeats a POST by itself, so one
    # with a used proof is an attack or a mistake and is reported.
    unauthorized = outcome.status_code == httpx.codes.UNAUTHORIZED
    return (
        unauthorized and outcome.request.method in ("GET", "PUT", "DELETE") and _problem_of(outcome).code == "replayed"
    )


def _sendable(token: str) -> str:
    """Refuse what no header can hold, and quote nothing of it: the HTTP client's own error would quote it whole."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise refusal("malformed")
    return token


def _error_of(response: httpx.Response, issuer: str) -> ArxError:
    """Make the typed error of a refusal."""
    status, problem = response.status_code, _problem_of(response)
    if not problem.code and problem.because:
        return UnavailableError(f"the mint at {issuer} is not ready: {'; '.join(problem.because)}", code="not_ready")
    if not problem.code and status in OF_PROXIES:
        return UnavailableError(
            f"{issuer} answered {status}, as a proxy whose mint did not answer", hint=PROXY_HINT, code="no_mint"
        )
    if not problem.code:
        return UnavailableError(f"{issuer} answered {status} without saying why; is it a mint?", code="not_a_mint")
    if problem.type == UNEXPLAINED:
        # A tool service refuses in the same form, but knows no proof: it would say that there is no token.
        what = f"expected a mint, got what a tool service answers ({status} {problem.code})"
        return UnavailableError(f"{issuer} is no mint: {what}; give the mint's address as issuer", code="not_a_mint")
    # Only the mint's own problem goes into an error: other text of an answer could quote a token.
    failures = [Failure(*(failure.get(name, "") for name in Failure._fields)) for failure in problem.failures]
    # A code of a newer mint is unknown here; its status still says which family it belongs to.
    kind: type[ArxError] = type(refusal(problem.code)) if problem.code in REASONS else _kind_of(status)
    message = problem.detail or problem.title or f"the mint answered {status}"
    untold = [str(failure) for failure in failures if str(failure) not in message]
    if untold:
        message += ": " + "; ".join(untold)
    error = kind(message, code=problem.code, failures=failures)
    error.status_hint = status
    return error


def _problem_of(response: httpx.Response) -> _Problem:
    try:
        return msgspec.json.decode(response.content, type=_Problem)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _Problem()


def _kind_of(status: int) -> type[ArxError]:
    if status == httpx.codes.UNAUTHORIZED:
        return TokenError
    return UnavailableError if status >= 500 or status == httpx.codes.TOO_MANY_REQUESTS else GrantError
