# SPDX-License-Identifier: Apache-2.0
"""A stranger could lock every operator out of the mint, with connections that never finish a request.

1 100 connections that never finished a request took all of its files: it accepted no connection, for as long as they
were held, and wrote 250 MB of log a minute about it, which would have filled the disk of its own record next.  Bodies
that were begun and hung up on were 5 kB of log each.
"""

import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from arx_caps.http.connections import BoundedProtocol
from arx_caps.mint.api.app import create_app
from arx_caps.mint.server import serve
from tests.agent.live import serving
from tests.mint.harness import ISSUER, local_mint, make_realm
from tests.servers import until

pytestmark = pytest.mark.servers
PLACES = 8
PARTS = (b"", b"POST /v1/sessions HT", b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")


@pytest.fixture
def protocol(monkeypatch: pytest.MonkeyPatch) -> type[BoundedProtocol]:
    monkeypatch.setattr(serve, "MAX_CONNECTIONS", PLACES)
    return serve.mint_protocol(ISSUER)


@pytest.fixture
def port(tmp_path: Path, protocol: type[BoundedProtocol]) -> Iterator[int]:
    mint = local_mint(make_realm(tmp_path / "realm"))
    with serving(create_app(mint), http=protocol, loop="uvloop", log_config=None, lifespan="off") as port:
        yield port
    mint.close()


@contextlib.contextmanager
def strangers(port: int, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as held:
        sockets = []
        for number in range(count):
            sockets.append(held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)))
            sockets[-1].sendall(PARTS[number % len(PARTS)])
        yield sockets


def test_who_waits_longest_makes_room(port: int, protocol: type[BoundedProtocol]) -> None:
    """However many connections are held open, the next caller is served, and no more places taken than there are."""
    with strangers(port, 5 * PLACES):
        for _ in range(3):
            assert httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False, timeout=60).status_code == 200
        until(lambda: len(protocol.held) <= PLACES)


@pytest.mark.parametrize("part", PARTS)
def test_a_request_that_does_not_arrive_is_given_up(
    port: int, part: bytes, protocol: type[BoundedProtocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a held connection nor one that sends a byte now and then lives longer than a request may take."""
    monkeypatch.setattr(protocol, "request_s", 0.3)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as stranger:
        closed = False
        stranger.sendall(part)
        stranger.settimeout(0.02)
        for _ in range(1000):
            try:
                stranger.sendall(b"x" if part else b"")
                closed = stranger.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
            if closed:
                break
        assert closed


def test_hanging_up_is_no_line_of_the_log(port: int, caplog: pytest.LogCaptureFixture) -> None:
    """A body that does not come is the stranger's matter."""
    with caplog.at_level(logging.WARNING):
        with strangers(port, 3):
            pass
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False, timeout=60).status_code == 200
    assert not [record for record in caplog.records if "failed" in record.message or record.exc_info]


def test_a_caller_at_work_is_left_alone(
    port: int, protocol: type[BoundedProtocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is for the request: a kept connection that goes on asking is served on, however long it lives."""
    monkeypatch.setattr(protocol, "request_s", 0.2)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
        for _ in range(100):
            assert client.get("/readyz").status_code in (200, 503)
