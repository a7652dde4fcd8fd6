# SPDX-License-Identifier: Apache-2.0
"""A service refused every call until its own restart, once it had asked a store a hundred times that was away.

The client library lets a pool make a hundred connections, and counts those of event loops that were closed as well.
The next one raised an error in a thread, so that all calls waited for a connection that no thread opened.
"""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.revocation.store_client import StoreClient, StoreCommand
from arx_verifier.revocation.store_url import Address
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.3")]

OUTAGE, THREADS = 105, 101


@pytest.fixture
def client(tmp_path: Path) -> Iterator[tuple[StoreClient, EmbeddedValkey]]:
    """A service's client of a store that does not run yet."""
    server = EmbeddedValkey(tmp_path / "v")
    made = StoreClient(Address(server.url), 10, lambda _: None)
    yield made, server
    made.close()
    server.stop()


def test_calls_go_on_when_the_store_is_back(client: tuple[StoreClient, EmbeddedValkey]) -> None:
    """Each call of the outage is refused at once; then event loops and threads are answered."""
    asked, server = client

    async def work() -> None:
        for _ in range(OUTAGE):
            with pytest.raises(redis.ConnectionError, match="connecting to"):
                await StoreCommand(asked, ("PING",)).run_async()
        await asyncio.to_thread(server.start)
        assert await StoreCommand(asked, ("PING",)).run_async() == b"PONG"
        assert asked.redis.ping()

    asyncio.run(work())


def test_calls_go_on_when_there_are_threads_again(client: tuple[StoreClient, EmbeddedValkey]) -> None:
    """The system starts no thread for a connection: the call is refused at once, and the next one opens it."""
    asked, server = client
    server.start()

    async def work() -> Any:
        before = threading.stack_size(1 << 46)  # no machine has so much memory
        try:
            with pytest.raises(redis.ConnectionError, match="cannot start the thread"):
                await StoreCommand(asked, ("PING",)).run_async()
        finally:
            threading.stack_size(before)
        return await StoreCommand(asked, ("PING",)).run_async()

    assert asyncio.run(work()) == b"PONG"


def test_more_than_a_hundred_threads_ask(client: tuple[StoreClient, EmbeddedValkey]) -> None:
    """Each has a connection of its own while it waits."""
    asked, server = client
    server.start()
    with ThreadPoolExecutor(THREADS) as threads, redis.Redis.from_url(server.url) as admin:
        answers = [threads.submit(asked.redis.blpop, "list", 9) for _ in range(THREADS)]
        until(lambda: admin.info("clients")["blocked_clients"] + sum(answer.done() for answer in answers) == THREADS)
        admin.rpush("list", *range(THREADS))
        assert len({answer.result() for answer in answers}) == THREADS
