# SPDX-License-Identifier: Apache-2.0
"""A sub-agent could escape a holder's restriction by way of a service that exchanges its token.

A delegation wrote into each token of a bundle what that token's own tools needed.  An amount was bounded in the token
for payments alone; the orders service exchanged its own token, which said nothing of it, for one for payments, and that
one allowed the whole amount.  A holder who left the one service that it had a token for took nothing away from those
that this service reaches, and neither did ``arx token delegate --audience``.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from arx_caps.agent import Task
from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.embedded import EmbeddedValkey
from arx_caps.service import Invitation, exchange_token, join_service
from arx_verifier.clock import now_ms
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.service import open_verifier
from tests.advisories.test_exchange_drops_the_attenuation import ALONE
from tests.agent.live import live_mint, serving
from tests.cli.helpers import arx
from tests.mint.harness import Harness, open_unit
from tests.mint.test_token_exchange import ORDER, POLICY, Shop, called
from tests.servers import FAST_LEASE_MS, begun_store, free_ports

WORKER = "acme/support/worker"
SMALL = {"amount": {"max": 20}}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_unit(tmp_path_factory.mktemp("attenuated") / "realm") as unit:
        yield Shop(unit)


def onwards(shop: Shop, task: Task, *services: str) -> dict[str, Any]:
    """What the last of these services gets for payments, after each gave the next one what it got."""
    text = called(task)
    for service, next_one in zip(services, (*services[1:], "payments"), strict=True):
        answer = shop.exchange(service, text, next_one)
        if "bundle" in answer and next_one != "payments":
            text = Task.from_text(answer["bundle"]).call_token(next_one, "ledger.add", ORDER)
    return answer


@pytest.mark.parametrize("services", [("orders",), ("orders", "ledger")])
@pytest.mark.parametrize("args", [SMALL, {"payments.refund": SMALL}], ids=["by argument", "by tool"])
def test_an_amount_stays_bounded_through_services(shop: Shop, args: dict[str, Any], services: tuple[str, ...]) -> None:
    """The token that the orders service gets for payments, itself or by way of another one, is attenuated as well."""
    worker = shop.start().delegate(WORKER, args=args)
    answer = onwards(shop, worker, *services)
    assert [shop.refund(answer, amount) for amount in (20, 21)] == ["ok", "argument_not_allowed"]


@pytest.mark.parametrize("first", ["attenuate", "delegate"])
def test_in_either_order(shop: Shop, first: str) -> None:
    """What was attenuated before or after the delegation, and tools that were left at both services, hold as well."""
    less: list[dict[str, Any]] = [{"args": SMALL}, {"tools": ["orders.get", "payments.refund"]}]
    task = shop.start()
    for way, step in zip(["attenuate", "delegate"], less if first == "attenuate" else less[::-1], strict=True):
        task = task.attenuate(**step) if way == "attenuate" else task.delegate(WORKER, **step)
    answer = onwards(shop, task, "orders")
    assert [shop.refund(answer, amount) for amount in (20, 21)] == ["ok", "argument_not_allowed"]
    assert shop.refund(onwards(shop, task.attenuate(tools=["orders.get"]), "orders"), 5) == "tool_not_allowed"


@pytest.mark.servers
@pytest.mark.sqlite
@pytest.mark.realm(lease_ms=FAST_LEASE_MS)
def test_the_only_service_that_was_left_is_the_only_one(tmp_path: Path, live: Harness) -> None:
    """To leave the one service that one has a token for takes the others away that it reaches; so does the command."""
    shop = Shop(live, ALONE)
    task, file = shop.start(), tmp_path / "task"
    assert "access_token" in shop.exchange("orders", called(task))
    assert shop.exchange("orders", called(task.attenuate(audiences=["orders"])))["code"] == "wrong_audience"
    file.write_text(task.encode())
    given = arx("token", "delegate", WORKER, "--in", file, "--audience", "orders")
    assert shop.exchange("orders", called(Task.from_text(given.out)))["code"] == "wrong_audience"


@pytest.mark.servers
@pytest.mark.sqlite
@pytest.mark.realm(lease_ms=FAST_LEASE_MS)
def test_whom_the_agent_excluded_at_the_mint_is_no_service(live: Harness) -> None:
    """A token that may be delegated to one agent alone, as its agent attenuated it, is got by no service."""
    shop = Shop(live, POLICY)
    task = shop.start()
    body = {"caveats": {"orders": [], "payments": [{"delegate_to": [WORKER]}]}}
    answer = shop.agent.call("POST", f"/v1/tasks/{task.id}/attenuate", body).json()
    assert shop.exchange("orders", called(Task.from_text(answer["bundle"])))["code"] == "name_not_allowed"


SETTLING = """
[audience.orders]
origins = ["{orders}"]

