# SPDX-License-Identifier: Apache-2.0
"""Streams: one producer for all viewers, what a slow one misses, and what ends a stream."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import update

from arx_caps.console.live import QUEUE, Broadcast, Live, StreamEvent, Subscription
from arx_caps.mint.db.tables import CONSOLE_SESSIONS
from arx_caps.mint.identity.console_session import digest_of, find_console_session, note_console_use
from arx_verifier.errors import StoreError
from arx_verifier.token import wire
from tests.console.harness import sign_in
from tests.mint.harness import Harness, now_ms


async def read(live: Live, broadcast: Broadcast, wanted: int, allowed: bool = True) -> list[str]:
    """Return so many events of a stream, or all until it ends."""
    answer = live.answer("ada", broadcast, lambda value, _: StreamEvent(str(value)), lambda: allowed, browser="c-1")
    found: list[str] = []
    async for chunk in answer.body_iterator:
        found += [str(chunk)] if not str(chunk).startswith(":") else []
        if len(found) == wanted:
            break
    return found


def test_all_viewers_share_one_producer_and_an_outage_ends_nothing() -> None:
    """Three viewers get the same values, each made once, although the database is away in between."""
    made: list[int] = []

    def produce() -> list[Any]:
        made.append(len(made))
        if len(made) == 2:
            raise StoreError("the database did not answer")
        return [made[-1]]

    async def run() -> list[list[str]]:
        live = Live()
        broadcast = live.broadcast("x", produce, 0.01)
        async with asyncio.timeout(60):
            return await asyncio.gather(*(read(live, broadcast, 3) for _ in range(3)))

    first, *others = asyncio.run(run())
    assert [event.split() for event in first] == [["data:", "0"], ["data:", "2"], ["data:", "3"]]
    assert all(other == first for other in others)


def test_viewers_who_come_at_once_share_one_producer() -> None:
    """Also without a viewer: a producer for each would give each viewer only some of what is new."""
    made: list[int] = []

    def produce() -> list[Any]:
        made.append(len(made))
        return [made[-1]]

    async def run() -> list[list[str]]:
        live = Live()
        asked = [live.broadcast("x", produce, 0.01) for _ in range(3)]
        async with asyncio.timeout(60):
            return await asyncio.gather(*(read(live, each, 5) for each in asked))

    for events in asyncio.run(run()):
        assert [event.split()[1] for event in events] == ["0", "1", "2", "3", "4"]


def test_a_slow_viewer_misses_the_oldest() -> None:
    """Its queue is bounded, and it learns how many it missed."""

    async def run() -> tuple[int, Any]:
        viewer = Subscription()
        for number in range(QUEUE + 5):
            viewer.put(number)
        return viewer.missed, await viewer.get(60)

    assert asyncio.run(run()) == (5, 5)


def test_the_end_of_the_server_ends_a_stream() -> None:
    """At once, however long its producer would wait."""

    async def run() -> list[str]:
        live, loop, waits = Live(), asyncio.get_running_loop(), asyncio.Event()

        def produce() -> list[Any]:
            loop.call_soon_threadsafe(waits.set)
            return []

        task = asyncio.create_task(read(live, live.broadcast("x", produce, 3600), 1))
        async with asyncio.timeout(60):
            await waits.wait()
            live.stop()
            return await task

    assert asyncio.run(run()) == []


def test_an_event_cannot_hold_another() -> None:
    """A line end in a value begins no other field of the stream."""
    text = StreamEvent("a\r\nevent: x\rdata: y", id="1").encode()
    assert text == "id: 1\ndata: a\ndata: event: xdata: y\n\n"


@pytest.mark.sqlite
def test_a_page_that_is_left_open_keeps_no_user_signed_in(unit: Harness) -> None:
    """A stream looks at the session without using it; a page uses it."""
    browser = sign_in(unit)
    secret = wire.bytes_of(browser.client.cookies["arx-console"])
    idle_ms = unit.realm.console.idle_ms
    with unit.mint.db.write() as c:
        past = {"used_at": now_ms() - idle_ms // 2, "until": now_ms() + idle_ms // 2}
        c.execute(update(CONSOLE_SESSIONS).values(**past))

    def until() -> int:
        row = unit.mint.db.console_sessions.find(digest_of(secret))
        assert row is not None
        return row.until

    before = until()
    session = find_console_session(unit.mint, secret)
    assert session is not None
    assert until() == before
    note_console_use(unit.mint, session)
    assert until() > before
