# SPDX-License-Identifier: Apache-2.0
"""A call whose budget moves to another node waited without end, if that node had closed the idle connection.

ASKING could not be sent, so the connection was closed, and its timer with it.  The command was then queued behind it,
where no answer, no error and no time-out reached it.
"""

import asyncio
import gc
import select
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
import uvloop

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.revocation import loop_link, store_client
from arx_verifier.revocation.store_client import StoreClient, StoreCommand
from arx_verifier.revocation.store_url import Address

pytestmark = [pytest.mark.servers, pytest.mark.spec("17.7")]

TIMEOUT_S = 10.0


def wait_for_the_end(link: loop_link.LoopLink) -> None:
    """Wait until the server has closed a connection, without a step of its event loop."""
    poll = select.poll()
    poll.register(link._socket.fileno(), 0)
    [(_, event)] = poll.poll(60_000)
    assert event & select.POLLHUP


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_redirect_over_a_dead_connection_fails_at_once(
    make_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The call is refused before any time-out, and the next one has a new connection."""
    server = EmbeddedValkey(tmp_path / "v")
    server.start()
    client = StoreClient(Address(server.url), TIMEOUT_S, lambda _: None)

    async def work() -> None:
        assert await StoreCommand(client, ("ECHO", 1)).run_async() == b"1"
        [link] = [link for link in store_client._LINKS.values() if client in link.users]
        with redis.Redis.from_url(server.url) as admin:
            admin.client_kill_filter(_type="normal", skipme=True)
        wait_for_the_end(link)
        moved = StoreCommand(client, ("ECHO", 2), ("WAIT", 0, 1), asking=True)
        with pytest.raises(redis.ConnectionError, match="closed"):
            async with asyncio.timeout(TIMEOUT_S / 2):
                await moved.run_async()
        assert await StoreCommand(client, ("ECHO", 3)).run_async() == b"3"
        client.close()
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(work())
    server.stop()
    gc.collect()
    assert "never retrieved" not in caplog.text
