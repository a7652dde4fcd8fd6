# SPDX-License-Identifier: Apache-2.0
"""A real server around a real application: it checks, runs, journals and shows what a client signs."""

import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from arx_caps.text.trail import trail
from arx_verifier.constraints.rule import Rule
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.journal.reader import read_journal
from arx_verifier.journal.writer import Journal
from arx_verifier.request import HttpCall
from arx_verifier.token.call_proof import CallSigner, http_fields
from arx_verifier.token.caveats import Caveat
from tests.agent.live import serving
from tests.verifier.serving import Realm

pytestmark = pytest.mark.servers


async def refund(request: Request) -> JSONResponse:
    body = await request.json()
    return JSONResponse(
        {"order": request.path_params["order_id"], "amount": body["amount"], "by": request["arx"].holder}
    )


@pytest.fixture
def service(tmp_path: Path, free_port: int) -> Iterator[tuple[Realm, str]]:
    realm = Realm(Journal(tmp_path, "v1", "orders"))  # type: ignore[arg-type]
    app = Starlette(routes=[Route("/orders/{order_id}/refund", refund, methods=["POST"])])
    guarded = ArxMiddleware(
        app, verifier=realm.verifier, tools={"POST /orders/{order_id}/refund?{note}&{x}": "orders.refund"}
    )
    with serving(guarded, free_port, lifespan="on"):
        yield realm, f"http://127.0.0.1:{free_port}"


def test_a_signed_call_goes_all_the_way(service: tuple[Realm, str], tmp_path: Path) -> None:
    """
    A delegation signs a call with an escaped path; it runs once, and the trail shows both outcomes under its
    name.
    """
    realm, url = service
    parent = realm.token(Caveat(require=("call",)), rules=(Rule(tool="orders.refund"),))
    signer = CallSigner(parent.delegate("acme/worker"), "orders")
    body = b'{"amount": 5}'
    with httpx.Client(base_url=url, trust_env=False) as client:
        sending = client.build_request("POST", "/orders/A%C3%A9 1/refund?note=a+b&x=%20", content=body)
        sending.headers["content-type"] = "application/json"
        fields = http_fields(HttpCall("POST", sending.url.raw_path, sha256(body).digest()))
        sending.headers["authorization"] = "Bearer " + signer.sign(fields, time.time_ns() // 1_000_000)
        first = client.send(sending)
        assert (first.status_code, first.json()) == (200, {"order": "Aé 1", "amount": 5, "by": "acme/worker"})
        second = client.send(sending)
        assert (second.status_code, second.json()["code"]) == (401, "replayed")
        assert client.get("/anything").json()["code"] == "missing_token"
        assert client.head("/anything").status_code == 401
    decisions = list(read_journal(tmp_path))
    story = trail(decisions, decisions[0].facts.session)
    (worker,) = story.tasks["t-aaaaaaaaaaaaaaaa"].children.values()
    assert [line.shown["code"] for line in worker.decisions] == ["ok", "replayed"]
    assert second.json()["decision"] == worker.decisions[1].shown["id"]
    assert first.headers["content-type"] == "application/json"
