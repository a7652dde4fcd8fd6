# SPDX-License-Identifier: Apache-2.0
"""A gateway that takes access tokens: a stock OAuth client calls its tools, as far as the policy and a kill let it."""

import base64
import contextlib
import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from arx_caps.cli import exit_codes
from tests.gateway.test_gateway import World, answers, started
from tests.house.pages import ROOT, blocks, matches
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 5.5")]


class OAuthWorld(World):
    """A realm whose gateway takes access tokens."""

    def write(self, more: str = "") -> None:
        """Write the gateway's file, with the URL of each upstream as a resource."""
        super().write(more)
        file = self.folder / "gateway.toml"
        text = file.read_text()
        for name in ("billing", "orders"):
            line = f'audience = "{name}"\n'
            text = text.replace(line, f'{line}resource = "{self.url(name)}"\n')
        file.write_text(text)

    def url(self, name: str) -> str:
        """The URL of an upstream."""
        return f"http://127.0.0.1:{self.billing if name == 'billing' else self.orders}/{name}"

    def client_of(self, *scopes: str) -> tuple[str, str]:
        """Register a client of a new agent; return its id and secret."""
        self.agents += 1
        path, out = f"acme/a{self.agents}", self.folder / f"{self.agents}.client.json"
        self.arx("agent", "enrol", path, "--key-out", str(self.folder / f"{self.agents}.key"))
        words = [word for scope in scopes for word in ("--scope", scope)]
        self.arx("client", "add", path, *words, "--out", str(out))
        content = json.loads(out.read_text())
        return content["client_id"], content["client_secret"]

    def token(self, client: tuple[str, str], name: str, scope: str = "refund") -> str:
        """Return an access token of a client, as a stock client gets one: from the URL alone."""
        challenge = httpx.get(self.url(name), timeout=30).headers["www-authenticate"]
        about = httpx.get(challenge.partition('resource_metadata="')[2].partition('"')[0], timeout=30).json()
        return self.token_for(client, about, scope)

    def token_for(self, client: tuple[str, str], about: dict[str, Any], scope: str = "refund") -> str:
        """Return an access token of a client for a resource, by the resource's metadata."""
        [issuer] = about["authorization_servers"]
        found = httpx.get(f"{issuer}/.well-known/oauth-authorization-server", timeout=30).json()
        form = {"grant_type": "client_credentials", "scope": scope, "resource": about["resource"]}
        answer = httpx.post(found["token_endpoint"], data=form, auth=client, timeout=30)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One realm with its gateway for the tests of this file."""
    more = '[task.read]\nagents = ["acme/**"]\nttl = "10m"\naudience = ["orders"]\n'
    more += 'allow = [ { tool = "orders.get", args = { order_id = "o-1" } } ]\n'
    yield from started(OAuthWorld(tmp_path_factory.mktemp("oauth")), more)


def mcp(world: OAuthWorld, token: str, message: dict[str, Any], session: str = "") -> httpx.Response:
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
    headers |= {"authorization": f"Bearer {token}"} | ({"mcp-session-id": session} if session else {})
    return httpx.post(world.url("orders"), json={"jsonrpc": "2.0", **message}, headers=headers, timeout=30)


def opened(world: OAuthWorld, token: str) -> str:
    about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    seen: list[httpx.Response] = []
    # In the second in which the gateway's verifier started, a call is to be made anew.
    until(lambda: seen.append(mcp(world, token, {"id": 1, "method": "initialize", "params": about})) or is_taken(seen))
    assert seen[-1].is_success, seen[-1].text
    session = str(seen[-1].headers["mcp-session-id"])
    assert mcp(world, token, {"method": "notifications/initialized"}, session).is_success
    return session


def is_taken(seen: list[httpx.Response]) -> bool:
    """Return whether the last answer is more than that the gateway has just started."""
    return seen[-1].is_success or seen[-1].json().get("code") not in ("proof_invalid", "syncing", "stale")


def call(world: OAuthWorld, token: str, session: str, name: str, **args: Any) -> httpx.Response:
    params = {"name": name, "arguments": args}
    return mcp(world, token, {"id": 7, "method": "tools/call", "params": params}, session)


def test_a_plain_http_service_is_called_with_an_access_token(world: OAuthWorld) -> None:
    """As often as it lives; arguments are judged, and records have the assurance of a handle."""
    token = world.token(world.client_of("refund"), "billing")
    with httpx.Client(headers={"authorization": f"Bearer {token}"}) as client:
        url = world.url("billing")
        for _ in range(2):
            assert client.get(f"{url}/orders/o-1?limit=5").json()["query"] == "limit=5"
        assert client.post(f"{url}/orders/o-1/refund", json={"amount": 20}).json() == {"refunded": 20}
        refused = client.post(f"{url}/orders/o-1/refund", json={"amount": 50})
        assert (refused.status_code, refused.json()["code"]) == (403, "argument_not_allowed")
        assert client.get(f"{url}/orders/o-2").json()["code"] == "argument_not_allowed"
    shown = world.arx("decisions", "--journal", str(world.folder / "billing.json"))["decisions"]
    mine = [each for each in shown if each["agent"] == f"acme/a{world.agents}"]
    assert {each["assurance"] for each in mine} == {"handle"}
    assert [each["outcome"] for each in sorted(mine, key=lambda each: each["sequence"])] == ["allow"] * 3 + ["deny"] * 2


def test_an_mcp_server_is_called_with_an_access_token(world: OAuthWorld) -> None:
    """A session outlives the access token that opened it: the next one is of the same ARx session."""
    client = world.client_of("refund")
    token = world.token(client, "orders")
    session = opened(world, token)
    tools = mcp(world, token, {"id": 2, "method": "tools/list"}, session).json()["result"]["tools"]
    assert [tool["name"] for tool in tools] == ["get", "wait", "secret"]
    for each in (token, world.token(client, "orders")):
        text = call(world, each, session, "get", order_id="o-1").json()["result"]["content"][0]["text"]
        assert text == "o-1 is on its way"
    other = world.token(world.client_of("refund"), "orders")
    assert call(world, other, session, "get", order_id="o-1").status_code == 404


@pytest.mark.parametrize("target", ["task", "agent", "session"])
def test_a_kill_ends_an_access_token(world: OAuthWorld, target: str) -> None:
    """Once verifiers have confirmed it, the next call is refused, and each one after it."""
    token = world.token(world.client_of("refund"), "billing")
    url, headers = f"{world.url('billing')}/orders/o-1", {"authorization": f"Bearer {token}"}
    assert httpx.get(url, headers=headers).status_code == 200
    sessions = world.arx("session", "list", "--agent", f"acme/a{world.agents}")["sessions"]
    tasks = world.arx("task", "list", "--agent", f"acme/a{world.agents}")["tasks"]
    name = {"agent": f"acme/a{world.agents}", "session": sessions[0]["id"], "task": tasks[0]["id"]}[target]
    world.kill(target, name)
    seen: list[httpx.Response] = []
    # A gateway whose lease has ended refuses everything until it has one again.
    until(lambda: seen.append(httpx.get(url, headers=headers)) or seen[-1].status_code != 503)
    refused = seen[-1]
    assert (refused.status_code, refused.json()["code"]) == (401, "revoked")
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]


@pytest.mark.parametrize("target", ["task", "session", "agent"])
def test_a_kill_is_401_to_every_message_of_mcp(world: OAuthWorld, target: str) -> None:
    """At 200 with an error of a tool, a stock client would go on with its access token and never log in again."""
    token = world.token(world.client_of("refund"), "orders")
    session = opened(world, token)
    assert call(world, token, session, "get", order_id="o-1").status_code == 200
    claims = json.loads(payload_of(token))
    name = {"task": claims["tid"], "session": claims["sid"], "agent": f"acme/a{world.agents}"}[target]
    world.kill(target, name)
    about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    for answer in (
        call(world, token, session, "get", order_id="o-1"),
        mcp(world, token, {"id": 2, "method": "tools/list"}, session),
        mcp(world, token, {"id": 3, "method": "initialize", "params": about}),
        mcp(world, token, {"method": "notifications/initialized"}, session),
        httpx.get(world.url("orders"), headers={"authorization": f"Bearer {token}", "mcp-session-id": session}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (401, "revoked")
        challenge = answer.headers["www-authenticate"]
        assert all(part in challenge for part in ('error="invalid_token"', "resource_metadata=", 'scope="refund"'))


def test_the_resource_lists_its_scopes(world: OAuthWorld) -> None:
    """Those of this service alone, which a stock client then asks for."""
    for port, name, scopes in ((world.orders, "orders", ["read", "refund"]), (world.billing, "billing", ["refund"])):
        about = httpx.get(f"http://127.0.0.1:{port}/.well-known/oauth-protected-resource/{name}").json()
        assert about["scopes_supported"] == scopes


def test_a_page_in_a_browser_can_connect(world: OAuthWorld) -> None:
    """Metadata, token endpoint and the MCP route are open to every origin, without cookies; nothing else is."""
    page = {"origin": "https://page.example"}
    ahead = page | {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    mint, orders = f"http://127.0.0.1:{world.mint}", world.url("orders")
    paths = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration", "/oauth/jwks")
    metadata = orders.replace("/orders", "/.well-known/oauth-protected-resource/orders")
    for url in (metadata, *(mint + path for path in paths)):
        assert httpx.get(url, headers=page).headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-origin" not in httpx.get(url).headers
    for url in (orders, f"{mint}/oauth/token"):
        answer = httpx.options(url, headers=ahead)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, "*")
        assert answer.headers["access-control-allow-headers"].startswith("Authorization")
    refused = httpx.post(orders, headers=page, json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
    assert refused.status_code == 401
    assert "WWW-Authenticate, Mcp-Session-Id" in refused.headers["access-control-expose-headers"]
    for url in (f"{mint}/oauth/authorize", f"{mint}/oauth/consent", f"{mint}/v1/tasks", world.url("billing")):
        for answer in (httpx.options(url, headers=ahead), httpx.get(url, headers=page)):
            assert "access-control-allow-origin" not in answer.headers


def test_a_tool_beyond_the_scope_names_the_scope(world: OAuthWorld) -> None:
    """A client that may ask for more learns for what; one that may not reads the refusal."""
    client = world.client_of("read", "refund")
    token = world.token(client, "orders", "read")
    session = opened(world, token)
    assert call(world, token, session, "get", order_id="o-1").status_code == 200
    refused = call(world, token, session, "secret")
    assert refused.status_code == 403
    challenge = refused.headers["www-authenticate"]
    assert 'error="insufficient_scope"' in challenge
    assert 'scope="read refund"' in challenge  # with what it has, which a client would lose else
    assert refused.json()["result"]["isError"]
    wider = world.token(client, "orders")
    assert call(world, wider, session, "secret").status_code == 200
    narrow = world.token(world.client_of("read"), "orders", "read")
    answer = call(world, narrow, opened(world, narrow), "secret")
    assert (answer.status_code, answer.json()["result"]["isError"]) == (200, True)


def test_an_access_token_for_another_resource_is_refused(world: OAuthWorld) -> None:
    """So is one that was changed, and none: each answer says where to get one."""
    token = world.token(world.client_of("refund"), "orders")
    head, payload, signature = token.split(".")
    changed = f"{head}.{payload}.{'A' * len(signature)}"
    url = f"{world.url('billing')}/orders/o-1"
    for each, code in ((token, "wrong_audience"), (changed, "bad_signature"), (f"{head}.{head}.{head}", "malformed")):
        answer = httpx.get(url, headers={"authorization": f"Bearer {each}"})
        assert (answer.status_code, answer.json()["code"]) == (401, code)
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    none = httpx.get(url)
    assert (none.status_code, "error=" in none.headers["www-authenticate"]) == (401, False)
    path = "/.well-known/oauth-protected-resource/billing"
    about = httpx.get(f"http://127.0.0.1:{world.billing}{path}").json()
    assert about["resource"] == world.url("billing")
    assert httpx.get(f"http://127.0.0.1:{world.billing}/.well-known/oauth-protected-resource/none").status_code == 404


@pytest.mark.parametrize("name", ["oauth-authorization-server", "openid-configuration"])
def test_a_client_that_ignores_the_metadata_of_resources_finds_the_mint(world: OAuthWorld, name: str) -> None:
    """It asks the gateway's origin (MCP 2025-03-26): the document is the mint's, and has no endpoint of the gateway."""
    found = httpx.get(f"http://127.0.0.1:{world.orders}/.well-known/{name}").json()
    issuer = f"http://127.0.0.1:{world.mint}"
    assert found == httpx.get(f"{issuer}/.well-known/{name}").json()
    assert found["issuer"] == issuer
    form = {"grant_type": "client_credentials", "resource": world.url("orders")}
    assert httpx.post(found["token_endpoint"], data=form, auth=world.client_of("refund")).status_code == 200
    for path in ("/oauth/token", "/token", "/oauth/introspect", "/oauth/jwks"):
        assert httpx.post(f"http://127.0.0.1:{world.orders}{path}", data=form).status_code == 404


def checked(world: OAuthWorld, url: str) -> tuple[int, dict[str, Any]]:
    """Run ``arx doctor --oauth`` and return its exit code and, by name, its checks."""
    done = world.run("doctor", "--oauth", url, "--json")
    return done.exit_code, {check["name"]: check for check in done.json["checks"]}


def test_the_doctor_follows_a_url_as_a_client_does(world: OAuthWorld) -> None:
    """Of each upstream; a URL with another byte, an unknown upstream, and a mint alone are found."""
    world.token(world.client_of("refund"), "orders")  # the first one makes a key
    for name in ("orders", "billing"):
        code, checks = checked(world, world.url(name))
        wrong = {check["name"] for check in checks.values() if check["ok"] is not True}
        # No login and no registration here; a plain HTTP service says itself which pages may call it.
        expected = {"login", "registration"} | ({"pages"} if name == "billing" else set())
        assert (code, wrong) == (exit_codes.INCOMPLETE, expected)
        assert checks["scopes"]["found"] == ("read, refund" if name == "orders" else "refund")
        assert checks["keys"]["found"].endswith("ES256")
    page = blocks((ROOT / "docs" / "oauth.md").read_text("utf-8"))
    command, _, shown = next(block.text for block in page if block.language == "console").partition("\n")
    assert command == "$ arx doctor --oauth http://127.0.0.1:8090/orders"
    shown = shown.replace(":8090/", f":{world.orders}/").replace(":8700", f":{world.mint}")
    assert matches(shown, world.run("doctor", "--oauth", world.url("orders")).out)
    code, checks = checked(world, world.url("orders").replace("127.0.0.1", "localhost"))
    assert (code, checks["resource"]["ok"]) == (exit_codes.DENIED, False)
    assert "byte for byte" in checks["resource"]["found"]
    for url in (f"http://127.0.0.1:{world.orders}/none", f"http://127.0.0.1:{world.mint}/"):
        code, checks = checked(world, url)
        assert (code, checks["challenge"]["ok"], checks["resource"]["ok"]) == (exit_codes.DENIED, False, False)
    code, checks = checked(world, "http://192.0.2.1.invalid/x")
    assert (code, checks["address"]["ok"], checks["resource"]["ok"]) == (exit_codes.DENIED, False, False)


@contextlib.contextmanager
def without_mint(world: OAuthWorld) -> Iterator[None]:
    """Stop what would start the mint again, and kill the mint; store and gateway go on."""
    shown = str(world.folder / "realm").encode()
    [mint] = [
        int(file.parent.name)
        for file in Path("/proc").glob("[0-9]*/cmdline")
        if b"arx_caps.console.serve" in (words := file.read_bytes().split(b"\0")) and shown in words
    ]
    supervisor = int(Path(f"/proc/{mint}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGSTOP)
    try:
        os.kill(mint, signal.SIGKILL)
        until(lambda: not answers(f"http://127.0.0.1:{world.mint}/healthz"))
        yield
    finally:
        os.kill(supervisor, signal.SIGCONT)
    until(lambda: "restarted the mint" in world.log())  # a stop before that would find a mint that is just starting


def test_without_a_mint_known_access_tokens_go_on_and_a_kill_ends_them(world: OAuthWorld) -> None:
    """A new one is 503, and is accepted once the mint is back; kills come from the store."""
    client, url = world.client_of("refund"), f"{world.url('billing')}/orders/o-1"
    known, new = ({"authorization": f"Bearer {world.token(client, 'billing')}"} for _ in range(2))
    assert httpx.get(url, headers=known).status_code == 200
    with without_mint(world):
        refused = httpx.get(url, headers=new)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert httpx.get(url, headers=known).status_code == 200
        task = json.loads(payload_of(known["authorization"]))["tid"]
        # The dead mint cannot confirm it; on a loaded machine its lease has ended, and no one waits for it.
        done = world.run("kill", "task", task, "--reason", "a test", "--yes", "--direct")
        assert done.exit_code in (exit_codes.OK, exit_codes.INCOMPLETE), done.err
        until(lambda: httpx.get(url, headers=known).status_code == 401)
        assert httpx.get(url, headers=known).json()["code"] == "revoked"
    until(lambda: httpx.get(url, headers=new).status_code == 200)


def payload_of(token: str) -> bytes:
    payload = token.split(".")[1]
    return base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))


@pytest.mark.slow
def test_a_gateway_that_watches_removes_access_tokens_alone(world: OAuthWorld) -> None:
    """A JWT of another issuer, which the upstream may take, passes; an access token for another resource does not."""
    ours = world.token(world.client_of("refund"), "orders")
    claims = base64.urlsafe_b64encode(b'{"iss":"https://login.example","sub":"ann"}').decode().rstrip("=")
    head, _, signature = ours.split(".")
    until_when = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    file = world.folder / "gateway.toml"
    enforcing = file.read_text()
    resource = f'resource = "{world.url("billing")}"\n'
    assert resource in enforcing

    def load(text: str) -> None:
        before = world.log().count("reloaded gateway.toml")
        file.write_text(text)
        os.kill(world.pid, signal.SIGHUP)
        until(lambda: world.log().count("reloaded gateway.toml") > before)

    load(enforcing.replace(resource, f'{resource}watch = true\nuntil = "{until_when}"\n'))
    try:
        for token, seen in ((f"{head}.{claims}.{signature}", ["authorization"]), (ours, [])):
            answer = httpx.get(f"{world.url('billing')}/orders/o-1", headers={"authorization": f"Bearer {token}"})
            assert (answer.status_code, answer.json()) == (401, {"seen": seen})  # of the upstream: not its key
    finally:
        load(enforcing)
