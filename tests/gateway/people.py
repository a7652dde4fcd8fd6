# SPDX-License-Identifier: Apache-2.0
"""An upstream with people's accounts and its OAuth issuer, a realm whose gateway is before it, and browsers."""

import base64
import contextlib
import hashlib
import json
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx

from arx_caps.agent import Agent, StartedTask
from arx_caps.cli import exit_codes
from tests.mint.issuer import served
from tests.mint.login import Issuer
from tests.realm_folder import ARX, RealmFolder
from tests.servers import free_ports, until

CLIENT, SECRET = "arx-at-tracker", "canary-secret-of-the-client"
POLICY: Final = """
[issuer.corp]
url = "{issuer}"
jwks = "{issuer}/keys"
audience = ["http://127.0.0.1:{mint}"]
algorithms = ["ES256"]
[audience.tracker]
origins = ["http://127.0.0.1:{gateway}"]
[session.all]
agents = ["acme/**"]
ttl = "1h"
subject = "allowed"
subjects = [ {{ issuer = "corp" }} ]
subject_outlives = "1h"
[task.triage]
agents = ["acme/**"]
subjects = [ {{ issuer = "corp" }} ]
ttl = "10m"
audience = ["tracker"]
upstream = {{ tracker = {{ "tracker.get" = ["repo.read"], "tracker.*" = ["repo.read", "repo.write"] }} }}
allow = [ {{ tool = "tracker.get", any = true }}, {{ tool = "tracker.put", any = true }} ]
[task.alone]
agents = ["acme/**"]
ttl = "10m"
audience = ["tracker"]
allow = [ {{ tool = "tracker.get", any = true }} ]
"""
CONNECTION: Final = """
[connection.tracker]
issuer = "{url}"
client_id = "{client}"
client_secret = "env:ARX_TEST_TRACKER_SECRET"
scopes = ["repo.read", "repo.write"]
audiences = ["tracker"]
"""
GATEWAY: Final = """
[gateway]
listen = ["127.0.0.1:{gateway}"]
[upstream.tracker]
audience = "tracker"
url = "{url}"
credential = {{ connection = "tracker"{more} }}
"""
ROUTES: Final = """
[upstream.tracker.routes]
"GET /items/{{item}}" = "tracker.get"
"POST /items/{{item}}" = "tracker.put"
"""


