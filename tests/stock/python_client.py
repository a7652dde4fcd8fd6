# SPDX-License-Identifier: Apache-2.0
"""A stock client of a Python SDK, in the SDK's own environment: ``python python_client.py mcp2|mcp1|fastmcp URL PORT``;
``mcp2-stateless`` is MCP 2026-07-28 in the place of 2025-11-25.

It reads a line of JSON for each call, ``[tool, arguments]`` or ``null`` for the list of tools, and writes one with the
answer.  The browser is the program that the environment names as ``BROWSER``.
"""

import asyncio
import contextlib
import json
import sys
import webbrowser
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

KIND, URL, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])


class Memory:
    """What the SDK keeps, in memory."""

    tokens: Any = None
    client: Any = None

    async def get_tokens(self) -> Any:
        return self.tokens

    async def set_tokens(self, tokens: Any) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> Any:
        return self.client

    async def set_client_info(self, client_info: Any) -> None:
        self.client = client_info


class Callback:
    """Where the browser brings the answer to, as the SDK's own example has it."""

    def __init__(self) -> None:
        self._answers: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def listen(self) -> None:
        await asyncio.start_server(self._read, "127.0.0.1", PORT)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = urlsplit((await reader.readuntil(b"\r\n\r\n")).split()[1].decode()).query
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        self._answers.put_nowait({name: values[0] for name, values in parse_qs(query).items()})

    async def redirect(self, url: str) -> None:
        webbrowser.open(url)

    async def answer(self) -> Any:
        found = await self._answers.get()
        if "code" not in found:
            raise PermissionError(found.get("error"))
        if KIND == "mcp1":
            return found["code"], found["state"]
        from mcp.shared.auth import AuthorizationCodeResult

        return AuthorizationCodeResult(code=found["code"], state=found["state"], iss=found.get("iss"))


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[Any]:
    """Give a session of the client's own kind."""
    if KIND == "fastmcp":
        from fastmcp import Client

        async with Client(URL, auth="oauth") as client:
            yield client
        return
    from mcp.client.auth import OAuthClientProvider
    from mcp.client.session import ClientSession
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared.auth import OAuthClientMetadata

    callback = Callback()
    await callback.listen()
    about = {"redirect_uris": [f"http://127.0.0.1:{PORT}/callback"], "client_name": KIND}
    about |= {"token_endpoint_auth_method": "none", "grant_types": ["authorization_code", "refresh_token"]}
    metadata = OAuthClientMetadata.model_validate(about)
    provider = OAuthClientProvider(URL, metadata, Memory(), callback.redirect, callback.answer)
    if KIND == "mcp1":
        import httpx as http
    else:
        import httpx2 as http
    if KIND == "mcp2-stateless":
        from mcp import Client as Stateless

        async with (
            http.AsyncClient(auth=provider, timeout=60) as client,
            Stateless(streamable_http_client(URL, http_client=client), mode="2026-07-28") as session,
        ):
            yield session
        return
    async with (
        http.AsyncClient(auth=provider, timeout=60) as client,
        streamable_http_client(URL, http_client=client) as streams,
        ClientSession(streams[0], streams[1]) as session,
    ):
        await session.initialize()
        yield session


def shown(found: Any) -> dict[str, Any]:
    """Return the answer to a call: its text, and whether it is an error."""
    wrong = getattr(found, "is_error", None) or getattr(found, "isError", None)
    return {"error": bool(wrong), "text": " ".join(part.text for part in found.content)}


async def answered(client: Any, asked: Any) -> dict[str, Any]:
    """Answer a line."""
    if asked is None:
        found = await client.list_tools()
        return {"tools": [tool.name for tool in getattr(found, "tools", found)]}
    more = {"raise_on_error": False} if KIND == "fastmcp" else {}
    return shown(await client.call_tool(*asked, **more))


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def causes(error: BaseException) -> str:
    """Return all errors of a group, as text."""
    inner = getattr(error, "exceptions", None)
    return "; ".join(map(causes, inner)) if inner else f"{type(error).__name__}: {error}"


async def main() -> None:
    """Answer lines until the end of the input or an error of the login, which ends the session."""
    try:
        async with connected() as client:
            say({"ready": True})
            while line := await asyncio.to_thread(sys.stdin.readline):
                try:
                    say(await asyncio.wait_for(answered(client, json.loads(line)), 90))
                except Exception as error:
                    say({"refused": causes(error)})
    except BaseException as error:
        say({"refused": causes(error)})


asyncio.run(main())
