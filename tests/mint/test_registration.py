# SPDX-License-Identifier: Apache-2.0
"""Clients register themselves, and people consent to what they may do."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.db.repositories.oauth.oauth_clients import FRESH_MS, end_of_unused
from arx_caps.mint.oauth.client.clients import find_client
from tests.mint.harness import AGENT, ISSUER, Harness, open_live
from tests.mint.login import CLIENTS, POLICY, Flow, Issuer, claims_of, settings
from tests.mint.oauth import Client

pytestmark = pytest.mark.spec("CONTROL 5.10")

# What the `mcp` SDK 2.3, mcp-remote and the MCP inspector send.
STOCK: dict[str, dict[str, Any]] = {
    "mcp": {
        "redirect_uris": ["http://localhost:3030/callback"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "client_name": "Simple MCP Client",
        "application_type": "native",
        "scope": "lookup status",
    },
    "mcp-remote": {
        "redirect_uris": ["http://localhost:24842/oauth/callback"],
        "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "client_name": "MCP CLI Proxy",
        "client_uri": "https://client.example/repository",
        "software_id": "2e6dc280-f3c3-4e01-99a7-8181dbd1d23d",
        "software_version": "0.1.38",
    },
    "with a secret": {
        "redirect_uris": ["https://app.example/back"],
        "token_endpoint_auth_method": "client_secret_post",
    },
}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no redirect": ({"redirect_uris": []}, "invalid_client_metadata"),
    "too many": ({"redirect_uris": ["https://app.example/"] * 9}, "invalid_client_metadata"),
    "no text": ({"redirect_uris": [1]}, "invalid_client_metadata"),
    "no code": ({"grant_types": ["client_credentials"]}, "invalid_client_metadata"),
    "implicit": ({"response_types": ["token"]}, "invalid_client_metadata"),
    "a key": ({"token_endpoint_auth_method": "private_key_jwt"}, "invalid_client_metadata"),
    "a long name": ({"client_name": "x" * 101}, "invalid_client_metadata"),
    "plain HTTP": ({"redirect_uris": ["http://app.example/"]}, "invalid_redirect_uri"),
    "a fragment": ({"redirect_uris": ["https://app.example/#x"]}, "invalid_redirect_uri"),
    "a script": ({"redirect_uris": ["javascript:alert(1)"]}, "invalid_redirect_uri"),
    "a name for this machine": ({"redirect_uris": ["http://localhost.app.example/"]}, "invalid_redirect_uri"),
    "one of two": ({"redirect_uris": ["https://app.example/", "https://u@app.example/"]}, "invalid_redirect_uri"),
}


def register(harness: Harness, **about: Any) -> dict[str, Any]:
    """Return the answer to a client that registers itself."""
    answer = harness.client.post("/oauth/register", json={"redirect_uris": ["http://127.0.0.1/callback"]} | about)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


class SelfRegistered(Client):
    """A client that registers itself.

    Args:
        harness: The realm.
        about: What it says of itself.
    """

    def __init__(self, harness: Harness, **about: Any) -> None:
        self.harness, self.secret = harness, ""
        self.id = register(harness, **about)["client_id"]


def set_clients(harness: Harness, **changed: Any) -> None:
    harness.mint.realm = replace(harness.mint.realm, clients=CLIENTS._replace(**changed))


@pytest.mark.sqlite
@pytest.mark.parametrize("about", STOCK.values(), ids=STOCK.keys())
def test_stock_clients_register_themselves(flow: Flow, about: dict[str, Any]) -> None:
    """As public clients, with the scopes of the settings, whatever they ask for."""
    client = register(flow.harness, **about)
    assert re.fullmatch("c-[0-9a-z]+", client["client_id"])
    assert client["redirect_uris"] == about["redirect_uris"]
    assert client.get("client_name") == about.get("client_name")
    assert (client["token_endpoint_auth_method"], client["scope"]) == ("none", "lookup status")
    assert client["grant_types"] == ["authorization_code", "refresh_token"]
    assert "client_secret" not in client


@pytest.mark.sqlite
@pytest.mark.parametrize(("about", "error"), BAD.values(), ids=BAD.keys())
def test_what_is_refused(flow: Flow, about: dict[str, Any], error: str) -> None:
    """With the error of RFC 7591, and no row."""
    body = {"redirect_uris": ["http://127.0.0.1/callback"]} | about
    answer = flow.harness.client.post("/oauth/register", json=body)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert all(row.by != "self" for row in flow.harness.mint.db.oauth_clients.list())


@pytest.mark.sqlite
def test_it_is_off_without_the_switch(flow: Flow) -> None:
    """The metadata has no endpoint then, and a client of before is unknown."""
    harness, client = flow.harness, SelfRegistered(flow.harness)
    shown = harness.client.get("/.well-known/oauth-authorization-server").json()
    assert shown["registration_endpoint"] == f"{ISSUER}/oauth/register"
    set_clients(harness, register=False)
    assert "registration_endpoint" not in harness.client.get("/.well-known/oauth-authorization-server").json()
    answer = harness.client.post("/oauth/register", json=STOCK["mcp"])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert find_client(harness.mint, client.id) is None


def test_a_person_consents_and_a_kill_of_the_agent_ends_it(flow: Flow) -> None:
    """The page warns; the session is the agent's; the client gets nothing else; its row says when it was used."""
    harness = flow.harness
    stranger = Flow(harness, SelfRegistered(harness, client_name="<b>Orders</b> by Acme"))
    page = stranger.page()
    assert "This program has registered itself" in page.text
    assert "&lt;b&gt;Orders&lt;/b&gt; by Acme" in page.text
    assert "This program has registered itself" not in flow.page().text
    body = stranger.token()
    claims = claims_of(harness, body["access_token"])
    assert (claims.sub, claims.client_id) == (f"agent:{AGENT}", stranger.client.id)
    again = stranger.refresh(body["refresh_token"])
    assert again.status_code == 200, again.text
    for grant in ("client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"):
        asked = {"grant_type": grant, "client_id": stranger.client.id}
        answer = stranger.client.post("/oauth/token", {}, **asked)
        assert answer.json()["error"] == "unauthorized_client"
    shown = harness.operator().call("GET", f"/v1/clients/{stranger.client.id}").json()
    assert (shown["by"], shown["agent"], shown["name"]) == ("self", AGENT, "<b>Orders</b> by Acme")
    assert shown["expires_at"] == shown["used_at"] + CLIENTS.unused_ms
    harness.epochs.kill(f"agent:{AGENT}")
    refused = stranger.refresh(again.json()["refresh_token"])
    assert (refused.status_code, refused.json()["code"]) == (400, "revoked")


