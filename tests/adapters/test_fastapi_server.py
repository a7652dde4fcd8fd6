# SPDX-License-Identifier: Apache-2.0
"""The adapter of FastAPI: the example of its page, behind uvicorn, asked over HTTP."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, File, Form, UploadFile, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import APIKeyHeader
from websockets.exceptions import ConnectionClosed, InvalidStatus

from arx_verifier import Constraint, Grant, Rule, SettingsError
from arx_verifier.integrations.fastapi import current_grant, guard
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.readiness import Readiness, check_readiness, route
from tests.adapters.serving import connect, example, served

REFUND = Rule(tool="orders.refund", args={"order_id": "o-1", "amount": Constraint(max=20)})
GET = Rule(tool="orders.get", args={"order_id": "o-1"})


@pytest.fixture
def realm() -> UnsafeTestRealm:
    return UnsafeTestRealm("orders")


@pytest.fixture
def orders(realm: UnsafeTestRealm, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of the page's application."""
    with (
        served(example("fastapi", tmp_path)["make_app"](realm.verifier)) as address,
        httpx.Client(base_url=address) as http,
    ):
        yield http


def test_a_call_within_the_token_runs(realm: UnsafeTestRealm, orders: httpx.Client) -> None:
    """The function gets its grant, also for a sub-agent that the token was delegated to."""
    worker = realm.caller(GET).delegate("test/worker")
    answer = orders.get("/orders/o-1", auth=worker)
    assert answer.json() == {"order": "o-1", "for": "test/agent", "by": "test/worker"}
    assert orders.post("/orders/o-1/refund", json={"amount": 15}, auth=realm.caller(REFUND)).json() == {"refunded": 15}


def test_a_call_out_of_bounds_says_what_is_allowed(realm: UnsafeTestRealm, orders: httpx.Client) -> None:
    """A caller reads the code, the expected and the received value."""
    answer = orders.post("/orders/o-1/refund", json={"amount": 50}, auth=realm.caller(REFUND))
    assert (answer.status_code, answer.json()["code"]) == (403, "argument_not_allowed")
    assert answer.json()["failures"] == [{"place": "caveat 1", "rule": "amount max", "expected": "20", "came": "50"}]
    assert orders.get("/orders/o-1", auth=realm.caller(REFUND)).json()["code"] == "tool_not_allowed"


def test_a_kill_ends_the_sub_agent(realm: UnsafeTestRealm, orders: httpx.Client) -> None:
    """The next call is refused."""
    worker = realm.caller(GET).delegate("test/worker")
    assert orders.get("/orders/o-1", auth=worker).status_code == 200
    realm.epochs.kill("agent:test/worker")
    assert orders.get("/orders/o-1", auth=worker).json()["code"] == "revoked"


def test_public_routes_need_no_token(realm: UnsafeTestRealm, orders: httpx.Client) -> None:
    """A token changes nothing there, and no other route answers without one."""
    foreign = UnsafeTestRealm("other").caller(GET)
    for auth in (None, realm.caller(GET), foreign):
        for path in ("/healthz", "/docs", "/openapi.json"):
            assert orders.get(path, auth=auth).status_code == 200, path
    for path in ("/orders/o-1", "/redoc", "/nothing", "/healthz/", "/docs/oauth2-redirect"):
        assert orders.get(path).json()["code"] == "missing_token", path
    assert orders.post("/healthz").json()["code"] == "missing_token"
    assert orders.get("/redoc", auth=realm.caller(GET)).json()["code"] == "tool_not_allowed"


def test_the_document_shows_the_scheme(orders: httpx.Client) -> None:
    """A client generator learns which operations take a token."""
    document = orders.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["arx"]["scheme"] == "bearer"
    shown = {path: next(iter(each.values())).get("security") for path, each in document["paths"].items()}
    assert shown == {"/healthz": None, "/orders/{order_id}": [{"arx": []}], "/orders/{order_id}/refund": [{"arx": []}]}


