# SPDX-License-Identifier: Apache-2.0
"""The certificates of issuer, store and database ended without an alert: only a relay's own was in its metrics.

A proxy, a store and a database renew a certificate, and may go on with the old one that they have loaded.
"""

import asyncio
import contextlib
import dataclasses
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.credentials.keyfile import KeyFile
from arx_caps.embedded import EmbeddedValkey
from arx_caps.gateway.base.settings import read_settings
from arx_caps.gateway.gateway import Gateway
from arx_caps.http.certificates import CertificateWatch, CertifiedPlace
from arx_caps.mint.api.metrics import Metrics
from tests.gateway.gateway_realm import AUDIENCE, GatewayRealm
from tests.mint.harness import Harness
from tests.servers import until
from tests.topologies.authority import Ca

DAY_S = 86_400.0
NAMES = ("issuer", "store", "database")
UPSTREAM = """
[upstream.http]
audience = "{audience}"
service = "{audience}.json"
url = "http://127.0.0.1:9/mcp"
resource = "https://127.0.0.1:{port}/http"
"""
POSTGRES = bytes.fromhex("0000000804d2162f")  # its SSLRequest


class Server(socketserver.ThreadingTCPServer):
    """A server with TLS, from the first byte or as PostgreSQL has it."""

    daemon_threads = True

    def __init__(self, ca: Ca, first: bytes = b"") -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(*ca.issue("127.0.0.1", days=2))
        self.first, self.port = first, self.server_address[1]

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        assert isinstance(request, socket.socket)
        if self.first:
            assert request.recv(8) == self.first
            request.sendall(b"S")
        with contextlib.suppress(OSError), self.context.wrap_socket(request, server_side=True) as secure:
            secure.recv(1)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers, whose certificates end in two days."""
    ca, servers = Ca.make(tmp_path / "ca"), list[Server]()

    def start(first: bytes = b"") -> Server:
        servers.append(Server(ca, first))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_mint_exports_when_its_servers_certificates_end(unit: Harness, serve: Callable[..., Server]) -> None:
    """Of its issuer, at which a proxy answers, its store and its database, without a wait at a scrape."""
    unit.mint.log.store.create()
    issuer, store, database = serve(), serve(), serve(POSTGRES)
    unit.mint.realm = dataclasses.replace(
        unit.mint.realm,
        issuer=f"https://127.0.0.1:{issuer.port}",
        database=f"postgresql://arx@127.0.0.1:{database.port}/arx?sslmode=verify-full",
    )
    unit.mint.store_url = f"rediss://127.0.0.1:{store.port}/0"
    metrics = Metrics(unit.mint)
    named = [f"{what} at 127.0.0.1:{one.port}" for what, one in zip(NAMES, (issuer, store, database), strict=True)]

    def exported() -> bool:
        text = metrics.text().decode()
        return all(f'arx_certificate_expires_seconds{{certificate="{name}"}} 1' in text for name in named)

    until(exported)


def test_a_gateway_exports_when_the_certificate_of_its_name_ends(
    tmp_path: Path, valkey: EmbeddedValkey, realm_name: str, serve: Callable[..., Server]
) -> None:
    """Of the `resource` of an upstream, at which clients reach it through a proxy."""
    realm, proxy = GatewayRealm(tmp_path, valkey.url, name=realm_name), serve()
    service = tmp_path / f"{AUDIENCE}.json"
    KeyFile.generate("service", AUDIENCE, "https://mint.example").save(tmp_path / "own.key")
    facts = json.loads(service.read_text()) | {"issuer": "https://mint.example", "key_file": "own.key"}
    service.write_text(json.dumps(facts))
    text = UPSTREAM.format(audience=AUDIENCE, port=proxy.port)
    gateway = Gateway(read_settings(realm.write(text, port=1)))
    shown = f'arx_certificate_expires_seconds{{certificate="gateway at 127.0.0.1:{proxy.port}"}} 1'
    until(lambda: shown in asyncio.run(metrics_of(gateway)))


async def metrics_of(gateway: Gateway) -> str:
    """Ask a gateway for its metrics."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "headers": [], "client": None, "path": "/metrics", "query_string": b""}
    await gateway({**scope, "raw_path": b"/metrics"}, receive, send)
    return b"".join(message.get("body", b"") for message in sent).decode()


def test_a_server_that_does_not_answer_keeps_its_last_end(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage does not end the alert."""
    monkeypatch.setattr("arx_caps.http.certificates.EVERY_S", 0.0)
    server = serve()
    watch = CertificateWatch(CertifiedPlace.of_url("store", f"rediss://127.0.0.1:{server.port}"))
    until(lambda: list(watch.samples()))
    server.shutdown()
    server.server_close()
    for _ in range(20):
        [(name, seconds, label)] = watch.samples()
        assert (name, label) == ("arx_certificate_expires_seconds", f"store at 127.0.0.1:{server.port}")
        assert DAY_S < seconds < 2 * DAY_S


@pytest.mark.parametrize(
    "url", [None, "", "http://a", "redis://a/0", "unix:///run/store", "postgresql:///arx?host=/run"]
)
def test_a_server_without_tls_has_no_certificate(url: str | None) -> None:
    """Nothing is asked there."""
    assert list(CertifiedPlace.of_url("store", url)) == []


@pytest.mark.parametrize(
    ("url", "places"),
    [
        ("https://mint.example", [("mint.example", 443)]),
        ("rediss+sentinel:main://a,b:1/0", [("a", 26379), ("b", 1)]),
        ("postgresql://arx@/arx?host=a:1&host=b&sslmode=verify-full", [("a", 1), ("b", 5432)]),
    ],
)
def test_each_host_of_a_url_is_looked_at(url: str, places: list[tuple[str, int]]) -> None:
    """Several servers stand behind one URL; any of them may be the next primary."""
    assert [(place.host, place.port) for place in CertifiedPlace.of_url("store", url)] == places
