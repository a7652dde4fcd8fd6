# SPDX-License-Identifier: Apache-2.0
"""A real HTTPS server with the documents of clients, under a public name that leads to this machine."""

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from arx_caps.http.public_fetch import FetchedDocument, fetch_public
from arx_caps.mint.documents import ClientDocuments
from tests.mint.issuer import served
from tests.topologies.authority import Ca

HOST = "app.example"
PATH = "/oauth/client.json"
Answer = Callable[[BaseHTTPRequestHandler], None]


class DocumentServer:
    """Serves documents.

    Attributes:
        asked: The paths that were asked for.
        answers: What it answers, by path.
        port: Its port.
        context: Trusts its authority.
    """

    def __init__(self, folder: Path, host: str = HOST) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Answer] = {}
        ca = Ca.make(folder)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(*ca.issue(host))
        self.context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                outer.answers[self.path](self)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = server.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self.server.server_address[1])
        self.netloc = f"{HOST}:{self.port}"
        self.url = f"https://{self.netloc}{PATH}"

    def show(self, path: str = PATH, headers: dict[str, str] | None = None, **about: Any) -> dict[str, Any]:
        """Serve a document, and return it."""
        document = {"client_id": f"https://{self.netloc}{path}", "client_name": "Orders of Acme"}
        document |= {"redirect_uris": ["http://127.0.0.1/callback"], "token_endpoint_auth_method": "none"} | about
        self.answers[path] = partial(send, body=json.dumps(document).encode(), headers=headers or {})
        return document

    def lookup(self, _host: str, port: int) -> list[Any]:
        """Return this machine for every name."""
        return socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)

    def fetch(self, url: str) -> FetchedDocument:
        """Fetch a document as the mint does, but from this machine."""
        return fetch_public(url, self.context, lookup=self.lookup, may_connect=lambda _: True)

    def documents(self, **how: Any) -> ClientDocuments:
        """Return the documents of a mint that lists this server."""
        return ClientDocuments((self.netloc,), fetch=self.fetch, **how)


def send(
    handler: BaseHTTPRequestHandler, *, body: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    """Send an answer."""
    handler.send_response(status)
    for name, value in (
        {"Content-Type": "application/json", "Content-Length": str(len(body))} | (headers or {})
    ).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def document_server(folder: Path, host: str = HOST) -> Iterator[DocumentServer]:
    """Run a server.

    Args:
        folder: For its certificate, made here.
        host: The name in its certificate.
    """
    made = DocumentServer(folder, host)
    with served(made.server):
        yield made
