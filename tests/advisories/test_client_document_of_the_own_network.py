# SPDX-License-Identifier: Apache-2.0
"""A stranger must not make the mint reach its own network, or wait and read without end, by the URL of a client.

CONTROL 5.13, draft-ietf-oauth-client-id-metadata-document-03: the mint fetches a document that a stranger names.
"""

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from arx_caps.http import public_fetch
from arx_caps.http.public_fetch import MAX_BYTES, FetchError, fetch_public, is_document_url
from arx_caps.http.public_host import is_public
from arx_caps.mint.documents import ClientDocuments
from tests.mint.documents import HOST, PATH, DocumentServer, document_server, send

PRIVATE = """
    0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.1.2.3 168.63.129.16 169.254.169.254 172.16.0.1
    172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 240.0.0.1
    255.255.255.255
    :: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b::808:808 64:ff9b::7f00:1 64:ff9b:1::1
    2001::1 2001:10::1 2001:db8::1 2002:7f00:1::1 2002:808:808::1 3fff::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%lo
    fec0::1 ff02::1 100::1
""".split()
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001::1"]
BAD_URLS = [
    "http://app.example/client.json",
    "HTTPS://app.example/client.json",
    "https://app.example",
    "https://app.example/",
    "https://app.example/client.json?x=1",
    "https://app.example/client.json#x",
    "https://user@app.example/client.json",
    "https://user:pass@app.example/client.json",
    "https://app.example/a/../client.json",
    "https://app.example/./client.json",
    "https://app.example/a/..",
    "https://app.example/%2e%2e/client.json",
    "https://app.example/.%2E/client.json",
    "https://app.example\\@evil.example/client.json",
    "https://app.example:0443/client.json",
    "https://App.example/client.json",
    "https://[::1]/client.json",
    "https://app.example/client json",
    "https://app.example/client.json\n",
    "https://app.example/\u00e4",
    "https://app.example/" + "x" * 500,
    "file:///etc/passwd",
    "",
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DocumentServer]:
    """A server with a document."""
    with document_server(tmp_path / "site") as made:
        made.show()
        yield made


def test_no_address_but_a_public_one() -> None:
    """Private, loopback, link-local, shared, reserved, of a cloud's own services, or with an IPv4 address inside."""
    assert [address for address in PRIVATE if is_public(address)] == []
    assert [address for address in PUBLIC if not is_public(address)] == []


def test_no_url_of_another_form() -> None:
    """One form of each, so that the document, the list and the connection mean one host and one path."""
    assert [url for url in BAD_URLS if is_document_url(url)] == []
    assert is_document_url("https://app.example:8443/oauth/client.json")


def test_one_private_address_among_public_ones(site: DocumentServer) -> None:
    """The name is refused before a connection, whichever comes first."""
    private = socket.getaddrinfo("127.0.0.1", site.port, type=socket.SOCK_STREAM)
    public = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", site.port))]
    for answer in (private + public, public + private, []):
        with pytest.raises(FetchError, match="not public"):
            fetch_public(site.url, site.context, lookup=lambda _host, _port, found=answer: found)  # type: ignore[misc]
    assert site.asked == []


def test_a_name_that_leads_elsewhere_at_the_second_lookup(site: DocumentServer) -> None:
    """There is one lookup: the checked address is the one that is reached."""
    answers: list[list[Any]] = [site.lookup(HOST, site.port), site.lookup(HOST, 1)]
    checked: list[str] = []

    def may_connect(address: str) -> bool:
        checked.append(address)
        return True

    lookup = lambda _host, _port: answers.pop(0)  # noqa: E731
    body = fetch_public(site.url, site.context, lookup=lookup, may_connect=may_connect).body
    assert json.loads(body)["client_id"] == site.url
    assert (checked, len(answers), site.asked) == (["127.0.0.1"], 1, [PATH])


def test_the_mint_itself_reaches_no_server_of_its_machine(site: DocumentServer, tmp_path: Path) -> None:
    """With a real lookup of a listed name, and nothing of the tests in between."""
    documents = ClientDocuments((f"localhost:{site.port}",), str(tmp_path / "site" / "ca.pem"))
    with pytest.raises(FetchError, match="not public"):
        documents.find(f"https://localhost:{site.port}{PATH}")
    assert site.asked == []


def test_tls_proves_the_name(tmp_path: Path) -> None:
    """An address that is reached in its place has no certificate for it."""
    with document_server(tmp_path / "other", "other.example") as other:
        other.show()
        with pytest.raises(FetchError, match="SSLCertVerificationError"):
            other.fetch(other.url)
        assert other.asked == []


def test_what_is_not_followed_and_not_expanded(site: DocumentServer) -> None:
    """No redirect, no compressed answer, no other type, and no more than 5 KiB."""
    body = json.dumps(site.show()).encode()
    large = body[:-1] + b', "x": "' + b"x" * MAX_BYTES + b'"}'
    bomb = gzip.compress(b" " * 2_000_000 + body)
    for path, answer in {
        "/redirect": {"body": b"", "status": 302, "headers": {"Location": site.url}},
        "/large": {"body": large},
        "/chunked": {"body": large, "headers": {"Content-Length": "", "Connection": "close"}},
        "/bomb": {"body": bomb, "headers": {"Content-Encoding": "gzip"}},
        "/html": {"body": body, "headers": {"Content-Type": "text/html"}},
        "/gone": {"body": body, "status": 410},
    }.items():
        site.answers[path] = partial(send, **answer)  # type: ignore[arg-type]
        with pytest.raises(FetchError):
            site.fetch(f"https://{site.netloc}{path}")
    assert PATH not in site.asked


def test_a_server_that_never_comes_to_its_end(site: DocumentServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte after another, in the head or the body; or a lookup without an answer."""
    monkeypatch.setattr(public_fetch, "TOTAL_S", 1.0)
    over = threading.Event()

    def drip(handler: BaseHTTPRequestHandler, head: bytes) -> None:
        handler.wfile.write(head)
        while not over.wait(0.05):
            try:
                handler.wfile.write(b" ")
            except OSError:
                return

    site.answers["/head"] = partial(drip, head=b"HTTP/1.1 200 OK\r\nX-Long:")
    site.answers["/body"] = partial(drip, head=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    try:
        for path in ("/head", "/body"):
            with pytest.raises(FetchError, match="did not answer"):
                site.fetch(f"https://{site.netloc}{path}")
        with pytest.raises(FetchError, match="did not answer"):
            fetch_public(site.url, site.context, lookup=lambda _host, _port: [over.wait()])
    finally:
        over.set()
