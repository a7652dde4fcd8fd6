# SPDX-License-Identifier: Apache-2.0
"""A bad network between two programs: slow, one-way, silent, closed, or cut in the middle of an answer, as a test says.

What is held back is not lost: like a real link's it arrives late, when the link heals.  A verifier must not believe it.
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any


class Way:
    """One direction of every connection.

    Attributes:
        delay_s: How long each piece travels.
        cuts: So many pieces are lost, each with its connection, when half of them has arrived.
    """

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.cuts = 0
        self._open = asyncio.Event()
        self._open.set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection's bytes, and its end, until that has arrived."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        clock = asyncio.get_running_loop().time
        arrival = asyncio.create_task(self._deliver(pieces, writer))
        data = b"-"
        with contextlib.suppress(ConnectionError):
            while data:
                data = await reader.read(65536)
                pieces.put_nowait((clock() + self.delay_s, data))
        await arrival

    async def _deliver(self, pieces: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                at, data = await pieces.get()
                await asyncio.sleep(at - asyncio.get_running_loop().time())
                await self._open.wait()
                if not data:
                    break
                if self.cuts:
                    self.cuts -= 1
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    break
                writer.write(data)
                await writer.drain()
        writer.close()


class Proxy:
    """A TCP listener in front of a server.  Its methods are for the test's thread.

    Args:
        upstream: The server's unix socket, or its port here; a test may point it elsewhere for later connections.

    Attributes:
        port: Where it listens.
        url: The address for a verifier, where the server is a store.
    """

    def __init__(self, upstream: Path | int) -> None:
        self.upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refuses = False
        self.to_store, self.from_store = self._call(self._ways())
        self._server = self._call(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"

    async def _ways(self) -> tuple[Way, Way]:
        return Way(), Way()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._connect(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.close()
            return
        try:
            far_reader, far_writer = await _open(self.upstream)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, far_writer}
        await asyncio.gather(self.to_store.carry(reader, far_writer), self.from_store.carry(far_reader, writer))
        self._writers -= {writer, far_writer}

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def hold(self, *ways: Way) -> None:
        """Let nothing through in these directions; connections stay open, new ones are accepted."""
        self._call(self._set(ways, False))

    def heal(self) -> None:
        """Let everything through at once, beginning with what was held back."""
        self._refuses = False
        self._call(self._set((self.to_store, self.from_store), True))

    async def _set(self, ways: tuple[Way, ...], is_open: bool) -> None:
        for way in ways:
            if is_open:
                way.delay_s = 0.0
                way._open.set()
            else:
                way._open.clear()

    def cut(self) -> None:
        """Close every connection and accept none."""
        self._refuses = True
        self.drop()

    def lose(self, answers: int) -> None:
        """Lose the next answers: each is cut off in its middle, with its connection."""
        self.from_store.cuts = answers

    def drop(self) -> None:
        """Close every connection."""
        self._call(self._drop())

    async def _drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def close(self) -> None:
        """End it."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        await self._drop()
        own = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not own]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _open(upstream: Path | int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(upstream, Path):
        return await asyncio.open_unix_connection(upstream)
    return await asyncio.open_connection("127.0.0.1", upstream)
