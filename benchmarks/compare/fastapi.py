# SPDX-License-Identifier: Apache-2.0
"""FastAPI behind uvicorn, called over HTTP with httpx."""

import base64
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from fastapi import Body, Depends, FastAPI, Request

from benchmarks.compare import stage
from benchmarks.compare.stage import Desk, Framework, get_order, refund
from tests.adapters.asgi_server import serving

Call = Callable[[str, dict[str, Any]], httpx.Response]


def bare() -> FastAPI:
    """Return the service without a product."""
    app = FastAPI()

    @app.get("/orders/{order_id}")
    async def show(order_id: str, note: str) -> str:
        return get_order(order_id, note)

    @app.post("/orders/{order_id}/refund")
    async def pay(order_id: str, amount: int = Body(), note: str = Body()) -> str:
        return refund(order_id, amount, note)

    return app


def arx_service() -> FastAPI:
    """Return the guarded service."""
    from arx_verifier import open_verifier
    from arx_verifier.integrations import fastapi as arx_fastapi

    app = bare()
    arx_fastapi.guard(app, open_verifier("orders.json"), tools={"show": "orders.get", "pay": "orders.refund"})
    return app


def arx_clients(url: str) -> tuple[httpx.Client, httpx.Client]:
    """Return the desk's client and that of its worker."""
    from arx_caps.agent import Agent

    task = Agent.from_key_file("desk.json").open_session().start_task("desk")
    part = task.delegate("acme/worker", tools=["orders.refund"], args={"amount": {"max": 10}})
    desk, worker = (httpx.Client(base_url=url, auth=each.auth()) for each in (task, part))
    return desk, worker


def tenuo_service(root: Any) -> FastAPI:
    """Return the guarded service; it trusts the key of ``root``."""
    from tenuo import HolderIdentity, Runtime
    from tenuo.fastapi import TenuoGuard, configure_tenuo, extract_body_args

    app = FastAPI()
    configure_tenuo(app, runtime=Runtime(HolderIdentity.generate(), [root]).install())

    async def of_refund(request: Request) -> dict[str, Any]:
        return {**request.path_params, **await extract_body_args(request)}

    @app.get("/orders/{order_id}", dependencies=[Depends(TenuoGuard("get_order"))])
    async def show(order_id: str, note: str) -> str:
        return get_order(order_id, note)

    @app.post("/orders/{order_id}/refund", dependencies=[Depends(TenuoGuard("refund", extract_args=of_refund))])
    async def pay(order_id: str, amount: int = Body(), note: str = Body()) -> str:
        return refund(order_id, amount, note)

    return app


def tenuo_headers(root: Any) -> tuple[Callable[..., dict[str, str]], Callable[..., dict[str, str]], Any, Any]:
    """Return what makes the headers of a call for the desk, and for its worker."""
    from tenuo import Exact, Range, SigningKey, Warrant, Wildcard, encode_warrant_stack

    key, worker_key = SigningKey.generate(), SigningKey.generate()
    warrant = (
        Warrant.mint_builder()
        .capability("get_order", order_id=Exact("o-1"), note=Wildcard())
        .capability("refund", order_id=Exact("o-1"), amount=Range(1, 20), note=Wildcard())
        .holder(key.public_key)
        .ttl(600)
        .mint(root)
    )
    part = (
        warrant.grant_builder()
        .capability("refund", order_id=Exact("o-1"), amount=Range(1, 10), note=Wildcard())
        .holder(worker_key.public_key)
        .ttl(300)
        .grant(key)
    )
    chain = {"X-Tenuo-Warrant": encode_warrant_stack([warrant, part])}

    def of_desk(tool: str, args: dict[str, Any]) -> dict[str, str]:
        return warrant.headers(key, tool, args)  # type: ignore[no-any-return]

    def of_worker(tool: str, args: dict[str, Any]) -> dict[str, str]:
        return part.headers(worker_key, tool, args) | chain  # type: ignore[no-any-return]

    return of_desk, of_worker, warrant, key


def tenuo_unchecked(warrant: Any, key: Any) -> Callable[..., dict[str, str]]:
    """Return what makes a call's headers without the check that tenuo makes first, to see what the service says."""

    def headers(tool: str, args: dict[str, Any]) -> dict[str, str]:
        proof = base64.b64encode(warrant.sign(key, tool, args, int(time.time()))).decode()
        return {"X-Tenuo-Warrant": warrant.to_base64(), "X-Tenuo-PoP": proof}

    return headers


def _request(tool: str, args: dict[str, Any]) -> tuple[str, str, Any]:
    path, note = f"/orders/{args['order_id']}", args["note"]
    if tool == "get_order":
        return "GET", f"{path}?note={note}", None
    return "POST", f"{path}/refund", {"amount": args["amount"], "note": note}


def _desk(call: Call, worker: Call) -> Desk:
    made: list[httpx.Request] = []

    def ask(tool: str, args: dict[str, Any], call: Call = call) -> str:
        try:
            answer = call(tool, args)
        except RuntimeError as error:  # tenuo's check before the call is sent
            return str(error)
        made[:] = [answer.request]
        return _read(answer)

    def replay() -> str:
        with httpx.Client() as client:
            return _read(client.send(made[0]))

    return Desk(ask, lambda amount: ask(*stage.pay(amount), worker), replay=replay)


def _read(answer: httpx.Response) -> str:
    return answer.text if answer.is_success else f"{answer.status_code} {answer.text}"


def _calling(client: httpx.Client, headers: Callable[..., dict[str, str]] = lambda _, __: {}) -> Call:
    def call(tool: str, args: dict[str, Any]) -> httpx.Response:
        method, path, body = _request(tool, args)
        return client.request(method, path, json=body, headers=headers(tool, args))

    return call


@contextlib.contextmanager
def with_arx() -> Iterator[Desk]:
    """The desk with ARx."""
    with serving(arx_service(), stage.SERVICE_PORT) as port:
        desk, worker = arx_clients(f"http://127.0.0.1:{port}")
        with desk, worker:
            yield _desk(_calling(desk), _calling(worker))


@contextlib.contextmanager
def without() -> Iterator[Desk]:
    """The desk without a product."""
    with serving(bare()) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        yield _desk(_calling(client), _calling(client))


@contextlib.contextmanager
def with_tenuo() -> Iterator[Desk]:
    """The desk with tenuo."""
    from tenuo import SigningKey
    from tenuo.fastapi import get_tenuo_config

    root = SigningKey.generate()
    of_desk, of_worker, warrant, key = tenuo_headers(root)
    with (
        serving(tenuo_service(root.public_key)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        desk = _desk(_calling(client, of_desk), _calling(client, of_worker))
        unchecked = _desk(_calling(client, tenuo_unchecked(warrant, key)), _calling(client))

        def detailed() -> str:
            get_tenuo_config()["expose_error_details"] = True
            try:
                return unchecked.ask(*stage.pay(50))
            finally:
                get_tenuo_config()["expose_error_details"] = False

        yield desk._replace(
            kill=lambda: stage.revoke(root, warrant),
            at_service=lambda: unchecked.ask(*stage.pay(50)),
            detailed=detailed,
        )


if __name__ == "__main__":
    stage.main(
        Framework(
            without,
            with_arx,
            with_tenuo,
            ((arx_service, arx_clients), (tenuo_service, tenuo_headers)),
            ("fastapi", "starlette", "uvicorn"),
        )
    )