def test_no_token_in_logs(realm: UnsafeTestRealm, orders: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG, after a call that ran, a refusal, a malformed call and a failure."""
    caplog.set_level(logging.DEBUG)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "fastapi"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    sent: list[str] = []
    orders.event_hooks = {"request": [lambda request: sent.append(request.headers["authorization"])]}
    agent = realm.caller(GET, REFUND)
    answers = [orders.get(path, auth=agent).text for path in ("/orders/o-1", "/orders/o-2", "/orders//o-1")]
    answers.append(orders.post("/orders/o-1/refund", content=b"{", auth=agent).text)
    seen = caplog.text + repr(answers) + repr(realm.decisions.decisions) + repr(agent)
    assert len(sent) == 4
    for value in sent:
        assert value.removeprefix("Bearer ")[:60] not in seen


def test_a_browser_reads_refusals_of_an_application_with_cors(realm: UnsafeTestRealm, tmp_path: Path) -> None:
    """The middleware is added after the guard, and so is around it; a preflight needs no token, and runs nothing."""
    app = example("fastapi", tmp_path)["make_app"](realm.verifier)
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.example"], allow_headers=["*"], allow_methods=["*"])
    with served(app) as address, httpx.Client(base_url=address) as http:
        browser = {"origin": "https://a.example"}
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        answers = [
            http.options("/orders/o-1/refund", headers=browser | asked),
            http.get("/orders/o-1", headers=browser),
            http.get("/orders/o-1", headers=browser, auth=realm.caller(REFUND)),
            http.get("/orders/o-1", headers=browser, auth=realm.caller(GET)),
        ]
    assert [answer.status_code for answer in answers] == [200, 401, 403, 200]
    assert {answer.headers["access-control-allow-origin"] for answer in answers} == {"https://a.example"}


def test_an_uploaded_file_is_judged_by_its_content(realm: UnsafeTestRealm) -> None:
    """Digest, size and type of the file and the text of each field are arguments; what is judged is what arrives."""
    ran: list[Any] = []
    app = FastAPI()

    @app.post("/files/{order_id}")
    async def attach(
        order_id: str, file: UploadFile, pages: Annotated[int, Form()], note: Annotated[str, Form()] = ""
    ) -> None:
        ran.append((order_id, await file.read(), file.content_type, pages, note))

    @app.post("/raw")
    def raw(file: Annotated[bytes, File()]) -> None:
        ran.append(file)

    guard(app, realm.verifier, tools={"attach": "files.attach", "raw": "files.raw"})
    agent = realm.caller(Rule(tool="files.attach"), Rule(tool="files.raw"))
    small = Constraint(fields={"digest": Constraint(any=True), "size": Constraint(max=5), "content_type": "text/plain"})
    few = realm.caller(Rule(tool="files.attach", args={"order_id": "o-1", "pages": "1", "note": "ok", "file": small}))
    with served(app) as address, httpx.Client(base_url=address) as http:
        files = {"file": ("a.txt", b"abc" * 1000, "text/plain")}
        assert http.post("/files/o-1", files=files, data={"pages": "2", "note": "ü"}, auth=agent).status_code == 200
        assert http.post("/raw", files={"file": ("a", b"\x00--\r\n")}, auth=agent).status_code == 200
        assert ran == [("o-1", b"abc" * 1000, "text/plain", 2, "ü"), b"\x00--\r\n"]
        answer = http.post("/files/o-1", files=files, data={"pages": "02"}, auth=agent)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
        data = {"pages": "1", "note": "ok"}
        for content, kind, status in ((b"abc", "text/plain", 200), (b"abcdef", "text/plain", 403), (b"a", "x/y", 403)):
            answer = http.post("/files/o-1", files={"file": ("a", content, kind)}, data=data, auth=few)
            assert answer.status_code == status, answer.text
        assert ran.pop() == ("o-1", b"abc", "text/plain", 1, "ok")
        answer = http.post("/files/o-1", files=[*files.items(), *files.items()], data={"pages": "1"}, auth=agent)
        assert answer.json()["code"] == "malformed_request"
    assert len(ran) == 2


def _live(ran: list[Any]) -> Any:
    async def live(
        websocket: WebSocket, order_id: int, grant: Annotated[Grant, Depends(current_grant)], full: bool = False
    ) -> None:
        await websocket.accept()
        ran.append((order_id, full, grant.tool))
        try:
            while True:
                await websocket.send_text(await websocket.receive_text())
        finally:
            ran.append("ended")

    return live


@pytest.mark.parametrize("included", [False, True])
def test_a_websocket_is_decided_at_its_handshake(realm: UnsafeTestRealm, included: bool) -> None:
    """Also of an included router, whose dependencies run after the decision; a kill ends the open connection."""
    ran: list[Any] = []
    app = FastAPI()
    router = APIRouter(dependencies=[Depends(lambda: ran.append("dependency"))]) if included else app.router
    router.add_api_websocket_route("/live/{order_id}", _live(ran))
    router.add_api_websocket_route("/other", _live(ran), name="other")
    if router is not app.router:
        app.include_router(router, prefix="/orders")
    prefix = "/orders" if included else ""
    rule = Rule(tool="orders.live", args={"order_id": Constraint(one_of=(7,)), "full": "true"})
    guard(app, realm.verifier, tools={"live": "orders.live"}, recheck_ms=50)
    agent = realm.caller(rule)
    with served(app) as address:
        for target, status, code in (
            (f"{prefix}/live/7", 403, "argument_not_allowed"),
            (f"{prefix}/live/007?full=true", 400, "malformed_request"),
            (f"{prefix}/other", 403, "tool_not_allowed"),
            ("/nothing", 403, "tool_not_allowed"),
        ):
            with pytest.raises(InvalidStatus) as refused:
                connect(address, target, agent)
            answer = refused.value.response
            assert (answer.status_code, json.loads(answer.body)["code"]) == (status, code), target
        with pytest.raises(InvalidStatus, match="401"):
            connect(address, f"{prefix}/live/7?full=true", None)
        assert ran == []
        with connect(address, f"{prefix}/live/7?full=true", agent) as socket:
            socket.send("hello")
            assert socket.recv(timeout=60) == "hello"
            realm.epochs.kill("agent:test/agent")
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(timeout=60)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "revoked")
        with pytest.raises(InvalidStatus, match="401"):
            connect(address, f"{prefix}/live/7?full=true", agent)
    assert ran == [*(["dependency"] if included else []), (7, True, "orders.live"), "ended"]


def _router(ran: list[Any]) -> APIRouter:
    router = APIRouter(dependencies=[Depends(lambda: ran.append("dependency"))])

    @router.get("/{order_id}", name="show-order")
    def show(order_id: int, grant: Annotated[Grant, Depends(current_grant)], limit: int = 10) -> None:
        ran.append((order_id, limit, grant.tool))

    @router.get("/public/{order_id}")
    def status(order_id: int, key: Annotated[str | None, Depends(APIKeyHeader(name="k", auto_error=False))]) -> None:
        ran.append(order_id)

    return router


def test_routes_of_an_included_router_have_names(realm: UnsafeTestRealm) -> None:
    """The route's name, the function's name, and a public route with a parameter and a scheme of its own."""
    ran: list[Any] = []
    app = FastAPI()
    app.include_router(_router(ran), prefix="/orders")
    guard(app, realm.verifier, tools={"show-order": "orders.get"}, public=["status"])
    agent = realm.caller(Rule(tool="orders.get"))
    with served(app) as address, httpx.Client(base_url=address) as http:
        assert http.get("/orders/7").json()["code"] == "missing_token"
        assert http.get("/orders/007", auth=agent).json()["code"] == "malformed_request"
        assert ran == []
        assert http.get("/orders/7?limit=2", auth=agent).status_code == 200
        assert http.get("/orders/public/7").status_code == 200
        assert http.get("/orders/public/7", auth=agent).status_code == 200
    assert ran == ["dependency", (7, 2, "orders.get"), "dependency", 7, "dependency", 7]
    paths = app.openapi()["paths"]
    assert paths["/orders/{order_id}"]["get"]["security"] == [{"arx": []}]
    assert paths["/orders/public/{order_id}"]["get"]["security"] == [{"APIKeyHeader": []}]


def test_a_name_of_no_route_or_of_two_is_an_error(realm: UnsafeTestRealm) -> None:
    """When guard is called, and not at the first request."""
    app = FastAPI()
    for prefix in ("/a", "/b"):
        app.include_router(_router([]), prefix=prefix)
    for name, value in (("nothing", "found 0"), ("show", "found 2"), ("/a/{order_id}", "is not a route")):
        with pytest.raises(SettingsError, match=value):
            guard(app, realm.verifier, tools={name: "orders.get"})
    with pytest.raises(SettingsError, match="expected a list"):
        guard(app, realm.verifier, tools={}, public="/docs")
    with pytest.raises(SettingsError, match="twice"):
        guard(app, realm.verifier, tools={"swagger_ui_html": "orders.docs"}, public=["/docs"])


def test_a_grant_is_asked_for_where_there_is_one(realm: UnsafeTestRealm) -> None:
    """A public route that asks for a grant fails, and does not run without one."""
    app = FastAPI()

    @app.get("/")
    def show(grant: Annotated[Grant, Depends(current_grant)]) -> str:
        return grant.agent

    guard(app, realm.verifier, tools={}, public=["show"])
    with served(app) as address:
        assert httpx.get(address).status_code == 500


def test_the_page_of_readiness(realm: UnsafeTestRealm) -> None:
    """Its route answers as the lease is, and needs no token."""
    app = FastAPI()
    route("FastAPI", app=app, verifier=realm.verifier)
    guard(app, realm.verifier, tools={}, public=["readyz"])
    with served(app) as address, httpx.Client(base_url=address, timeout=60) as client:

        def ask() -> Readiness:
            answer = client.get("/readyz")
            return answer.status_code, answer.json()["why"]

        check_readiness(realm, ask)
