# SPDX-License-Identifier: Apache-2.0
"""The client's end of the bridge: its messages are lines of stdin, and those for it are lines of stdout."""

import asyncio
import contextlib
import os
import select
import signal
import threading
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from typing import Final

from arx_caps.connect.bridge import Bridge
from arx_caps.connect.server_access import ServerAccess
from arx_caps.mcp.wire import MAX_MESSAGE_BYTES

_CHUNK: Final = 64 * 1024
_STDIN, _STDOUT = 0, 1


def serve_stdio(server: ServerAccess) -> None:
    """Bridge the client that started this process, until it closes stdin or a signal ends the process.

    Args:
        server: The server.
    """
    asyncio.run(_serve(server))


async def _serve(server: ServerAccess) -> None:
    loop = asyncio.get_running_loop()
    lost: asyncio.Future[None] = loop.create_future()

    async def write(message: bytes) -> None:
        # In a thread: a client that does not read must not keep the bridge from reading.
        try:
            await asyncio.to_thread(_write_line, message + b"\n")
        except OSError as error:
            # The client would wait without end for what it did not get: it has to see that the bridge is gone.
            if not lost.done():
                lost.set_exception(OSError(error.errno, error.strerror, "stdout"))

    bridge = asyncio.create_task(Bridge(server, write).run(_lines()))
    for each in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: its loop has no signals, and Ctrl-C cancels the task
            loop.add_signal_handler(each, bridge.cancel)
    await asyncio.wait([bridge, lost], return_when=asyncio.FIRST_COMPLETED)
    if lost.done():
        bridge.cancel()
        await asyncio.wait([bridge])
        lost.result()
    if not bridge.cancelled():
        bridge.result()


_writing = threading.Lock()


def _write_line(line: bytes) -> None:
    rest = memoryview(line)
    # The lock is held by the thread, which a cancelled request does not stop half-way.  A client that has gone closes
    # stdin as well, which ends the bridge.
    with _writing, contextlib.suppress(BrokenPipeError):
        while rest:
            try:
                rest = rest[os.write(_STDOUT, rest) :]
            except BlockingIOError:  # some clients make their end non-blocking, which can be this one as well
                select.select([], [_STDOUT], [])


async def _lines() -> AsyncIterator[bytes]:
    """Yield the lines of stdin; one that is too long has no JSON any more."""
    chunks: asyncio.Queue[bytes] = asyncio.Queue(16)
    threading.Thread(target=_read, args=(asyncio.get_running_loop(), chunks), name="stdin", daemon=True).start()
    begun: list[bytes] = []
    size = 0
    while chunk := await chunks.get():
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            yield b"".join([*begun, line])
            begun, size = [], 0
        size += len(rest)
        begun = [*begun, rest] if size <= MAX_MESSAGE_BYTES else [b"too long"]
    if begun:
        yield b"".join(begun)


def _read(loop: asyncio.AbstractEventLoop, chunks: "asyncio.Queue[bytes]") -> None:
    # A thread reads pipes, terminals and files alike.  It uses no buffer of Python's, whose lock would be held at exit.
    chunk = b"-"
    while chunk:
        chunk = os.read(_STDIN, _CHUNK)
        try:
            asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()
        except (RuntimeError, CancelledError):
            return  # the loop has ended
