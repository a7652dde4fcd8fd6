# SPDX-License-Identifier: Apache-2.0
"""A real OpenID Connect issuer with a login, and the browser of a person, driven by HTTP without scripts."""

import base64
import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import httpx
import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from arx_caps.credentials.access_token import AccessToken, read_access_token
from arx_caps.settings.realm import Login
from arx_caps.settings.self_registration import SelfRegistration
from tests.mint.harness import AGENT, ISSUER, Harness, now_ms, open_unit
from tests.mint.issuer import served
from tests.mint.oauth import RESOURCE, Client

MINT_CLIENT, MINT_SECRET = "arx-mint", "s3cret-of-the-mint"
REDIRECT = "http://127.0.0.1/callback"
VERIFIER = "v" * 43
POLICY = """\
[issuer.corp]
url = "{issuer}"
jwks = "{issuer}/keys"
audience = ["unused", "http://127.0.0.1:8700"]
algorithms = ["ES256"]

[audience.orders]
origins = ["http://127.0.0.1:9001"]

[session.support]
agents = ["acme/**"]
ttl = "1h"
subject = "allowed"
subjects = [ {{ issuer = "corp" }} ]
subject_outlives = "1h"

[task.lookup]
agents = ["acme/**"]
subjects = [ {{ issuer = "corp" }} ]
params = {{ order_id = {{ max_length = 10 }} }}
ttl = "10m"
audience = ["orders"]
allow = [ {{ tool = "orders.get", args = {{ order_id = "$order_id", customer = "$subject" }} }} ]

[task.status]
agents = ["acme/**"]
ttl = "10m"
audience = ["orders"]
allow = [ {{ tool = "orders.status", args = {{}} }} ]

[task.refund]
agents = ["acme/**"]
subjects = [ {{ issuer = "corp", claims = {{ groups = "leads" }} }} ]
params = {{ order_id = {{ max_length = 10 }}, amount = {{ range = [0, 100] }}, fast = {{ one_of = [true, false] }} }}
ttl = "10m"
audience = ["orders"]
allow = [ {{ tool = "orders.refund", args = {{ order_id = "$order_id", amount = {{ range = [0, "$amount"] }} }} }} ]

[task.pay]
agents = ["acme/**"]
subjects = [ {{ issuer = "corp" }} ]
ttl = "10m"
audience = ["orders"]
bearer = "allow"
allow = [ {{ tool = "orders.pay", args = {{ to = {{ max_length = 100 }} }} }} ]
approvals = [ {{ tools = ["orders.pay"] }} ]
"""