[audience.payments]
origins = ["{payments}"]

[session]
agents = ["acme/**"]
ttl = "1h"

[task.settle]
agents = ["acme/support/*"]
params = {{ order_id = {{ max_length = 8 }} }}
ttl = "10m"
depth = 2
audience = ["orders", "payments"]
exchange = {{ orders = ["payments"] }}
allow = [
  {{ tool = "orders.list", any = true }},
  {{ tool = "orders.settle", args = {{ order_id = "$order_id", claim = {{ range = [1, 100] }} }} }},
  {{ tool = "payments.refund", args = {{ order_id = "$order_id", amount = {{ range = [1, 100] }} }} }},
]
"""


@pytest.mark.servers
def test_with_real_services(tmp_path: Path, valkey: EmbeddedValkey) -> None:
    """A worker has a claim settled: the orders service refunds it at payments, as much as the worker was left."""
    port, orders_port, payments_port = free_ports(3)
    at = {"orders": f"http://127.0.0.1:{orders_port}", "payments": f"http://127.0.0.1:{payments_port}"}

    def refund(token: str, order_id: str, amount: int) -> httpx.Response:
        with httpx.Client(auth=exchange_token(tmp_path / "orders.json", token, "payments").auth()) as client:
            return client.post(f"{at['payments']}/refunds", json={"order_id": order_id, "amount": amount})

    async def settle(request: Request) -> JSONResponse:
        token, claim = request.scope["arx"].token, (await request.json())["claim"]
        answer = await asyncio.to_thread(refund, token, request.path_params["order_id"], claim)
        return JSONResponse({"status": answer.status_code, "said": answer.json()})

    async def say(request: Request) -> JSONResponse:
        return JSONResponse(dict(request.query_params) or await request.json())

    routes = [Route("/orders", say), Route("/orders/{order_id}/settle", settle, methods=["POST"])]
    tools = {"GET /orders": "orders.list", "POST /orders/{order_id}/settle": "orders.settle"}
    paying = Starlette(routes=[Route("/refunds", say, methods=["POST"])])
    with (
        begun_store(valkey.url, "onwards", lease_ms=FAST_LEASE_MS),
        live_mint(tmp_path / "mint", store_url=valkey.url, name="onwards", port=port) as mint,
        mint.service("payments") as payments,
        serving(ArxMiddleware(paying, verifier=payments, tools={"POST /refunds": "payments.refund"}), payments_port),
    ):
        mint.operator("POST", "/v1/policies", {"policy": SETTLING.format(**at)})
        reply = mint.operator("POST", "/v1/services/invitations", {"audience": "orders"})
        client = MintClient(mint.realm.issuer, now=now_ms)
        invitation = Invitation(audience="orders", enrolment=reply["enrolment"], issuer=mint.realm.issuer)
        join_service(invitation, client, out=tmp_path / "orders.json", key_out=tmp_path / "orders.key")
        client.close()
        guarded = ArxMiddleware(Starlette(routes=routes), verifier=open_verifier(tmp_path / "orders.json"), tools=tools)
        with (
            serving(guarded, orders_port),
            mint.agent("acme/support/triage") as agent,
            agent.open_session() as session,
            session.start_task("settle", order_id="o-1") as task,
        ):
            worker = Task.from_text(task.delegate(WORKER, args=SMALL, ttl="60s").encode())
            with httpx.Client(auth=worker.auth(), base_url=at["orders"]) as work:
                assert work.get("/orders", params={"page": "2"}).json() == {"page": "2"}  # has no amount: stays
                assert work.get("/orders", params={"amount": "5"}).status_code == 403
                settled = [work.post("/orders/o-1/settle", json={"claim": claim}).json() for claim in (20, 21)]
    assert settled[0] == {"status": 200, "said": {"order_id": "o-1", "amount": 20}}
    assert (settled[1]["status"], settled[1]["said"]["code"]) == (403, "argument_not_allowed")
