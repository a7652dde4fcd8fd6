# SPDX-License-Identifier: Apache-2.0
"""``arx doctor --oauth`` at servers of other kinds or versions: each lack that a stock client stumbles over."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from arx_caps.cli.commands.doctor.oauth import check_oauth
from tests.mint.issuer import served

pytestmark = pytest.mark.spec("CONTROL 5.5")


class Server:
    """A resource and its authorization server, at one origin.

    Attributes:
        url: The resource.
        about: The resource's metadata.
        pages: The metadata of the authorization server, by path.
        cross: Whether pages of every origin may ask.
        refuses_pages: Whether the resource answers no page.
    """

    def __init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/orders" and outer.refuses_pages and self.headers["origin"]:
                    self._send(403, {})
                elif self.path == "/orders":
                    self._send(401, {}, f'Bearer resource_metadata="{outer.origin}/about"')
                else:
                    found = {"/about": outer.about, "/keys": {"keys": []}}.get(self.path, outer.pages.get(self.path))
                    self._send(404 if found is None else 200, found or {})

            def do_OPTIONS(self) -> None:
                self._send(204, {})

            def _send(self, status: int, body: dict[str, Any], challenge: str = "") -> None:
                data = json.dumps(body).encode() if status != 204 else b""
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                if challenge:
                    self.send_header("WWW-Authenticate", challenge)
                if outer.cross:
                    self.send_header("Access-Control-Allow-Origin", "*")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        self.server, self.cross = ThreadingHTTPServer(("127.0.0.1", 0), Handler), True
        self.refuses_pages = False
        self.origin = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.url, self.issuer = f"{self.origin}/orders", f"{self.origin}/idp"
        self.about: dict[str, Any] = {"resource": self.url, "authorization_servers": [self.issuer]}
        self.about["scopes_supported"] = ["a"]
        self.metadata: dict[str, Any] = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "registration_endpoint": f"{self.issuer}/register",
            "jwks_uri": f"{self.origin}/keys",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
            "dpop_signing_alg_values_supported": ["ES256"],
        }
        names = ("oauth-authorization-server/idp", "openid-configuration/idp")
        paths = [*(f"/.well-known/{name}" for name in names), "/idp/.well-known/openid-configuration"]
        self.pages: dict[str, Any] = dict.fromkeys(paths, self.metadata)

    def found(self) -> dict[str, bool | None]:
        """Return what is not in order, by name."""
        return {each.name: each.ok for each in check_oauth(self.url) if each.ok is not True and each.name != "keys"}


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that lacks nothing."""
    made = Server()
    with served(made.server):
        yield made


def test_a_server_with_all_parts_is_in_order(server: Server) -> None:
    """Also one whose issuer has a path, under each form of the metadata's URL."""
    assert server.found() == {}


@pytest.mark.parametrize(
    ("member", "name", "ok"),
    [
        ("authorization_endpoint", "endpoints", False),
        ("response_types_supported", "endpoints", False),
        ("token_endpoint", "endpoints", False),
        ("code_challenge_methods_supported", "login", False),
        ("authorization_response_iss_parameter_supported", "login", None),
        ("registration_endpoint", "registration", None),
        ("dpop_signing_alg_values_supported", "proofs", False),
    ],
)
def test_a_missing_member_is_found(server: Server, member: str, name: str, ok: bool | None) -> None:
    """As an older mint, or a server of another kind, leaves it out."""
    del server.metadata[member]
    assert server.found()[name] is ok


def test_a_resource_that_answers_no_page_is_followed(server: Server) -> None:
    """Where a gateway has `origins`, all else is as it is for other clients."""
    server.refuses_pages = True
    server.cross = False
    assert server.found() == {"pages": None}


def test_what_a_resource_or_a_proxy_lacks_is_found(server: Server) -> None:
    """No scopes, no access for pages in browsers, one name of the metadata alone, and none."""
    del server.about["scopes_supported"]
    assert server.found() == {"scopes": None}
    server.cross = False
    assert server.found() == {"scopes": None, "pages": None}
    while len(server.pages) > 1:
        server.pages.popitem()
        assert server.found()["issuer"] is None
    server.pages.clear()
    assert server.found()["issuer"] is False
