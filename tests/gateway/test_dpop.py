# SPDX-License-Identifier: Apache-2.0
"""A gateway that takes access tokens bound to a key of the client (RFC 9449); PyJWT makes the proofs."""

import time
from typing import Any

import httpx
import pytest

from tests.dpop import Prover
from tests.gateway.test_gateway import started
from tests.gateway.test_oauth import OAuthWorld, checked
from tests.house.pages import ROOT, blocks

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 5.11")]
ALGORITHMS = 'algs="ES256 EdDSA Ed25519"'
POLICY = """
[task.bound]
agents = ["acme/**"]
ttl = "10m"
bearer = "dpop"
audience = ["billing"]
allow = [ { tool = "billing.get", args = { order_id = "o-1" } } ]
"""


class DpopWorld(OAuthWorld):
    """A realm whose upstream ``orders`` demands bound access tokens."""

    def write(self, more: str = "") -> None:
        """Write the gateway's file."""
        super().write(more)
        file = self.folder / "gateway.toml"
        line = 'audience = "orders"\n'
        file.write_text(file.read_text().replace(line, f"{line}dpop = true\n"))

    def issued(self, prover: Prover | None, name: str = "billing", scope: str = "refund") -> httpx.Response:
        """The mint's answer to a client that sends a proof, or none."""
        url = f"http://127.0.0.1:{self.mint}/oauth/token"
        form = {"grant_type": "client_credentials", "scope": scope, "resource": self.url(name)}
        headers = {} if prover is None else {"dpop": prover.proof("POST", url)}
        return httpx.post(url, data=form, auth=self.client_of("refund", "bound"), headers=headers)

    def bound(self, prover: Prover | None, name: str = "billing") -> str:
        """An access token that is bound to a key; without one, a bearer token."""
        answer = self.issued(prover, name)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One realm with its gateway for the tests of this file."""
    yield from started(DpopWorld(tmp_path_factory.mktemp("dpop")), POLICY, proofs=True)


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", None])
def test_each_call_is_proven_and_recorded_as_such(world: DpopWorld, algorithm: str | None) -> None:
    """A bearer token goes on as one: its records do not say that a key was proven."""
    prover = None if algorithm is None else Prover(algorithm)
    token, url = world.bound(prover), f"{world.url('billing')}/orders/o-1"
    for _ in range(2):
        headers = {"authorization": f"Bearer {token}"} if prover is None else prover.headers("GET", url, token)
        assert httpx.get(f"{url}?limit=5", headers=headers).json()["query"] == "limit=5"
    shown = world.arx("decisions", "--journal", str(world.folder / "billing.json"))["decisions"]
    mine = {each["assurance"] for each in shown if each["agent"] == f"acme/a{world.agents}"}
    assert mine == {"handle" if prover is None else "handle-dpop"}


def test_a_thief_of_an_access_token_gets_nothing(world: DpopWorld) -> None:
    """Without the key, with a proof of another call, with one that was used: 401 each, and no call is made."""
    prover, url = Prover(), f"{world.url('billing')}/orders/o-1"
    token, other = world.bound(prover), world.bound(prover)
    proof = {"dpop": prover.proof("GET", url, token)}
    scheme = {"authorization": f"DPoP {token}"}
    assert httpx.get(url, headers=scheme | proof).status_code == 200
    now = int(time.time())
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"authorization": f"Bearer {token}"}, "invalid_token", "proof_missing"),
        (prover.headers("GET", url, token) | {"authorization": f"Bearer {token}"}, "invalid_token", "proof_missing"),
        (scheme, "invalid_dpop_proof", "proof_invalid"),
        (scheme | proof, "invalid_dpop_proof", "replayed"),
        (scheme | {"dpop": ""}, "invalid_dpop_proof", "proof_invalid"),
        (scheme | {"dpop": token}, "invalid_dpop_proof", "proof_invalid"),
        (Prover().headers("GET", url, token), "invalid_dpop_proof", "proof_invalid"),
        (prover.headers("POST", url, token), "invalid_dpop_proof", "proof_invalid"),
        (prover.headers("GET", f"{world.url('billing')}/orders/o-2", token), "invalid_dpop_proof", "proof_invalid"),
        (prover.headers("GET", f"{url}?limit=5", token), "invalid_dpop_proof", "proof_invalid"),
        (prover.headers("GET", url.replace("127.0.0.1", "localhost"), token), "invalid_dpop_proof", "proof_invalid"),
        (prover.headers("GET", url, other) | scheme, "invalid_dpop_proof", "proof_invalid"),
        (scheme | {"dpop": prover.proof("GET", url)}, "invalid_dpop_proof", "proof_invalid"),
        (prover.headers("GET", url, token, iat=now - 40), "invalid_dpop_proof", "proof_invalid"),
        (prover.headers("GET", url, token, iat=now + 20), "invalid_dpop_proof", "proof_invalid"),
        (prover.headers("GET", url, token, header={"typ": "JWT"}), "invalid_dpop_proof", "proof_invalid"),
        (prover.headers("GET", url, token, header={"jwk": prover.private_jwk}), "invalid_dpop_proof", "proof_invalid"),
    ]
    for headers, error, code in wrong:
        answer = httpx.get(url, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, code), headers
        challenge = answer.headers["www-authenticate"]
        assert challenge.startswith("DPoP "), challenge
        assert f'error="{error}"' in challenge
        assert ALGORITHMS in challenge
        assert "Bearer " not in challenge
    two = [*scheme.items(), *(("dpop", prover.proof("GET", url, token)) for _ in range(2))]
    assert httpx.get(url, headers=two).json()["code"] == "proof_invalid"
    assert httpx.get(url, headers=prover.headers("GET", url, token)).status_code == 200


def test_a_proof_with_a_bearer_token_is_refused(world: DpopWorld) -> None:
    """The client believes that its token is bound, and it is not."""
    prover, url = Prover(), f"{world.url('billing')}/orders/o-1"
    token = world.bound(None)
    for headers in (
        prover.headers("GET", url, token),
        {"authorization": f"DPoP {token}"},
        prover.headers("GET", url, token) | {"authorization": f"Bearer {token}"},
    ):
        answer = httpx.get(url, headers=headers)
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert httpx.get(url, headers={"authorization": f"Bearer {token}"}).status_code == 200


def test_the_policy_and_the_gateway_demand_bound_tokens(world: DpopWorld) -> None:
    """The mint issues no other one for the task, and the gateway takes no other one for the upstream."""
    refused = world.issued(None, scope="bound")
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_dpop_proof")
    assert world.issued(Prover(), scope="bound").json()["token_type"] == "DPoP"
    none = httpx.get(world.url("orders"))
    assert none.headers.get_list("www-authenticate")[0].startswith("DPoP ")
    bearer = httpx.post(world.url("orders"), headers={"authorization": f"Bearer {world.bound(None, 'orders')}"})
    assert (bearer.status_code, bearer.json()["code"]) == (401, "proof_missing")
    both = httpx.get(world.url("billing")).headers.get_list("www-authenticate")
    assert [each.partition(" ")[0] for each in both] == ["Bearer", "DPoP"]
    for name, demanded in (("orders", True), ("billing", False)):
        port = world.orders if name == "orders" else world.billing
        about = httpx.get(f"http://127.0.0.1:{port}/.well-known/oauth-protected-resource/{name}").json()
        assert about["dpop_bound_access_tokens_required"] is demanded
        assert about["dpop_signing_alg_values_supported"] == ["ES256", "EdDSA", "Ed25519"]
        _, checks = checked(world, world.url(name))
        assert checks["proofs"]["ok"] is True
        assert ("must be bound" in checks["proofs"]["found"]) is demanded


def test_an_mcp_server_is_called_with_a_bound_token(world: DpopWorld) -> None:
    """A proof for each message, the session's first one included."""
    prover, url = Prover("EdDSA"), world.url("orders")
    token = world.bound(prover, "orders")

    def sent(message: dict[str, Any], session: str = "") -> httpx.Response:
        headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
        headers |= prover.headers("POST", url, token) | ({"mcp-session-id": session} if session else {})
        return httpx.post(url, json={"jsonrpc": "2.0", **message}, headers=headers, timeout=30)

    about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    session = sent({"id": 1, "method": "initialize", "params": about}).headers["mcp-session-id"]
    assert sent({"method": "notifications/initialized"}, session).is_success
    call = {"id": 2, "method": "tools/call", "params": {"name": "get", "arguments": {"order_id": "o-1"}}}
    assert sent(call, session).json()["result"]["content"][0]["text"] == "o-1 is on its way"


def test_a_kill_ends_a_bound_token(world: DpopWorld) -> None:
    """The challenge has the scheme of the client."""
    prover, url = Prover(), f"{world.url('billing')}/orders/o-1"
    token = world.bound(prover)
    assert httpx.get(url, headers=prover.headers("GET", url, token)).status_code == 200
    world.kill("agent", f"acme/a{world.agents}")
    refused = httpx.get(url, headers=prover.headers("GET", url, token))
    assert (refused.status_code, refused.json()["code"]) == (401, "revoked")
    assert refused.headers["www-authenticate"].startswith("DPoP ")


@pytest.mark.slow
def test_the_example_of_the_page(world: DpopWorld) -> None:
    """It gets a bound token and makes a call with it."""
    page = (ROOT / "docs" / "oauth.md").read_text(encoding="utf-8")
    [example] = [block.text for block in blocks(page) if "dpop+jwt" in block.text]
    names = {"MINT": f"http://127.0.0.1:{world.mint}", "RESOURCE": world.url("billing")}
    ran: dict[str, Any] = names | {"CLIENT": world.client_of("refund")}
    exec(compile(example, "oauth.md", "exec"), ran)
    assert (ran["issued"]["token_type"], ran["answer"].status_code) == ("DPoP", 200)
