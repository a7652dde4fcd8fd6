# SPDX-License-Identifier: Apache-2.0
"""Streams of server-sent events: one producer for all viewers of a page, and bounded queues.

A viewer that reads too slowly loses its oldest events, and the page says how many.
"""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from arx_verifier.errors import ArxError, GrantError

HEARTBEAT_S: Final = 15.0  # a comment, so that proxies keep the connection and a dead one is noticed
QUEUE: Final = 64  # events that wait for one viewer
MOST: Final = 64  # streams of one operator
# Streams of one browser. With HTTP/1.1 a browser has six connections to a host, and a stream holds one of them: the
# others must be free for the pages that act.
MOST_OF_BROWSER: Final = 3
CHECK_S: Final = 5.0  # how often a stream checks that its viewer may still see it
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class StreamEvent(NamedTuple):
    """One event of a stream.

    Attributes:
        html: What the page swaps in.
        id: Its id, by which a browser that reconnects says what it has; empty for none.
        event: Its name; a named event is not swapped in.
    """

    html: str
    id: str = ""
    event: str = ""

    def encode(self) -> str:
        """Return the event as its stream has it (HTML Standard 9.2.6)."""
        lines = [f"event: {self.event}"] if self.event else []
        lines += [f"id: {self.id}"] if self.id else []
        # A carriage return alone would end a line, too.
        lines += [f"data: {line}" for line in self.html.replace("\r", "").split("\n")]
        return "\n".join(lines) + "\n\n"


class Subscription:
    """What one viewer has not read yet.

    Attributes:
        missed: The number of events that were dropped, since the viewer last read.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue(QUEUE)
        self.missed = 0

    def put(self, item: Any) -> None:
        """Add an item, and drop the oldest if there are too many."""
        if self._queue.full():
            self._queue.get_nowait()
            self.missed += 1
        self._queue.put_nowait(item)

    async def get(self, timeout_s: float) -> Any:
        """Return the next item, or None if there is none in time."""
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self._queue.get(), timeout_s)
        return None


class Broadcast:
    """Produces values in one task while it has viewers, and gives each to all of them.

    Args:
        produce: Returns the next values; it runs in a thread.
        every_s: How often it is called.
        stopping: Set when the server stops.
    """

    def __init__(self, produce: Callable[[], list[Any]], every_s: float, stopping: asyncio.Event) -> None:
        self._produce, self._every_s, self._stopping = produce, every_s, stopping
        self._viewers: set[Subscription] = set()
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Watch: yields a ``Subscription`` that gets every value from now on."""
        viewer = Subscription()
        self._viewers.add(viewer)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)

    async def _run(self) -> None:
        while self._viewers and not self._stopping.is_set():
            # While the database does not answer there is nothing new; the stream goes on when it does again.
            with contextlib.suppress(ArxError):
                for value in await run_in_threadpool(self._produce):
                    for viewer in tuple(self._viewers):
                        viewer.put(value)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._every_s)


class Live:
    """The streams of one console."""

    def __init__(self) -> None:
        self._stopping: asyncio.Event | None = None
        # Each stream holds its broadcast, from its request on: one that no stream holds any more is dropped.
        self._broadcasts: WeakValueDictionary[str, Broadcast] = WeakValueDictionary()
        self._lock = threading.Lock()
        self._open = Counter[str]()
        self._of_browser: dict[str, list[asyncio.Event]] = {}  # of each browser, the oldest stream first

    def stop(self) -> None:
        """End every stream; called in the server's loop when it begins to stop."""
        self.stopping.set()

    @property
    def stopping(self) -> asyncio.Event:
        """Set when the server stops."""
        if self._stopping is None:
            self._stopping = asyncio.Event()
        return self._stopping

    def broadcast(self, name: str, produce: Callable[[], list[Any]], every_s: float) -> Broadcast:
        """Return the broadcast of this name; the first call makes it, in any thread."""
        # Two of one name would share what ``produce`` reads, and each viewer would miss some of it.
        with self._lock:
            found = self._broadcasts.get(name)
            if found is None:
                found = self._broadcasts[name] = Broadcast(produce, every_s, self.stopping)
            return found

    def answer(
        self,
        viewer: str,
        broadcast: Broadcast,
        show: Callable[[Any, int], StreamEvent | None],
        allowed: Callable[[], bool],
        first: Callable[[], Iterable[StreamEvent]] = tuple,
        *,
        browser: str,
    ) -> StreamingResponse:
        """Return the answer that streams a broadcast to one viewer.

        A browser's oldest stream ends with the event ``paused`` when it opens one more than ``MOST_OF_BROWSER``.

        Args:
            viewer: Who watches, for the bound of their streams.
            broadcast: The values.
            show: Returns the event for a value, or None to leave it out; it also gets the number of missed values.
            allowed: Whether the viewer may still see it; it runs in a thread every few seconds.
            first: Returns the events to send at once; called when no later value can be missed.
            browser: The sign-in of the viewer's browser.

        Raises:
            GrantError: ``rate_limited``: this viewer has too many streams.
        """
        # Each stream holds a queue and asks the database every few seconds, for as long as a browser likes.
        if self._open[viewer] >= MOST:
            raise GrantError(f"at most {MOST} pages can be live at once: close some", code="rate_limited")
        return StreamingResponse(
            self._events(viewer, browser, broadcast, show, allowed, first),
            media_type="text/event-stream",
            headers=dict(_HEADERS),
        )

    async def _events(
        self,
        viewer: str,
        browser: str,
        broadcast: Broadcast,
        show: Callable[[Any, int], StreamEvent | None],
        allowed: Callable[[], bool],
        first: Callable[[], Iterable[StreamEvent]],
    ) -> AsyncIterator[str]:
        loop, stopping = asyncio.get_running_loop(), self.stopping
        said = checked = loop.time()
        yield ": open\n\n"
        with self._counted(viewer, browser) as paused, broadcast.subscribe() as queue:
            for event in first():
                yield event.encode()
            while not stopping.is_set():
                value = await _either(queue.get(CHECK_S), stopping, paused)
                if paused.is_set():
                    yield StreamEvent("", event="paused").encode()
                    return
                now = loop.time()
                if now - checked >= CHECK_S:
                    if not await run_in_threadpool(allowed):
                        yield StreamEvent("", event="ended").encode()
                        return
                    checked = now
                if value is not None:
                    missed, queue.missed = queue.missed, 0
                    shown = show(value, missed)
                    if shown is not None:
                        said = now
                        yield shown.encode()
                if now - said >= HEARTBEAT_S:
                    said = now
                    yield ": still here\n\n"

    @contextlib.contextmanager
    def _counted(self, viewer: str, browser: str) -> Iterator[asyncio.Event]:
        """Count a stream while it is open; yields what is set when it has to give its connection back."""
        paused = asyncio.Event()
        self._open[viewer] += 1
        streams = self._of_browser.setdefault(browser, [])
        streams.append(paused)
        if len(streams) > MOST_OF_BROWSER:
            streams.pop(0).set()
        try:
            yield paused
        finally:
            self._open[viewer] -= 1
            self._open += Counter()  # without who has none
            if paused in streams:
                streams.remove(paused)
            if not streams and self._of_browser.get(browser) is streams:
                del self._of_browser[browser]


async def _either(wait: Awaitable[Any], *ends: asyncio.Event) -> Any:
    """Return what is awaited, or None as soon as one of the events is set."""
    task = asyncio.ensure_future(wait)
    tasks = [task, *(asyncio.ensure_future(end.wait()) for end in ends)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in tasks:
            each.cancel()
