# SPDX-License-Identifier: Apache-2.0
"""Sign every request of a client of httpx or httpx2, sync or async.  SPEC 8."""

from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from typing import Any, Final

import httpx

from arx_caps.agent.tasks.origins import origin_of
from arx_caps.agent.tasks.request_signer import ClientSigner, came_before_start, is_short_problem

try:
    from httpx2 import Auth as OtherAuth
except ImportError:

    class OtherAuth:  # type: ignore[no-redef]  # one of the two is there
        """Stands for the base class of httpx2, which is not installed."""


__all__ = ["ArxAuth", "OtherAuth"]

_MARK: Final = "arx.authorization"  # request extension: the header that was written here, and may be replaced


class ArxAuth(ClientSigner, httpx.Auth, OtherAuth):
    """Authentication for ``httpx.Client``, ``httpx.AsyncClient`` and both of httpx2; made by ``Task.auth``.

    Args:
        signer: Signs the requests.
    """

    # The token covers the body's digest, so a streamed body is read before it is sent.
    requires_request_body = True
    requires_response_body = False

    def _put_token(self, request: Any) -> None:
        """Sign one request.

        Raises:
            AttenuationError: The request goes to no origin of the task, or to one of several audiences, or has an
                Authorization header of another scheme.  Nothing was sent.
        """
        url, written = request.url, request.headers.get("Authorization")
        # Headers of httpx are bytes: what was made here is known by the extension.
        if written == (made := request.extensions.get(_MARK)):
            written = made
        # The bytes that the library will send: it lets a caller replace the target by this extension.
        target = request.extensions.get("target", url.raw_path)
        origin = origin_of(url.scheme, url.raw_host.decode("ascii"), url.port)
        header = self._signer.header(origin, request.method, target, request.content, written=written)
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
        if _is_problem(response) and came_before_start(response.content):
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


def _is_problem(response: Any) -> bool:
    return response is not None and is_short_problem(response.status_code, response.headers)
