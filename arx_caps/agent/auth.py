# SPDX-License-Identifier: Apache-2.0
"""Sign every request of an HTTP client, and only what goes where the task's tokens belong.  SPEC 8.

One class for httpx and httpx2, sync and async.  Each request gets its own one-shot token over method, raw path and
query and the body's SHA-256; the task's token never travels.
"""

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import httpx
import msgspec

from arx_caps.agent.copies import Shared
from arx_caps.agent.origins import Origin, origin_of, read_origin
from arx_verifier.errors import AttenuationError

try:
    from httpx2 import Auth as _OtherAuth
except ImportError:

    class _OtherAuth:  # type: ignore[no-redef]  # one of the two is there
        """Stands for the base class of httpx2, which is not installed."""


_UNAUTHORIZED: Final = 401
_MAX_PROBLEM_BYTES: Final = 16 * 1024
_START: Final = ("call", "start")  # the failure of a call that was signed before its service started, SPEC 8.3
_MARK: Final = "arx.authorization"  # request extension: the header that was written here, and may be replaced


class _Failure(msgspec.Struct):
    place: str
    rule: str


class _Problem(msgspec.Struct):
    """What is looked at of a service's refusal."""

    code: str
    failures: list[_Failure] = []


class Sign(Protocol):
    """What makes the one-shot token of one HTTP call."""

    def __call__(self, audience: str, method: str, target: bytes, body: bytes) -> str:
        """Return the token's text."""
        ...


class ArxAuth(Shared, httpx.Auth, _OtherAuth):
    """Authentication for ``httpx.Client``, ``httpx.AsyncClient`` and both of httpx2; made by ``Task.auth``.

    Args:
        origins: The origins of each audience that tokens may be sent to.
        sign: Makes the token of one call.

    Raises:
        AttenuationError: There is no origin to send a token to.
    """

    # The token covers the body's digest, so a streamed body is read before it is sent.
    requires_request_body = True
    requires_response_body = False

    def __init__(self, origins: Mapping[str, Sequence[str]], sign: Sign) -> None:
        self._sign = sign
        self._audiences: dict[Origin, list[str]] = {}
        for audience, texts in origins.items():
            for text in texts:
                self._audiences.setdefault(read_origin(text), []).append(audience)
        if not self._audiences:
            raise AttenuationError(f"the policy names no origin for {', '.join(origins) or 'any audience'}")

    def _put_token(self, request: Any) -> None:
        """Sign one request.

        Raises:
            AttenuationError: The request goes to no origin of the task, or to one of several audiences, or has an
                Authorization header of another scheme.  Nothing was sent.
        """
        # Refused before anything is sent: without a token the mistake would show up as a 401 of another server, and
        # with one that server could replay it at the audience's own origin.
        audience = self._audience_of(request.url)
        written = request.headers.get("Authorization")
        if written is not None and written != request.extensions.get(_MARK):
            raise AttenuationError("this request has an Authorization header already; it is not overwritten")
        # The bytes that the library will send: it lets a caller replace the target by this extension.
        target = request.extensions.get("target", request.url.raw_path)
        header = "Bearer " + self._sign(audience, request.method, target, request.content)
        # Both libraries drop this header when a redirect leaves the origin, except from http port 80 to https port 443
        # of the same host.  A token that a redirect keeps is good for the call that was signed: the service refuses it
        # for another method, path, query or body.
        request.headers["Authorization"] = header
        request.extensions = {**request.extensions, _MARK: header}

    def auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Sign one request, and once more where the service had not started when it was signed; the client calls this.

        Args:
            request: An ``httpx.Request`` or ``httpx2.Request`` whose body was read.

        Raises:
            AttenuationError: As ``_put_token``.
        """
        self._put_token(request)
        response = yield request
        # A call signed before its service started is refused unread, as the service cannot know the nonces used before.
        # Signed anew, once, no call is lost while a service restarts behind a listening socket (SPEC 8.3).
        # No other refusal is answered: not with another, wider token, nor where the call may have run.
        if _is_problem(response) and _came_before_start(response.content):
            self._put_token(request)
            yield request

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Read the body and sign; for synchronous clients."""
        # With `requires_response_body` every answer would be read whole.  Here only one that may be a refusal is, so
        # that a caller can still stream the others.
        request.read()
        flow = self.auth_flow(request)
        response = yield next(flow)
        if _is_problem(response):
            response.read()
        with suppress(StopIteration):
            yield flow.send(response)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Read the body and sign; for asynchronous clients."""
        await request.aread()
        flow = self.auth_flow(request)
        response = yield next(flow)
        if _is_problem(response):
            await response.aread()
        with suppress(StopIteration):
            yield flow.send(response)

    def _audience_of(self, url: Any) -> str:
        origin = origin_of(url.scheme, url.raw_host.decode("ascii"), url.port)
        audiences = self._audiences.get(origin)
        if audiences is None:
            known = ", ".join(sorted(map(str, self._audiences)))
            raise AttenuationError(
                f"origin {origin} belongs to no audience of this task; known: {known}", code="unknown_origin"
            )
        # Either token could reach the other service: only the caller knows which one is meant.
        if len(audiences) > 1:
            raise AttenuationError(
                f"origin {origin} serves {' and '.join(sorted(audiences))}: say which, with task.auth(audience=…)",
                code="unknown_origin",
            )
        return audiences[0]

    def __repr__(self) -> str:
        return f"<ArxAuth for {', '.join(sorted(map(str, self._audiences)))}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("an ArxAuth signs with a live token and is not pickled")


def _is_problem(response: Any) -> bool:
    """Return whether an answer may be a refusal, which is read here before a streaming caller gets it."""
    if response is None or response.status_code != _UNAUTHORIZED:
        return False
    # An answer without a length, or a long one, is left to the caller: it could stream without an end.
    length = response.headers.get("content-length", "")
    kind = response.headers.get("content-type", "").partition(";")[0]
    return kind == "application/problem+json" and length.isdecimal() and int(length) <= _MAX_PROBLEM_BYTES


def _came_before_start(body: bytes) -> bool:
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, ValueError):
        return False
    return problem.code == "proof_invalid" and [(each.place, each.rule) for each in problem.failures] == [_START]
