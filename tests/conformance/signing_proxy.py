# SPDX-License-Identifier: Apache-2.0
"""A proxy that signs each request with a task, for the suite and the inspector, which can only call a URL."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Final

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from arx_caps.agent import Task

_SENT: Final = ("accept", "content-type", "last-event-id", "origin")
_RETURNED: Final = ("content-type", "mcp-session-id", "mcp-protocol-version", "allow")


def signing_proxy(task: Task, urls: Mapping[str, str]) -> Starlette:
    """Return an application that passes requests on, each with a token of its own.

    Args:
        task: The task.
        urls: The server of each audience; the audience is the path.
    """
    client = httpx.AsyncClient(timeout=None, trust_env=False)

    async def forward(request: Request) -> StreamingResponse:
        audience = request.path_params["audience"]
        url, own = httpx.URL(urls[audience]), "http://{}:{}".format(*request.scope["server"])
        theirs = f"{url.scheme}://{url.netloc.decode()}"
        # As pairs: a header that was sent twice arrives twice.  White space around a value is no part of it (RFC 9110).
        headers = [
            (name, theirs if (name, value) == ("origin", own) else value.strip(" \t"))
            for name, value in request.headers.items()
            if name in _SENT or name.startswith("mcp-")
        ]
        asked = client.build_request(request.method, url, headers=headers, content=await request.body())
        answer = await client.send(asked, auth=task.auth(audience), stream=True)
        returned = {name: answer.headers[name] for name in _RETURNED if name in answer.headers}
        return StreamingResponse(_parts(answer), answer.status_code, returned)

    return Starlette(routes=[Route("/{audience}", forward, methods=["POST", "GET", "DELETE"])])


async def _parts(answer: httpx.Response) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(answer):
        async for part in answer.aiter_bytes():
            yield part
