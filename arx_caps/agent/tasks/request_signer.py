# SPDX-License-Identifier: Apache-2.0
"""Sign HTTP requests for the origins of a task's audiences, and no others.  What all HTTP clients share.  SPEC 8.

Each request gets its own one-shot token over method, raw path and query and the body's SHA-256; the task's token never
travels.  ``ArxAuth`` and the adapters of HTTP clients call this.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from arx_caps.agent.tasks.copies import Shared
from arx_caps.agent.tasks.origins import Origin, read_origin
from arx_verifier.errors import AttenuationError, RequestError, shorten

_UNAUTHORIZED: Final = 401
_MAX_PROBLEM_BYTES: Final = 16 * 1024
BEFORE_START: Final = ("call", "start")  # the failure of a call that was signed before its service started, SPEC 8.3


class Sign(Protocol):
    """What makes the one-shot token of one HTTP call."""

    def __call__(self, audience: str, method: str, target: bytes, body: bytes) -> str:
        """Return the token's text."""


class SignedHeader(str):
    """The Authorization header of one call.  Its ``repr`` shows no token, and so none of what holds it does."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'Bearer …'"


class RequestSigner(Shared):
    """Signs the requests of one HTTP client; made by ``Task.request_signer``.

    Args:
        origins: The origins of each audience that tokens may be sent to.
        sign: Makes the token of one call.

    Raises:
        AttenuationError: There is no origin to send a token to.
    """

    __slots__ = ("_audiences", "_sign")

    def __init__(self, origins: Mapping[str, Sequence[str]], sign: Sign) -> None:
        self._sign = sign
        self._audiences: dict[Origin, list[str]] = {}
        for audience, texts in origins.items():
            for text in texts:
                self._audiences.setdefault(read_origin(text), []).append(audience)
        if not self._audiences:
            raise AttenuationError(f"the policy names no origin for {', '.join(origins) or 'any audience'}")

    def audience_of(self, origin: Origin) -> str:
        """Return the audience that a request to an origin is for.

        Args:
            origin: Where the client would send it.

        Raises:
            AttenuationError: It is no origin of the task, or that of several audiences.
        """
        # Refused before anything is sent: without a token the mistake would show up as a 401 of another server, and
        # with one that server could replay it at the audience's own origin.
        audiences = self._audiences.get(origin)
        if audiences is None:
            raise AttenuationError(
                f"origin {origin} belongs to no audience of this task; known: {self}", code="unknown_origin"
            )
        # Either token could reach the other service: only the caller knows which one is meant.
        if len(audiences) > 1:
            raise AttenuationError(
                f"origin {origin} serves {' and '.join(sorted(audiences))}: say which, with task.auth(audience=…)",
                code="unknown_origin",
            )
        return audiences[0]

    def header(
        self,
        origin: Origin | str,
        method: str,
        target: bytes | str,
        body: bytes = b"",
        *,
        written: str | bytes | None = None,
    ) -> SignedHeader:
        """Sign one request.

        Args:
            origin: Where the client sends it, such as ``http://127.0.0.1:9001``.
            method: The method as it goes on the wire.
            target: Raw path and query as they go on the wire, which are ASCII.
            body: The body as it goes on the wire.
            written: The Authorization header that the request has already.

        Returns:
            The Authorization header to send.

        Raises:
            AttenuationError: As ``audience_of``, or the request has an Authorization header that was not made here.
            MalformedTokenError: The text is no origin.
            RequestError: The target is not ASCII.
        """
        audience = self.audience_of(read_origin(origin) if isinstance(origin, str) else origin)
        if isinstance(target, str):
            if not target.isascii():  # a client sends it percent-encoded, in a form that is not for this to guess
                raise RequestError(f"target: expected percent-encoded ASCII, got {shorten(target)}")
            target = target.encode()
        # The application means another identity: a guess could send the wider of the two.
        if written is not None and not isinstance(written, SignedHeader):
            raise AttenuationError("this request has an Authorization header already; it is not overwritten")
        return SignedHeader("Bearer " + self._sign(audience, method, target, body))

    def __str__(self) -> str:
        return ", ".join(sorted(map(str, self._audiences)))

    def __repr__(self) -> str:
        return f"<RequestSigner for {self}>"


class ClientSigner(Shared):
    """What signs the requests of a client of one library.

    Args:
        signer: Signs the requests.
        settings: The arguments of the library's own class.
    """

    def __init__(self, signer: RequestSigner, **settings: Any) -> None:
        super().__init__(**settings)
        self._signer = signer

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for {self._signer}>"


def read_body(body: Any) -> bytes:
    """Return the bytes that requests and urllib3 send for a body; a streamed one is read to its end.

    Args:
        body: None, bytes, a text, a file, or an iterable of bytes or texts.
    """
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    if hasattr(body, "read"):
        return read_body(body.read())
    return b"".join(map(read_body, body))


def is_short_problem(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether an answer may be the refusal of an early call, so that it is read before the caller gets it.

    Args:
        status: Its status.
        headers: Its headers; names in lower case are found.
    """
    if status != _UNAUTHORIZED:
        return False
    # An answer without a length, or a long one, is left to the caller: it could stream without an end.
    length = headers.get("content-length", "")
    kind = headers.get("content-type", "").partition(";")[0]
    return kind == "application/problem+json" and length.isdecimal() and int(length) <= _MAX_PROBLEM_BYTES


class _Failure(msgspec.Struct):
    place: str
    rule: str


class _Problem(msgspec.Struct):
    """What is looked at of a service's refusal."""

    code: str
    failures: list[_Failure] = []


def came_before_start(body: bytes) -> bool:
    """Return whether a refusal says that the call was signed before its service started.

    Such a call was not run: the service cannot know the nonces used before.  Signed anew, once, no call is lost while a
    service restarts behind a listening socket (SPEC 8.3).  No other refusal is answered: not with another, wider token,
    nor where the call may have run.

    Args:
        body: The problem of the refusal.
    """
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, ValueError):
        return False
    return problem.code == "proof_invalid" and [(each.place, each.rule) for each in problem.failures] == [BEFORE_START]