class Tracker:
    """An upstream and its issuer, which rotates refresh tokens and ends a grant whose old one comes again.

    Attributes:
        person: Who logs in there.
        url: Its URL.
        seen: The account and the scopes of each call that the upstream accepted.
        refreshes: How often a refresh token was used.
        grants: By refresh token, account and scopes; of a used one None.
        denies: The accounts to which the upstream answers 403.
        silent: Whether the token endpoint answers 503.
        answer: Parameters of the answer that are set.
        metadata: Members of the metadata that are set.
        documents: Further documents, by path.
    """

    def __init__(self) -> None:
        self.person, self.lives_s = "ann-t", 300.0
        self.documents: dict[str, Any] = {}
        self.seen: list[tuple[str, str]] = []
        self.refreshes, self.silent = 0, False
        self.denies: set[str] = set()
        self.answer: dict[str, str] = {}
        self.metadata: dict[str, Any] = {}
        self.grants: dict[str, tuple[str, str] | None] = {}
        self.tokens: dict[str, tuple[str, str, float]] = {}
        self.secrets: list[str] = []
        self._codes: dict[str, tuple[str, dict[str, str]]] = {}
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                if parts.path == "/authorize":
                    self._send(303, b"", Location=outer.log_in(dict(parse_qsl(parts.query))))
                elif parts.path == "/.well-known/oauth-authorization-server":
                    self._json(outer.about())
                elif parts.path == "/userinfo":
                    found = outer.owner(self.headers.get("Authorization", ""))
                    self._json({"sub": found[0]} if found else {}, 200 if found else 401)
                elif parts.path in outer.documents:
                    self._json(outer.documents[parts.path])
                else:
                    self._work()

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"])).decode()
                if self.path.startswith("/v1/"):
                    self._work()
                    return
                form = dict(parse_qsl(raw))
                basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
                if self.headers.get("Authorization") != f"Basic {basic}":
                    self._json({"error": "invalid_client"}, 401)
                elif self.path == "/revoke":
                    outer.revoke(form["token"])
                    self._json({})
                elif outer.silent:
                    self._json({}, 503)
                else:
                    status, answer = outer.issue(form)
                    self._json(answer, status)

            def _work(self) -> None:
                found = outer.owner(self.headers.get("Authorization", ""))
                if found is None:
                    self._json({}, 401)
                elif found[0] in outer.denies:
                    self._json({}, 403)
                else:
                    outer.seen.append(found)
                    shown = _bare(self.headers["Authorization"]) if self.path.endswith("/echo") else found[1]
                    self._json({"sub": found[0], "scope": shown})

            def _json(self, body: Any, status: int = 200) -> None:
                self._send(status, json.dumps(body).encode(), **{"Content-Type": "application/json"})

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

    def about(self) -> dict[str, Any]:
        endpoints = {"authorization_endpoint": "authorize", "token_endpoint": "token", "userinfo_endpoint": "userinfo"}
        endpoints |= {"revocation_endpoint": "revoke"}
        about: dict[str, Any] = {name: f"{self.url}/{path}" for name, path in endpoints.items()}
        about |= {"issuer": self.url, "authorization_response_iss_parameter_supported": True}
        return about | self.metadata

    def log_in(self, query: dict[str, str]) -> str:
        assert (query["client_id"], query["code_challenge_method"]) == (CLIENT, "S256")
        code = secrets.token_urlsafe(16)
        self._codes[code] = (self.person, query)
        answer = {"code": code, "state": query["state"], "iss": self.url} | self.answer
        return f"{query['redirect_uri']}?{urlencode({name: value for name, value in answer.items() if value})}"

    def issue(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            if form["grant_type"] == "authorization_code":
                person, query = self._codes.pop(form["code"], ("", {"code_challenge": "", "redirect_uri": ""}))
                digest = hashlib.sha256(form["code_verifier"].encode()).digest()
                challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
                if (challenge, form["redirect_uri"]) != (query["code_challenge"], query["redirect_uri"]):
                    return 400, {"error": "invalid_grant"}
                return 200, self._tokens(person, query["scope"], query["scope"], query.get("nonce"))
            self.refreshes += 1
            found = self.grants.get(form["refresh_token"])
            if found is None:
                if form["refresh_token"] in self.grants:  # used before: the whole grant ends
                    self.end()
                return 400, {"error": "invalid_grant"}
            if not set(form["scope"].split()) <= set(found[1].split()):
                return 400, {"error": "invalid_scope"}
            self.grants[form["refresh_token"]] = None
            return 200, self._tokens(found[0], found[1], form["scope"])

    def _tokens(self, person: str, granted: str, scope: str, nonce: str | None = None) -> dict[str, Any]:
        refresh, access = f"canary-refresh-{secrets.token_urlsafe(16)}", f"canary-access-{secrets.token_urlsafe(16)}"
        self.secrets += [refresh, access]
        self.grants[refresh] = (person, granted)
        self.tokens[access] = (person, scope, time.monotonic() + self.lives_s)
        answer = {"access_token": access, "refresh_token": refresh, "token_type": "Bearer", "scope": scope}
        return answer | {"expires_in": self.lives_s}

    def owner(self, authorization: str) -> tuple[str, str] | None:
        found = self.tokens.get(_bare(authorization))
        return found[:2] if found is not None and found[2] > time.monotonic() else None

    def revoke(self, token: str) -> None:
        with self._lock:
            found = self.grants.get(token)
            if found is not None:
                self.grants = {name: each for name, each in self.grants.items() if each is None or each[0] != found[0]}
                self.tokens = {name: each for name, each in self.tokens.items() if each[0] != found[0]}

    def end(self) -> None:
        """End all grants and tokens."""
        self.grants = dict.fromkeys(self.grants)
        self.tokens = {}


class PeopleWorld(RealmFolder):
    """A realm whose gateway is before an upstream with accounts of people.

    Attributes:
        login: Where people log in at the mint.
        tracker: The upstream.
    """

    def __init__(self, folder: Path, login: Issuer, tracker: Tracker, mint: int) -> None:
        super().__init__(folder)
        self.login, self.tracker, self.mint, self.agents = login, tracker, mint, 0
        [self.gateway] = free_ports(1)
        self.environment["ARX_TEST_TRACKER_SECRET"] = SECRET

    @property
    def issuer(self) -> str:
        """The mint's URL."""
        return f"http://127.0.0.1:{self.mint}"

    @contextlib.contextmanager
    def task(self, person: str | None, template: str = "triage") -> Iterator[StartedTask]:
        """A task of a new agent that acts for a person."""
        self.agents += 1
        key = self.folder / f"{self.agents}.key"
        self.arx("agent", "enrol", f"acme/a{self.agents}", "--key-out", str(key))
        token = None
        if person is not None:
            self.login.person = {"sub": person}
            token = self.login.id_token(aud=self.issuer)
        with Agent.from_key_file(key) as agent, agent.open_session(id_token=token) as session:
            yield session.start_task(template)

    def order(self, *words: str) -> None:
        """Kill, freeze or thaw until it is confirmed: on a loaded machine a verifier may confirm late."""

        def confirmed() -> bool:
            command = [*ARX, *words, "--reason", "a test", "--yes"]
            done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
            assert done.returncode in (exit_codes.OK, exit_codes.INCOMPLETE), done.stderr
            return done.returncode == exit_codes.OK

        until(confirmed)

    def client(self, task: StartedTask) -> httpx.Client:
        """A client of the upstream, by the gateway."""
        base = f"http://127.0.0.1:{self.gateway}/tracker"
        return httpx.Client(base_url=base, auth=task.auth("tracker"), timeout=30)

    def visit(self, browser: httpx.Client, link: str, person: str) -> httpx.Response:
        """Open a link in a person's browser, and follow it."""
        self.login.person = {"sub": person}
        return browser.get(link, follow_redirects=True)

    def connect(self, link: str, person: str, account: str, answer: str = "allow") -> httpx.Response:
        """Connect an account, as a person does in a browser."""
        self.tracker.person = account
        with httpx.Client(timeout=30) as browser:
            page = self.visit(browser, link, person)
            assert page.status_code == 200, page.text
            assert account in page.text
            return self.press(browser, page, answer)

    def press(self, browser: httpx.Client, page: httpx.Response, answer: str = "allow") -> httpx.Response:
        """Press a button of the page with the account."""
        token = re.search(r'name="token" value="([^"]*)"', page.text)
        assert token is not None, page.text
        return browser.post(f"{self.issuer}/connect/account", data={"token": unescape(token[1]), "answer": answer})

    def log(self) -> str:
        """What all processes wrote."""
        return (self.folder / "up.log").read_text()


def _bare(authorization: str) -> str:
    return authorization.removeprefix("Bearer ").removeprefix("token=")


@contextlib.contextmanager
def people(
    folder: Path,
    more: str = "",
    *,
    tracker: Tracker | None = None,
    connection: str = CONNECTION,
    url: str = "",
    routes: str = ROUTES,
    policy: str = POLICY,
    gateway: str = GATEWAY,
    mint: int = 0,
) -> Iterator[PeopleWorld]:
    """Run the realm, its gateway, and both issuers.

    Args:
        folder: Where.
        more: What is added to the table of the credential.
        tracker: The upstream; None for one with a connection of its own.
        connection: The tables of the connections.
        url: Where the gateway reaches the upstream; empty for the tracker.
        routes: The table of its routes; empty for an upstream that speaks MCP.
        policy: The policy.
        gateway: The gateway's file.
        mint: The mint's port; 0 for any.
    """
    mint = mint or free_ports(1)[0]
    tracker = tracker or Tracker()
    login = Issuer(f"http://127.0.0.1:{mint}")
    with served(login.server), served(tracker.server):
        world = PeopleWorld(folder, login, tracker, mint)
        rules = policy.format(issuer=login.url, mint=mint, gateway=world.gateway)
        world.make(mint, rules, login.url, more=connection.format(url=tracker.url, client=CLIENT))
        text = (gateway + routes).format(gateway=world.gateway, url=url or f"{tracker.url}/v1", more=more)
        (folder / "gateway.toml").write_text(text)
        with world.up("--gateway", "gateway.toml", ready='"upstreams": ['):
            yield world
