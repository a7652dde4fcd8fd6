# SPDX-License-Identifier: Apache-2.0
"""The bridge of one client over stdio: its messages in their order, its requests beside each other.

``server_access`` checks each call and signs it.  What gets no answer arrives at the server before what the client sent
later; a request waits for no other one.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import httpx

from arx_caps.connect.http_session import HttpSession, NoMessageError, Write
from arx_caps.connect.server_access import ServerAccess
from arx_caps.mcp.errors import INTERNAL_ERROR, PARSE_ERROR, WireError, error_answer
from arx_caps.mcp.message import RpcMessage, is_json, read_message, read_object
from arx_verifier.errors import ArxError, RequestError

_END_S: Final = 1.0  # for requests that run when the client has sent its last message


class Bridge:
    """The bridge of one client.

    Args:
        server: The server.
        write: Sends one message to the client, a line without its end.
    """

    def __init__(self, server: ServerAccess, write: Write) -> None:
        self._server, self._write = server, write
        self._session = HttpSession(server, write)
        self._running: dict[int | str, tuple[RpcMessage, asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._before: asyncio.Task[None] | None = None  # the last one that later messages wait for

    async def run(self, lines: AsyncIterator[bytes]) -> None:
        """Serve the client until it has sent its last message.

        Args:
            lines: Its messages.
        """
        try:
            async for line in lines:
                if line.strip():
                    await self._take(line.strip())
            # A subscription has no end of its own.
            left = [task for task in self._tasks if task.get_name() != "subscriptions/listen"]
            if left:
                await asyncio.wait(left, timeout=_END_S)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._session.end()
            await self._server.close()

    async def _take(self, line: bytes) -> None:
        try:
            message = read_message(line)
        except WireError as error:
            code = error.code if is_json(line) else PARSE_ERROR
            await self._write(error_answer(_request_of(line), code, str(error)))
            return
        if message.method == "notifications/cancelled" and not self._cancel(message):
            return
        task = asyncio.create_task(self._handle(message, self._before), name=message.method or None)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # The answer to `initialize` names the session of all that follows.
        if not message.is_request or message.method == "initialize":
            self._before = task
        if message.is_request:
            assert message.id is not None
            if message.id in self._running:
                self._running[message.id][1].cancel()  # or two answers would have one id
            self._running[message.id] = message, task

    def _cancel(self, message: RpcMessage) -> bool:
        """End the request that a client cancels; return whether the server gets this message as well."""
        wanted = message.params.get("requestId")
        request, task = self._running.get(wanted if isinstance(wanted, int | str) else "", (message, None))
        if task is not None and request.method != "initialize":
            task.cancel()
        # From MCP 2026-07-28 on, the end of the HTTP request is the cancellation.
        return request.version is None

    async def _handle(self, message: RpcMessage, before: asyncio.Task[None] | None) -> None:
        try:
            if before is not None:
                await asyncio.wait([before])
            if message.is_request:
                await self._request(message)
            else:
                await self._session.notify(message)
        finally:
            if message.id is not None and self._running.get(message.id, (None,))[0] is message:
                del self._running[message.id]

    async def _request(self, request: RpcMessage) -> None:
        try:
            answer = self._server.refusal(request)
            if answer is None:
                async with contextlib.aclosing(self._session.messages(request)) as messages:
                    async for message in messages:
                        await self._write(message)
                return
        except NoMessageError as error:
            answer = error.answer
        except (ArxError, httpx.HTTPError) as error:
            answer = self._server.lost(request, error)
        except Exception as error:  # a defect: its text could have a token, and the client must not wait forever
            answer = error_answer(request.id, INTERNAL_ERROR, f"internal error: {type(error).__name__}")
        await self._write(answer)


def _request_of(line: bytes) -> str | int | None:
    """Return the id of a request that is not sent on, so that its client does not wait for an answer."""
    try:
        message = read_object(line)
    except RequestError:
        return None
    identity = message.get("id") if "method" in message else None
    return identity if type(identity) in (str, int) else None
