# SPDX-License-Identifier: Apache-2.0
"""The answer of a process over stdio, with the members of an HTTP answer: a queue of messages that its client reads."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from arx_caps.mcp.errors import error_object, status_of
from arx_caps.mcp.message import written

STREAM: Final = "text/event-stream"
_WAITING_BYTES: Final = 256 * 1024  # of messages that a client has not read; more stay in the server's pipe


class StdioAnswer:
    """An answer of a process, with the members of an HTTP answer that the gateway reads.

    Args:
        status: Its status.
        session: The id of the session that it begins, or None.
        content_type: JSON for one message, a stream for several.
        is_stateless: Whether an error has a status of its own, as from MCP 2026-07-28 on.

    Attributes:
        status: Its status.
        session: The id of the session that it begins, or None.
        content_type: JSON for one message, a stream for several.
    """

    def __init__(
        self,
        status: int,
        session: str | None = None,
        content_type: str = "application/json",
        is_stateless: bool = False,
    ) -> None:
        self.status: int = status
        self.content_type: str = content_type
        self.session, self._is_stateless = session, is_stateless
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._first: list[bytes | None] = []
        self._waiting, self._has_begun, self._is_open, self._room = 0, False, True, asyncio.Event()

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Its headers."""
        session = ((b"mcp-session-id", self.session.encode()),) if self.session is not None else ()
        return ((b"content-type", self.content_type.encode()), *session)

    @property
    def content(self) -> "StdioAnswer":
        """What has ``iter_any``."""
        return self

    def put(self, *messages: dict[str, Any] | None) -> None:
        """Add messages; None is the end.  A first one that answers nothing makes it a stream."""
        for message in messages:
            if not self._has_begun and message and "method" in message:
                self.content_type = STREAM
            elif not self._has_begun and message and self._is_stateless and isinstance(message.get("error"), dict):
                self.status = status_of(message["error"].get("code"))
            self._has_begun = True
            text = None if message is None else written(message)
            self._waiting += len(text or b"")
            self._messages.put_nowait(text)

    async def put_slowly(self, message: dict[str, Any]) -> None:
        """Add a message once the client has read enough of those before, or reads no more."""
        while self._is_open and self._waiting > _WAITING_BYTES:
            self._room.clear()
            await self._room.wait()
        if self._is_open:
            self.put(message)

    def close(self) -> None:
        """Take no more messages of a stream: nothing waits for its client any longer."""
        self._is_open = False
        self._room.set()

    async def begin(self) -> None:
        """Wait for the first message: if it is the answer, it is the only one."""
        self._first.append(await self._messages.get())

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yield the body in parts."""
        while (text := self._first.pop() if self._first else await self._messages.get()) is not None:
            self._waiting -= len(text)
            self._room.set()
            yield b"event: message\ndata: " + text + b"\n\n" if self.content_type == STREAM else text


def error_answer(status: int, message: dict[str, Any], code: int, text: str) -> StdioAnswer:
    """Return the answer to a message that no process gets.

    Args:
        status: Its status.
        message: The message.
        code: The JSON-RPC code.
        text: What failed.
    """
    answer = StdioAnswer(status)
    answer.put(error_object(message.get("id"), code, text), None)
    return answer


def empty_answer(status: int) -> StdioAnswer:
    """Return an answer without a message.

    Args:
        status: Its status.
    """
    answer = StdioAnswer(status)
    answer.put(None)
    return answer
