# SPDX-License-Identifier: Apache-2.0
"""A decider of ``arx up --gateway``: it is enrolled by itself, takes access tokens, and is read again."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.dpop import Prover
from tests.gateway.test_ext_mcp import Site
from tests.gateway.test_gateway import started
from tests.gateway.test_oauth import OAuthWorld
from tests.servers import free_ports, until

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.spec("8.5", "CONTROL 5.5", "CONTROL 5.11")]
TABLE = """
[decider.shop]
kind = "forward-auth"
listen = "127.0.0.1:{port}"
audience = "billing"
service = "shop.json"
resource = "http://127.0.0.1:{billing}/shop"
[decider.shop.routes]
"GET /orders/{{order_id}}?{{limit:int}}" = "billing.get"
"POST /orders/{{order_id}}/refund" = "billing.refund"
"POST /files/{{name}}" = "billing.upload"
"""
MCP = """
[decider.tools]
kind = "ext-mcp"
listen = "127.0.0.1:{port}"
audience = "orders"
service = "tools.json"
backend = "shop"
resource = "http://127.0.0.1:{orders}/tools"
"""
# A task whose calls may have any body, as far as the rules go.
UPLOAD = """
[task.upload]
agents = ["acme/**"]
ttl = "10m"
audience = ["billing"]
allow = [ { tool = "billing.upload", any = true } ]
"""


class DeciderWorld(OAuthWorld):
    """A realm whose gateway has a decider too."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.shop, self.tools = free_ports(2)

    def write(self, more: str = "") -> None:
        """Write the gateway's file, with the decider."""
        super().write(more)
        file = self.folder / "gateway.toml"
        mcp = MCP.format(port=self.tools, orders=self.orders)
        file.write_text(file.read_text() + mcp + TABLE.format(port=self.shop, billing=self.billing))

    def url(self, name: str) -> str:
        """The URL of an upstream, or of the decider."""
        return f"http://127.0.0.1:{self.shop}/" if name == "shop" else super().url(name)

    def ask(self, token: str, method: str, target: str) -> httpx.Response:
        """Ask as a proxy does."""
        headers = {"x-forwarded-method": method, "x-forwarded-uri": target, "authorization": f"Bearer {token}"}
        return httpx.get(self.url("shop"), headers=headers, timeout=30)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One realm with its gateway for the tests of this file."""
    yield from started(DeciderWorld(tmp_path_factory.mktemp("decider")), UPLOAD, proofs=True)


def challenge_of(world: DeciderWorld) -> str:
    headers = {"x-forwarded-method": "GET", "x-forwarded-uri": "/orders/o-1"}
    return httpx.get(world.url("shop"), headers=headers, timeout=30).headers["www-authenticate"]


def test_a_stock_client_passes_a_proxy_with_an_access_token(world: DeciderWorld) -> None:
    """It learns from the challenge where to get one; a kill ends it, and records have the assurance of a handle."""
    found = re.search('resource_metadata="([^"]*)"', challenge_of(world))
    assert found is not None
    about = httpx.get(found[1], timeout=30).json()
    assert about["resource"] == f"http://127.0.0.1:{world.billing}/shop"
    upload = world.token_for(world.client_of("upload"), about, "upload")
    assert world.ask(upload, "POST", "/files/a").status_code == 200
    client = world.client_of("refund")
    token = world.token_for(client, about)
    for _ in range(2):
        answer = world.ask(token, "GET", "/orders/o-1?limit=5")
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-arx-agent"] == f"acme/a{world.agents}"
    refused = world.ask(token, "GET", "/orders/o-2")
    assert (refused.status_code, refused.headers["x-arx-reason"]) == (403, "argument_not_allowed")
    unseen = world.ask(token, "POST", "/orders/o-1/refund")
    assert (unseen.status_code, unseen.headers["x-arx-reason"]) == (403, "request_unseen")
    other = world.ask(world.token(client, "billing"), "GET", "/orders/o-1")
    assert (other.status_code, other.headers["x-arx-reason"]) == (401, "wrong_audience")
    world.kill("agent", f"acme/a{world.agents}")
    assert world.ask(token, "GET", "/orders/o-1").headers["x-arx-reason"] == "revoked"
    shown = world.arx("decisions", "--journal", str(world.folder / "shop.json"))["decisions"]
    mine = [each for each in shown if each["agent"] == f"acme/a{world.agents}"]
    assert {each["assurance"] for each in mine} == {"handle"}
    assert len([each for each in mine if each["outcome"] == "allow"]) == 2


def test_a_stock_client_of_mcp_passes_agentgateway_with_an_access_token(world: DeciderWorld) -> None:
    """A call by its arguments, a list by its reference; a kill ends both."""
    asker = Site.__new__(Site)
    asker.port = world.tools
    about = httpx.get(f"http://127.0.0.1:{world.orders}/.well-known/oauth-protected-resource/tools", timeout=30).json()
    token = world.token_for(world.client_of("refund"), about)
    headers = [{"key": "authorization", "value": f"Bearer {token}".encode()}]
    for order, result in (("o-1", "pass"), ("o-2", "error")):
        call = {"name": "get", "arguments": {"order_id": order}}
        answer = asker.request("tools/call", call, headers=headers)
        assert answer.WhichOneof("result") == result, answer
    listed = asker.request("tools/list", headers=headers)
    assert [*listed.header_mutation.remove] == ["authorization"]
    tools = {"tools": [{"name": "get"}, {"name": "drop"}]}
    shown = asker.response("tools/list", tools, listed.metadata["arx"])
    assert json.loads(shown.mutated) == {"tools": [{"name": "get"}]}
    world.arx("kill", "agent", f"acme/a{world.agents}", "--reason", "a test", "--yes")
    until(lambda: asker.request("tools/list", headers=headers).WhichOneof("result") == "error")


def test_a_bound_token_is_proven_for_the_url_that_the_client_asked(world: DeciderWorld) -> None:
    """And not for that at which the proxy asks; a proof passes once."""
    prover, mint = Prover(), f"http://127.0.0.1:{world.mint}/oauth/token"
    form = {"grant_type": "client_credentials", "resource": f"http://127.0.0.1:{world.billing}/shop"}
    headers = {"dpop": prover.proof("POST", mint)}
    issued = httpx.post(mint, data=form, auth=world.client_of("refund"), headers=headers, timeout=30).json()
    asked = {"x-forwarded-method": "GET", "x-forwarded-uri": "/orders/o-1?limit=5"}

    def ask(url: str) -> dict[str, str]:
        return asked | prover.headers("GET", url, issued["access_token"])

    proven = ask(f"http://127.0.0.1:{world.billing}/orders/o-1")
    assert httpx.get(world.url("shop"), headers=proven, timeout=30).status_code == 200
    for headers, reason in ((proven, "replayed"), (ask(world.url("shop")), "proof_invalid")):
        answer = httpx.get(world.url("shop"), headers=headers, timeout=30)
        assert (answer.status_code, answer.headers["x-arx-reason"]) == (401, reason)
        assert answer.headers["www-authenticate"].startswith("DPoP ")


def test_the_address_of_a_decider_is_for_questions_alone(world: DeciderWorld) -> None:
    """A 200 there lets a request pass: nothing else is served."""
    for path in ("/healthz", "/metrics", "/.well-known/oauth-protected-resource/shop", "/billing/orders/o-1"):
        assert httpx.get(f"http://127.0.0.1:{world.shop}{path}", timeout=30).status_code == 400
    own = f"http://127.0.0.1:{world.billing}"
    assert httpx.get(f"{own}/shop", timeout=30).status_code == 404
    assert httpx.get(f"{own}/readyz", timeout=30).status_code == 200
    assert 'arx_gateway_ready{upstream="shop"} 1.0' in httpx.get(f"{own}/metrics", timeout=30).text


def test_a_check_prints_the_routes(world: DeciderWorld) -> None:
    """With the address at which the proxy asks."""
    row, tools = sorted(world.arx("gateway", "--check", "gateway.toml")["deciders"], key=lambda each: each["name"])
    assert (tools["kind"], tools["routes"]) == ("ext-mcp", {})
    assert (row["name"], row["kind"], row["target"]) == ("shop", "forward-auth", f"127.0.0.1:{world.shop}")
    assert row["routes"]["POST /orders/{order_id}/refund"] == "billing.refund"


def test_a_decider_is_read_again(world: DeciderWorld) -> None:
    """But for its address; an access token of before goes on."""
    about = {
        "resource": f"http://127.0.0.1:{world.billing}/shop",
        "authorization_servers": [f"http://127.0.0.1:{world.mint}"],
    }
    token = world.token_for(world.client_of("refund"), about)
    assert world.ask(token, "GET", "/v2/orders/o-1").headers["x-arx-reason"] == "tool_not_allowed"
    file = world.folder / "gateway.toml"
    text = file.read_text()
    file.write_text(f'{text}"GET /v2/orders/{{order_id}}" = "billing.get"\n')
    os.kill(world.pid, signal.SIGHUP)
    until(lambda: world.ask(token, "GET", "/v2/orders/o-1").status_code == 200)
    file.write_text(text.replace(f":{world.shop}", ":1"))
    os.kill(world.pid, signal.SIGHUP)
    until(lambda: "decider: `listen` and `kind` are read at a start alone" in world.log())
    assert world.ask(token, "GET", "/v2/orders/o-1").status_code == 200
    file.write_text(text)
    os.kill(world.pid, signal.SIGHUP)
    until(lambda: world.ask(token, "GET", "/orders/o-1").status_code == 200)
