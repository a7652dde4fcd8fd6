# SPDX-License-Identifier: Apache-2.0
"""Sign each request of aiohttp, as a client middleware.  SPEC 8.

A middleware that repeats requests belongs outside of it, ``middlewares=[retry, task.aiohttp_auth()]``: each attempt is
then signed anew.
"""

from typing import Final

from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, hdrs

from arx_caps.agent.tasks.origins import origin_of
from arx_caps.agent.tasks.request_signer import ClientSigner, came_before_start, is_short_problem
from arx_verifier.errors import AttenuationError

_REDIRECTS: Final = (301, 302, 303, 307, 308)


class AiohttpAuth(ClientSigner):
    """Client middleware for aiohttp; made by ``Task.aiohttp_auth``.

    Args:
        signer: Signs the requests.
    """

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Read the body, sign a request and send it; aiohttp calls this.

        Args:
            request: The request.
            handler: Sends it.

        Raises:
            AttenuationError: It goes to no origin of the task, or to one of several audiences, has an Authorization
                header already, or is compressed; nothing was sent.  Or the service answered with a redirect.
        """
        # aiohttp compresses while it sends, and the token covers the bytes that are sent.
        if request.compress:
            raise AttenuationError("aiohttp would compress this request after it is signed: compress its body yourself")
        body = await request.body.as_bytes() if request.body else b""
        if request.body:
            # The very bytes that are signed are sent, also where the body can be read once.
            await request.update_body(body)
        response = await self._send(request, handler, body)
        if is_short_problem(response.status, response.headers) and came_before_start(await response.read()):
            response = await self._send(request, handler, body)
        # The next request of a redirect would come through here as any other, and be signed: one service could make
        # the agent call another one.
        if response.status in _REDIRECTS:
            response.release()
            raise AttenuationError(
                f"{request.method} {request.url.path} was answered with a redirect ({response.status}), "
                "which a signed call does not follow: call the address that serves it"
            )
        return response

    async def _send(self, request: ClientRequest, handler: ClientHandlerType, body: bytes) -> ClientResponse:
        url = request.url
        request.headers[hdrs.AUTHORIZATION] = self._signer.header(
            origin_of(url.scheme, url.raw_host or "", url.port),
            request.method,
            url.raw_path_qs.encode("ascii"),
            body,
            written=request.headers.get(hdrs.AUTHORIZATION),
        )
        try:
            return await handler(request)
        finally:
            # Errors of aiohttp show all headers of their request.
            del request.headers[hdrs.AUTHORIZATION]