class Issuer:
    """An issuer whose login asks nothing.

    Args:
        mint: The issuer URL of the mint at which people log in.

    Attributes:
        person: The claims of the person who logs in.
        claims: Claims of the ID token that are set or, with None, left out.
        metadata: Members of the metadata that are set.
        answer: Parameters of the answer that are set.
        key: The key that signs.
        alter: Changes each ID token.
        devices: The next answers to a program that asks for a device code, and then whether it was confirmed.
    """

    def __init__(self, mint: str = ISSUER) -> None:
        self._callback = f"{mint}/oauth/callback"
        self.key = ECKey.generate_key("P-256", {"kid": "k1"}, private=True)
        self.signer, self.kid = self.key, "k1"
        self.alter: Callable[[str], str] = str
        self.person: dict[str, Any] = {"sub": "ann", "groups": ["support"]}
        self.claims: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.answer: dict[str, str] = {}
        self.asked: list[str] = []
        self.devices: list[tuple[dict[str, Any], int]] = []
        self._codes: dict[str, dict[str, str]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                outer.asked.append(parts.path)
                if parts.path == "/authorize":
                    self._send(303, b"", Location=outer.log_in(dict(parse_qsl(parts.query))))
                elif parts.path == "/keys":
                    self._json({"keys": [outer.key.as_dict(private=False)]})
                else:
                    self._json(outer.discovery())

            def do_POST(self) -> None:
                form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
                if self.path == "/device" or "device_code" in form:
                    self._json(*outer.devices.pop(0))
                    return
                answer = outer.redeem(form, self.headers.get("Authorization", ""))
                self._json(answer or {"error": "invalid_grant"}, 200 if answer else 400)

            def _json(self, body: Any, status: int = 200) -> None:
                self._send(status, json.dumps(body).encode())

            def _send(self, status: int, body: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def discovery(self) -> dict[str, Any]:
        values = {"issuer": self.url, "authorization_endpoint": f"{self.url}/authorize", "jwks_uri": f"{self.url}/keys"}
        return values | {"token_endpoint": f"{self.url}/token"} | self.metadata

    def log_in(self, query: dict[str, str]) -> str:
        assert (query["client_id"], query["redirect_uri"]) == (MINT_CLIENT, self._callback)
        code = secrets.token_urlsafe(16)
        self._codes[code] = query
        answer = {"code": code, "state": query["state"]} | self.answer
        return f"{query['redirect_uri']}?{urlencode({name: value for name, value in answer.items() if value})}"

    def redeem(self, form: dict[str, str], authorization: str) -> dict[str, Any] | None:
        query = self._codes.pop(form["code"], None)
        basic = base64.b64encode(f"{MINT_CLIENT}:{MINT_SECRET}".encode()).decode()
        digest = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        if query is None or authorization != f"Basic {basic}" or digest != query["code_challenge"]:
            return None
        return {"access_token": "x", "token_type": "Bearer", "id_token": self.id_token(nonce=query["nonce"])}

    def id_token(self, **more: Any) -> str:
        """Return an ID token of the person."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": MINT_CLIENT, "iat": now, "exp": now + 300, "jti": secrets.token_hex(8)}
        claims |= self.person | more | self.claims
        claims = {name: value for name, value in claims.items() if value is not None}
        return self.alter(jwt.encode({"alg": "ES256", "kid": self.kid}, claims, self.signer))


@contextmanager
def issuer(mint: str = ISSUER) -> Iterator[Issuer]:
    made = Issuer(mint)
    with served(made.server):
        yield made


def settings(url: str, scope: str = "") -> str:
    """Return the lines of ``realm.toml`` for an issuer, and what the mint asks it for if it is not the default."""
    lines = {"login_issuer": url, "login_client_id": MINT_CLIENT, "login_client_secret": "env:ARX_TEST_LOGIN_SECRET"}
    lines |= {"login_scope": scope} if scope else {}
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items())


def challenge(verifier: str = VERIFIER) -> str:
    """Return the S256 challenge of a verifier."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


class Flow:
    """A registered client, and the browser of a person who uses it.

    Args:
        harness: The realm.
        client: The client; None for a new one.
        about: Members of the new client's registration.
    """

    def __init__(self, harness: Harness, client: Client | None = None, **about: Any) -> None:
        self.harness = harness
        body = {"scopes": ["lookup", "refund", "status"], "redirects": [REDIRECT]} | about
        self.client = Client(harness, **body) if client is None else client
        self.browser = harness.client
        self.redirect = "http://127.0.0.1:53211/callback"

    def begin(self, **query: str | None) -> httpx2.Response:
        """Send the browser to the authorization endpoint."""
        asked: dict[str, str | None] = {"response_type": "code", "client_id": self.client.id, "state": "of-client"}
        asked |= {"redirect_uri": self.redirect, "resource": RESOURCE, "scope": "lookup"}
        asked |= {"code_challenge": challenge(), "code_challenge_method": "S256"} | query
        params = {name: value for name, value in asked.items() if value is not None}
        return self.browser.get("/oauth/authorize", params=params, follow_redirects=False)

    def log_in(self, **query: str | None) -> httpx2.Response:
        """Let the person log in, and return the answer of the callback."""
        begun = self.begin(**query)
        assert begun.status_code == 303, begun.text
        assert not begun.headers["location"].startswith(self.redirect), begun.headers["location"]
        return self.visit(httpx.get(begun.headers["location"]).headers["location"])

    def visit(self, url: str) -> httpx2.Response:
        """Visit a page of the mint."""
        return self.browser.get(url.removeprefix(ISSUER), follow_redirects=False)

    def page(self, **query: str | None) -> httpx2.Response:
        """Return the page that asks for consent."""
        back = self.log_in(**query)
        assert back.status_code == 303, back.text
        assert back.headers["location"].startswith("/oauth/consent?"), back.headers
        return self.visit(back.headers["location"])

    def cookie(self, kind: str) -> tuple[str, str]:
        """Return name and value of the browser's newest cookie of a kind."""
        *_, newest = [(name, value) for name, value in self.browser.cookies.items() if name.startswith(f"arx-{kind}-")]
        return newest

    def answer(self, page: httpx2.Response, answer: str = "allow", task: str = "", **typed: str) -> httpx2.Response:
        """Press a button of the page; ``task`` is the names of those that the person chooses of several."""
        token = re.search(r'name="token" value="([^"]*)"', page.text)
        assert token is not None, page.text
        form = {"token": unescape(token[1]), "answer": answer}
        form |= {f"param.{name}": text for name, text in typed.items()} | {
            f"task.{name}": "yes" for name in task.split()
        }
        return self.browser.post("/oauth/consent", data=form, follow_redirects=False)

    def code(self, **query: str | None) -> str:
        """Return a code that the client got."""
        return self.answer_of(self.answer(self.page(**query), order_id="o-1"))["code"]

    def answer_of(self, response: httpx2.Response) -> dict[str, str]:
        """Return what a redirect takes to the client."""
        assert response.status_code == 303, response.text
        place, _, query = response.headers["location"].partition("?")
        assert place == self.redirect
        answer = {name: values[0] for name, values in parse_qs(query).items()}
        assert answer["iss"] == ISSUER
        return answer

    def redeem(self, code: str, **form: str) -> httpx2.Response:
        """Redeem a code."""
        asked = {"grant_type": "authorization_code", "code": code, "redirect_uri": self.redirect}
        asked |= {"code_verifier": VERIFIER} | form
        if not self.client.secret:
            return self.client.post("/oauth/token", {}, client_id=self.client.id, **asked)
        return self.client.post("/oauth/token", None, **asked)

    def refresh(self, token: str, **form: str) -> httpx2.Response:
        """Use a refresh token."""
        asked = {"grant_type": "refresh_token", "refresh_token": token} | form
        if not self.client.secret:
            return self.client.post("/oauth/token", {}, client_id=self.client.id, **asked)
        return self.client.post("/oauth/token", None, **asked)

    def token(self, **query: str | None) -> dict[str, Any]:
        """Return the answer with an access token."""
        answer = self.redeem(self.code(**query))
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body


@pytest.fixture
def idp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    """The issuer at which people log in."""
    monkeypatch.setenv("ARX_TEST_LOGIN_SECRET", MINT_SECRET)
    with issuer() as made:
        yield made


CLIENTS = SelfRegistration(AGENT, ("lookup", "status"), register=True, hosts=("app.example",))


@pytest.fixture
def flow(idp: Issuer, tmp_path: Path, database: str | None, realm_template: Path) -> Iterator[Flow]:
    """A client of a mint with a login, and a person's browser."""
    login = Login(idp.url, MINT_CLIENT, "env:ARX_TEST_LOGIN_SECRET", "openid groups")
    policy = POLICY.format(issuer=idp.url)
    with open_unit(
        tmp_path / "realm", database=database, template=realm_template, policy=policy, login=login, clients=CLIENTS
    ) as harness:
        harness.enrol()
        yield Flow(harness)


def claims_of(harness: Harness, token: str) -> AccessToken:
    """Return the claims of an access token of the mint."""
    return read_access_token(token, harness.mint.signing_keys.find, issuer=ISSUER, now=now_ms())
