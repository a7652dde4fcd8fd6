# SPDX-License-Identifier: Apache-2.0
"""What a stranger's bytes get from the mint's port: a problem, closed where it must be, and nothing of the inside."""

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.http.httptools_protocol import MAX_QUEUED
from arx_caps.mint.api.app import create_app
from arx_caps.mint.server.serve import mint_protocol
from tests.agent.live import serving
from tests.mint.harness import ISSUER, local_mint, make_realm

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 4.2")]
HOST = b"Host: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    mint = local_mint(make_realm(tmp_path_factory.mktemp("realm") / "realm"))
    with serving(create_app(mint), http=mint_protocol(ISSUER), loop="uvloop", log_config=None, lifespan="off") as port:
        yield port
    mint.close()


def ask(port: int, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, and read one answer until the mint closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as stranger:
        stranger.sendall(raw)
        read = b"".join(iter(lambda: stranger.recv(65536), b""))
    head, _, body = read.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return int(first.split()[1]), {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}, body


BROKEN = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\r\n\r\n", 400),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /healthz HTTP/1.1\r\n" + HOST * 2 + b"\r\n", 400),
    "a space in a name": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"a b: c\r\n\r\n", 400),
    "two lengths": (b"POST /v1/kills HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
    "a length below zero": (b"POST /v1/kills HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400),
    "a bad chunk": (b"POST /v1/kills HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "headers without end": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"a: " + b"x" * 70_000, 431),
    "a path without end": (b"GET /" + b"x" * 70_000, 431),
    "a trailer without end": (b"POST /v1/kills HTTP/1.1\r\n" + HOST + CHUNKED + b"0\r\na: " + b"x" * 70_000, 431),
}


@pytest.mark.parametrize(("raw", "status"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_request_is_a_problem(port: int, raw: bytes, status: int) -> None:
    """Bytes that are no HTTP, and headers without end: a problem with the nearest status, and the end of it."""
    found, headers, body = ask(port, raw)
    assert (found, headers["content-type"]) == (status, "application/problem+json")
    assert headers["connection"] == "close"
    assert json.loads(body)["status"] == status
    assert set(json.loads(body)) == {"type", "title", "status", "detail", "code"}


@pytest.mark.parametrize(
    "path", [b"/%", b"/%00", b"/v1/agents/%ff%fe", b"//v1/whoami", b"/v1/../v1/whoami", b"/\xc3\x28"]
)
def test_an_odd_path_is_nobodys(port: int, path: bytes) -> None:
    """A path that cannot be, or that a proxy would read in another way, is no other path."""
    found, headers, body = ask(port, b"GET " + path + b" HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
    assert found in (400, 401, 404)
    assert (headers["content-type"], headers["cache-control"]) == ("application/problem+json", "no-store")
    assert b"Traceback" not in body


@pytest.mark.parametrize("target", [b"healthz", b"http://x/healthz", b"/healthz#b", b"*"])
def test_a_target_that_is_no_path_reaches_nothing(port: int, target: bytes) -> None:
    """The path inside of another target is not served."""
    assert ask(port, b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")[0] in (400, 404)


def test_requests_before_an_answer_are_bounded(tmp_path: Path) -> None:
    """httptools parses all that has arrived: a few requests wait for those ahead of them, many end the connection."""
    mint = local_mint(make_realm(tmp_path / "realm"))
    request = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    protocol = mint_protocol(ISSUER)
    with serving(create_app(mint), http=protocol, loop="uvloop", log_config=None, lifespan="off") as port:
        for count, answered in ((MAX_QUEUED, MAX_QUEUED), (20 * MAX_QUEUED, 0)):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as stranger:
                stranger.sendall(request * count)
                read = b""
                with contextlib.suppress(ConnectionResetError):
                    while read.count(b"HTTP/1.1 200") < count and (more := stranger.recv(65536)):
                        read += more
            assert read.count(b"HTTP/1.1 200") == answered
    mint.close()


@pytest.mark.parametrize("header", [b"Authorization: DPoP a\r\n", b"DPoP: a.b.c\r\n"])
def test_a_header_twice_is_no_choice(port: int, header: bytes) -> None:
    """Two tokens or two proofs are refused: a proxy could have looked at the other one."""
    raw = b"GET /v1/whoami HTTP/1.1\r\nConnection: close\r\n" + HOST + header * 2 + b"\r\n"
    assert ask(port, raw)[0] in (400, 401)


@pytest.mark.parametrize("method", [b"OPTIONS", b"TRACE", b"CONNECT", b"PROPFIND"])
def test_other_methods_are_not_answered(port: int, method: bytes) -> None:
    """No method beyond those of the table does anything, and no answer opens the mint to another origin's pages."""
    raw = method + b" /v1/whoami HTTP/1.1\r\nConnection: close\r\nOrigin: http://evil.example\r\n" + HOST + b"\r\n"
    found, headers, _ = ask(port, raw)
    assert found in (400, 405)
    assert not [name for name in headers if name.startswith("access-control")]


def test_a_trailer_is_no_header(port: int) -> None:
    """What follows a body is looked at by no proxy: a token there is none."""
    head = b"POST /v1/kills HTTP/1.1\r\nConnection: close\r\n" + HOST + CHUNKED
    found, _, body = ask(port, head + b"0\r\nAuthorization: DPoP a\r\nDPoP: b\r\n\r\n")
    assert (found, json.loads(body)["code"]) == (401, "missing_token")


def test_a_body_is_not_the_next_request(port: int) -> None:
    """A request that would switch protocols is one request, whatever its body looks like."""
    inner = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    head = b"POST /v1/kills HTTP/1.1\r\nConnection: upgrade, close\r\nUpgrade: h2c\r\n" + HOST
    with socket.create_connection(("127.0.0.1", port), timeout=60) as stranger:
        stranger.sendall(head + b"Content-Length: %d\r\n\r\n" % len(inner))
        with contextlib.suppress(ConnectionError):
            stranger.sendall(inner)
            read = b"".join(iter(lambda: stranger.recv(65536), b""))
    assert (read.count(b"HTTP/1.1 "), read.count(b"HTTP/1.1 4")) == (1, 1)
