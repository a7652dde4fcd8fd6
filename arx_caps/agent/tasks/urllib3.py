# SPDX-License-Identifier: Apache-2.0
"""Sign each request of urllib3, and each attempt anew.  SPEC 8."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import urllib3
from urllib3.util import parse_url

from arx_caps.agent.tasks.origins import origin_of
from arx_caps.agent.tasks.request_signer import (
    ClientSigner,
    RequestSigner,
    SignedHeader,
    came_before_start,
    is_short_problem,
    read_body,
)


class _AttemptHeader(SignedHeader):
    """The header of an attempt, with what makes that of the next one; before the first it is empty."""

    sign: Callable[[], SignedHeader]

    @classmethod
    def of(cls, text: str, sign: Callable[[], SignedHeader]) -> "_AttemptHeader":
        header = cls(text)
        header.sign = sign
        return header


class _Attempts:
    """Signs each attempt: urllib3 calls ``urlopen`` of a pool for the first one and for each that follows."""

    def urlopen(
        self, method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None, *rest: Any, **more: Any
    ) -> urllib3.BaseHTTPResponse:
        written = (headers or {}).get("Authorization")
        if isinstance(written, _AttemptHeader):
            headers = {**(headers or {}), "Authorization": written.of(written.sign(), written.sign)}
        sent: urllib3.BaseHTTPResponse = super().urlopen(method, url, body, headers, *rest, **more)  # type: ignore[misc]
        return sent


class _HttpPool(_Attempts, urllib3.HTTPConnectionPool):
    """Connections to an origin over plain HTTP."""


class _HttpsPool(_Attempts, urllib3.HTTPSConnectionPool):
    """Connections to an origin over TLS."""


class SigningPoolManager(ClientSigner, urllib3.PoolManager):
    """A pool manager that signs; made by ``Task.urllib3_pool``.

    It follows no redirect: the answer is the caller's, with its ``Location``.

    Args:
        signer: Signs the requests.
        settings: What ``urllib3.PoolManager`` takes.
    """

    def __init__(self, signer: RequestSigner, **settings: Any) -> None:
        super().__init__(signer, **settings)
        self.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def urlopen(  # type: ignore[override]
        self,
        method: str,
        url: str,
        redirect: bool = False,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        preload_content: bool = True,
        **more: Any,
    ) -> urllib3.BaseHTTPResponse:
        """Read the body, sign a request and send it; ``request`` calls this.

        Args:
            method: The method.
            url: The URL.
            redirect: Without effect.
            body: The body.
            headers: Further headers.
            preload_content: As in ``urllib3.PoolManager``.
            more: Likewise.

        Raises:
            AttenuationError: It goes to no origin of the task, or to one of several audiences, or has an Authorization
                header already.  Nothing was sent.
        """
        headers = dict(self.headers if headers is None else headers)
        written = next((value for name, value in headers.items() if name.lower() == "authorization"), None)
        content = None if body is None else read_body(body)
        parsed = parse_url(url)
        origin = origin_of(parsed.scheme or "", (parsed.host or "").strip("[]"), parsed.port)
        target = parsed.request_uri.encode("ascii")

        def sign() -> SignedHeader:
            return self._signer.header(origin, method, target, content or b"", written=written)

        def send() -> urllib3.BaseHTTPResponse:
            signed = {**headers, "Authorization": _AttemptHeader.of("", sign)}
            return super(SigningPoolManager, self).urlopen(
                method, url, redirect=False, body=content, headers=signed, preload_content=preload_content, **more
            )

        response = send()
        if is_short_problem(response.status, response.headers):
            if came_before_start(response.data):
                return send()
            if not preload_content:
                return _unread(response)
        return response


def _unread(response: urllib3.BaseHTTPResponse) -> urllib3.HTTPResponse:
    """Return a short answer that was read, for a caller that reads it from the connection."""
    return urllib3.HTTPResponse(
        io.BytesIO(response.data),
        headers={name: value for name, value in response.headers.items() if name.lower() != "content-encoding"},
        status=response.status,
        version=response.version,
        reason=response.reason,
        preload_content=False,
    )