@pytest.mark.sqlite
def test_its_scopes_are_those_of_the_settings_now(flow: Flow) -> None:
    """Of a scope that the settings do not name it gets nothing, though its agent may have it."""
    stranger = Flow(flow.harness, SelfRegistered(flow.harness, scope="refund"))
    begun = stranger.begin(scope="refund")
    assert stranger.answer_of(begun)["error"] == "invalid_scope"
    assert stranger.token(scope="lookup")["scope"] == "lookup"
    set_clients(flow.harness, scopes=("status",))
    assert stranger.answer_of(stranger.begin(scope="lookup"))["error"] == "invalid_scope"


@pytest.mark.servers
def test_an_operator_removes_one(
    idp: Issuer, tmp_path: Path, valkey: EmbeddedValkey, realm_name: str, database: str | None
) -> None:
    """Its access token is refused and its refresh token is of no use; the realm has the settings as a file."""
    lines = f'clients_agent = "{AGENT}"\nclients_scopes = ["lookup"]\nclients_register = true\n'
    policy, written = POLICY.format(issuer=idp.url), settings(idp.url) + lines
    with open_live(
        tmp_path / "realm", valkey.url, name=realm_name, database=database, policy=policy, settings=written
    ) as live:
        live.enrol()
        stranger = Flow(live, SelfRegistered(live))
        body = stranger.token()
        resource = Client(live, scopes=[], introspects=["orders"])
        assert resource.active(body["access_token"])
        removed = live.operator().call("DELETE", f"/v1/clients/{stranger.client.id}")
        assert removed.status_code == 200, removed.text
        assert not resource.active(body["access_token"])
        assert stranger.refresh(body["refresh_token"]).json()["error"] == "invalid_client"


def test_those_that_are_not_used_expire(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a day without an access token, or the time of the settings; then their rows are deleted."""
    harness = flow.harness
    idle, used = SelfRegistered(harness), SelfRegistered(harness)
    Flow(harness, used).token()
    db, now = harness.mint.db.oauth_clients, [0]
    row = db.find(used.id)
    assert row is not None
    now[0] = end_of_unused(row, CLIENTS.unused_ms) - 1
    for module in ("db.repositories.oauth.oauth_clients", "oauth.client.clients"):
        monkeypatch.setattr(f"arx_caps.mint.{module}.now_ms", lambda: now[0])
    assert find_client(harness.mint, idle.id) is None
    assert find_client(harness.mint, used.id) is not None
    now[0] += 1
    assert find_client(harness.mint, used.id) is None
    db.prune(CLIENTS.unused_ms)
    assert db.find(idle.id) is None
    assert db.find(used.id) is not None  # its consent and its access token refer to it
    assert db.find(flow.client.id) is not None


def test_there_are_only_as_many_as_the_settings_allow(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are over do not count; those of an operator neither."""
    harness = flow.harness
    set_clients(harness, most=2)
    first, _ = SelfRegistered(harness), SelfRegistered(harness)
    answer = harness.client.post("/oauth/register", json=STOCK["mcp"])
    assert (answer.status_code, answer.json().get("error")) == (503, "temporarily_unavailable"), answer.text
    assert answer.headers["retry-after"] == "60"
    harness.operator().call("DELETE", f"/v1/clients/{first.id}")
    register(harness)
    late = harness.mint.db.oauth_clients.find(first.id).created_at + FRESH_MS + 60_000  # type: ignore[union-attr]
    monkeypatch.setattr("arx_caps.mint.db.repositories.oauth.oauth_clients.now_ms", lambda: late)
    last = register(harness)
    assert [row.id for row in harness.mint.db.oauth_clients.list() if row.by == "self"] == [last["client_id"]]
