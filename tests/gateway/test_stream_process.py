# SPDX-License-Identifier: Apache-2.0
"""A streamed body through a gateway process: in constant memory, and for as long as bytes come.  Real processes."""

import contextlib
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier import Rule
from arx_verifier.testing import UnsafeCaller
from tests.adapters.asgi_server import serving
from tests.gateway.gateway_realm import GatewayRealm, gateway
from tests.gateway.test_streams import KIND, Upstream, send
from tests.servers import free_ports, until

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.7")]

TABLE = """[upstream.orders]
audience = "orders"
url = "http://127.0.0.1:{}"
routes = {{ "PUT /archives/{{name}}" = "orders.archive" }}
bodies = {{ "PUT /archives/{{name}}" = "stream" }}
"""
SHORT = "import arx_caps.gateway.serve as serve; serve._REQUEST_S = 2.0"
PART = bytes(1 << 20)
MOST_MORE = 64 << 20  # bytes of resident memory


class World(NamedTuple):
    """A gateway process before an upstream."""

    url: str
    caller: UnsafeCaller
    process: int
    upstream: Upstream


@pytest.fixture
def world(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str) -> Iterator[World]:
    realm, [port] = GatewayRealm(tmp_path, valkey.url, name=realm_name), free_ports(1)
    upstream = Upstream()
    with serving(upstream, log_level="critical") as behind:
        file, caller = realm.write(TABLE.format(behind), port=port), realm.caller(Rule(tool="*"), session="s-1")
        with gateway(file, tmp_path / "log", before=SHORT) as process:
            url = f"http://127.0.0.1:{port}/orders"
            until(lambda: upload(url, caller, 1).status_code == 200)  # a new store refuses what was signed before it
            yield World(url, caller, process.pid, upstream)


def upload(url: str, caller: UnsafeCaller, parts: int) -> httpx.Response:
    about = {"content_type": KIND, "size": parts * len(PART)}
    token = caller.token("orders.archive", name="a", body=about)
    return send(url, token, (PART for _ in range(parts)), **{"content-length": str(parts * len(PART))})


def memory_of(process: int, what: str) -> int:
    """Return a figure of a process in bytes: VmRSS, or VmHWM, the most so far."""
    status = Path(f"/proc/{process}/status").read_text("utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(what))) * 1024


def grown_by(world: World, parts: int) -> int:
    """Return how much more memory the gateway had, at most, while a body went through it."""
    Path(f"/proc/{world.process}/clear_refs").write_text("5", "utf-8")  # the most so far is what it has now
    before, had = memory_of(world.process, "VmRSS"), world.upstream.size
    answer = upload(world.url, world.caller, parts)
    assert answer.status_code == 200, answer.text
    assert world.upstream.size - had == parts * len(PART)
    return memory_of(world.process, "VmHWM") - before


@pytest.mark.slow
def test_a_long_body_takes_little_memory(world: World) -> None:
    """Twice what it may take more."""
    assert grown_by(world, 128) <= MOST_MORE


@pytest.mark.nightly
def test_a_gigabyte_takes_little_memory(world: World) -> None:
    """A clone's worth of packs."""
    assert grown_by(world, 1024) <= MOST_MORE


def request_of(world: World, token: str) -> socket.socket:
    """Begin a request whose body comes in chunks."""
    at = urlsplit(world.url)
    connection = socket.create_connection((at.hostname or "", at.port or 0), timeout=60)
    connection.sendall(
        f"PUT {at.path}/archives/a HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n"
        f"content-type: {KIND}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    )
    return connection


def has_more(upstream: Upstream, had: int) -> bool:
    return upstream.size > had


def send_on(connection: socket.socket) -> None:
    """Send chunks until the other side has closed the connection, for a minute at most.

    Raises:
        OSError: It has.
    """
    connection.settimeout(0.1)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        connection.sendall(b"1\r\nx\r\n")
        with contextlib.suppress(TimeoutError):
            if not connection.recv(1 << 16):
                raise ConnectionResetError


@pytest.mark.slow
def test_a_stream_may_take_longer_than_a_request(world: World) -> None:
    """As long as its bytes come: here three times the time of a whole request, which the gateway has made short."""
    token = world.caller.token("orders.archive", name="a", body={"content_type": KIND})
    end = time.monotonic() + 6
    with request_of(world, token) as connection:
        while time.monotonic() < end:
            had = world.upstream.size
            connection.sendall(b"1\r\nx\r\n")
            until(partial(has_more, world.upstream, had))
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
@pytest.mark.parametrize("body", [{"content_type": "text/plain"}, {}])
def test_a_refused_stream_ends_in_the_time_of_a_request(world: World, body: dict[str, Any]) -> None:
    """A stranger, or a refused caller, keeps no connection by sending on."""
    token = world.caller.token("orders.archive", name="a", body=body) if body else "arx1_x"
    with request_of(world, token) as connection:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
        with pytest.raises(OSError):
            send_on(connection)
