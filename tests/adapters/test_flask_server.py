# SPDX-License-Identifier: Apache-2.0
"""The adapter of Flask: the example of its page, behind Werkzeug's server and gunicorn, asked over HTTP."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Blueprint, Flask, abort, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.serving import make_server

from arx_verifier import ArxWSGI, Constraint, Rule, SettingsError
from arx_verifier.integrations.flask import guard
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.readiness import Readiness, check_readiness, route
from tests.adapters.serving import example
from tests.adapters.workers import GET, REFUND, check_workers


@pytest.fixture
def realm() -> UnsafeTestRealm:
    return UnsafeTestRealm("orders")


@contextlib.contextmanager
def served(app: Any) -> Iterator[httpx.Client]:
    """A client of an application behind Werkzeug's own server."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", timeout=60) as client:
            yield client
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def orders(realm: UnsafeTestRealm, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of the page's application."""
    with served(example("flask", tmp_path)["make_app"](realm.verifier)) as client:
        yield client


def codes(realm: UnsafeTestRealm) -> list[str]:
    return [decision.code for decision in realm.decisions.decisions]


def test_a_call_within_the_token_runs(realm: UnsafeTestRealm, orders: httpx.Client) -> None:
    """The view gets its grant, also for a sub-agent that the token was delegated to."""
    worker = realm.caller(GET).delegate("test/worker")
    assert orders.get("/orders/7", auth=worker).json() == {"order": 7, "by": "test/worker"}
    assert orders.post("/orders/7/refund", json={"amount": 15}, auth=realm.caller(REFUND)).json() == {"refunded": 15}
    assert orders.head("/orders/7", auth=worker).status_code == 200


def test_a_call_out_of_bounds_says_what_is_allowed(realm: UnsafeTestRealm, orders: httpx.Client) -> None:
    """A caller reads the code, the expected and the received value."""
    answer = orders.post("/orders/7/refund", json={"amount": 50}, auth=realm.caller(REFUND))
    assert (answer.status_code, answer.json()["code"]) == (403, "argument_not_allowed")
    assert answer.json()["failures"] == [{"place": "caveat 1", "rule": "amount max", "expected": "20", "came": "50"}]
    assert orders.get("/orders/7", auth=realm.caller(REFUND)).json()["code"] == "tool_not_allowed"


def test_a_kill_ends_the_sub_agent(realm: UnsafeTestRealm, orders: httpx.Client) -> None:
    """The next call is refused."""
    worker = realm.caller(GET).delegate("test/worker")
    assert orders.get("/orders/7", auth=worker).status_code == 200
    realm.epochs.kill("agent:test/worker")
    assert orders.get("/orders/7", auth=worker).json()["code"] == "revoked"


def test_what_no_line_names_is_refused(realm: UnsafeTestRealm, orders: httpx.Client) -> None:
    """A public view needs no token; no other path, method or view answers without one, or with one."""
    assert orders.get("/healthz").status_code == 200
    assert orders.get("/healthz", auth=realm.caller(GET)).status_code == 200
    assert orders.get("/healthz", headers={"Authorization": "Basic YTpi"}).status_code == 200
    caller = realm.caller(Rule(tool="*"))
    for method, target in (("GET", "/"), ("GET", "/static/x"), ("PUT", "/orders/7"), ("OPTIONS", "/orders/7")):
        assert orders.request(method, target).json()["code"] == "missing_token"
        assert orders.request(method, target, auth=caller).json()["code"] == "tool_not_allowed"
    assert orders.post("/healthz").json()["code"] == "missing_token"


@pytest.mark.parametrize(
    ("method", "target", "sent"),
    [
        ("GET", "/orders/007", {}),
        ("GET", "/orders/%37?x=1&x=2", {}),
        ("GET", "/orders//7", {}),
        ("POST", "/orders/7/refund?order_id=8", {"json": {"amount": 1}}),
        ("POST", "/orders/7/refund?dry_run=1&note=x", {"json": {"amount": 1}}),
        ("POST", "/orders/7/refund", {"json": {"amount": 1, "order_id": "8"}}),
        ("POST", "/orders/7/refund", {"data": {"amount": "1"}}),
    ],
)
def test_another_spelling_is_refused(
    realm: UnsafeTestRealm, orders: httpx.Client, method: str, target: str, sent: Any
) -> None:
    """A view gets the values that were judged, in their one spelling and at their one place."""
    answer = orders.request(method, target, auth=realm.caller(Rule(tool="*")), **sent)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert "ok" not in codes(realm)


def converters(ran: list[Any]) -> Flask:
    app = Flask(__name__)

    def view(**values: Any) -> Any:
        ran.append(values)
        return {}

    for rule, defaults in (
        ("/text/<order_id>", None),
        ("/padded/<int(fixed_digits=3):order_id>", None),
        ("/float/<float:order_id>", None),
        ("/path/<path:order_id>", None),
        ("/uuid/<uuid:order_id>", None),
        ("/any/<any(a, b):order_id>", None),
        ("/latest", {"order_id": "latest"}),
    ):
        app.add_url_rule(rule, "view", view, defaults=defaults)
    app.add_url_rule("/loose/<order_id>/", "view", view, strict_slashes=False)
    app.add_url_rule("/leaf/<order_id>", "view", view, strict_slashes=False)
    app.add_url_rule("/rest/<path:order_id>", "view", view, strict_slashes=False)
    return app


@pytest.mark.parametrize(
    ("target", "judged"),
    [
        ("/text/caf%C3%A9", "café"),
        ("/text/a+b", "a+b"),
        ("/padded/007", 7),
        ("/padded/7", None),
        ("/float/1.5", Constraint(range=("1.5", "1.5"))),
        ("/float/7.0", 7),
        ("/float/1.50", None),
        ("/path/a/b", "a/b"),
        ("/uuid/0aa5ca29-b0f4-4b7b-9d6b-000000000000", "0aa5ca29-b0f4-4b7b-9d6b-000000000000"),
        ("/uuid/0AA5CA29-B0F4-4B7B-9D6B-000000000000", None),
        ("/any/a", "a"),
        ("/latest", "latest"),
        ("/loose/o-1", "o-1"),
        ("/loose/o-1/", "o-1"),
        ("/leaf/o-1", "o-1"),
        ("/leaf/o-1/", "o-1"),
        ("/rest/a/b", "a/b"),
        ("/rest/a/b/", "a/b/"),  # its slash is a part of the value that the view gets
    ],
)
def test_each_converter_has_one_spelling(realm: UnsafeTestRealm, target: str, judged: Any) -> None:
    """What is judged is what the view gets, a number or the text that was sent, and only one text leads to it."""
    ran: list[Any] = []
    app = converters(ran)
    guard(app, realm.verifier, tools={"view": "orders.get"})
    with served(app) as client:
        caller = realm.caller(Rule(tool="orders.get", args={"order_id": judged or "x"}))
        answer = client.get(target, auth=caller)
        assert (answer.is_error, len(ran)) == ((False, 1) if judged else (True, 0)), answer.text
        assert client.get(target, auth=realm.caller(Rule(tool="orders.get", args={"order_id": "y"}))).is_error


def test_hooks_run_after_the_decision_and_change_nothing(realm: UnsafeTestRealm) -> None:
    """No hook runs for a refused call; one that changes a parameter or the view ends the call, with a second record."""
    ran: list[str] = []
    app = Flask(__name__)

    @app.url_value_preprocessor
    def preprocess(endpoint: Any, values: Any) -> None:
        ran.append("hook")
        if request.args.get("change") == "parameter":
            values["order_id"] = "8"
        if request.args.get("change") == "view":
            request.url_rule = next(rule for rule in app.url_map.iter_rules() if rule.endpoint == "other")

    @app.get("/orders/<order_id>")
    def show(order_id: str) -> str:
        ran.append(order_id)
        return order_id

    @app.get("/other/<order_id>")
    def other(order_id: str) -> str:
        ran.append("other")
        return order_id

    guard(app, realm.verifier, tools={"show?{change}": "orders.get"})
    caller = realm.caller(
        Rule(tool="orders.get", args={"order_id": "7", "change": Constraint(optional=True, glob="*")})
    )
    with served(app) as client:
        assert client.get("/orders/8", auth=caller).json()["code"] == "argument_not_allowed"
        assert client.get("/orders/7").json()["code"] == "missing_token"
        assert ran == []
        assert client.get("/orders/7", auth=caller).text == "7"
        for change in ("parameter", "view"):
            answer = client.get("/orders/7", params={"change": change}, auth=caller)
            assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert ran == ["hook", "7", "hook", "hook"]
    assert codes(realm)[2:] == ["ok", "ok", "malformed_request", "ok", "malformed_request"]


def test_a_declared_query_argument_is_a_number(realm: UnsafeTestRealm) -> None:
    """A rule compares it as a number, in its one spelling; without a declaration it is text."""
    app = Flask(__name__)
    app.add_url_rule("/orders", "orders", dict)
    guard(app, realm.verifier, tools={"orders?{limit:int}": "orders.list"})
    caller = realm.caller(Rule(tool="orders.list", args={"limit": Constraint(max=20)}))
    with served(app) as client:
        codes = [client.get(f"/orders?limit={limit}", auth=caller).json().get("code") for limit in ("5", "50", "05")]
    assert codes == [None, "argument_not_allowed", "malformed_request"]


def test_a_middleware_that_changes_the_request_is_refused(realm: UnsafeTestRealm) -> None:
    """The method, the path, the query and the body are those that were signed when the view reads them."""
    app, change = Flask(__name__), dict[str, Any]()
    app.add_url_rule("/order", "order", dict, methods=["GET", "POST"])
    app.add_url_rule("/other", "order", dict)
    inner = app.wsgi_app

    def middleware(environ: Any, start_response: Any) -> Any:
        environ |= change
        return inner(environ, start_response)

    app.wsgi_app = middleware  # type: ignore[method-assign]
    guard(app, realm.verifier, tools={"GET order": "orders.get", "POST order": "orders.refund"})
    caller = realm.caller(Rule(tool="*"))
    with served(app) as client:
        assert client.get("/order", auth=caller).status_code == 200
        for change_one in ({"REQUEST_METHOD": "POST"}, {"QUERY_STRING": "x=1"}, {"PATH_INFO": "/other"}):
            change.clear()
            change.update(change_one)
            assert client.get("/order", auth=caller).json()["code"] == "malformed_request"


def test_blueprints_errors_and_later_routes(realm: UnsafeTestRealm) -> None:
    """An endpoint of a blueprint has a dotted name; the application's own errors stay; a later route is refused."""
    app, desk = Flask(__name__), Blueprint("desk", __name__)

    @desk.get("/desk/<name>")
    def show(name: str) -> str:
        abort(418)

    @app.errorhandler(403)
    def forbidden(error: Any) -> str:
        raise AssertionError("the application answered a refusal")

    app.register_blueprint(desk)
    guard(app, realm.verifier, tools={"desk.show": "desk.show"})
    app.add_url_rule("/late", "late", dict)
    caller = realm.caller(Rule(tool="*"))
    with served(app) as client:
        assert client.get("/desk/x", auth=caller).status_code == 418
        assert client.get("/late", auth=caller).json()["code"] == "tool_not_allowed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": {"nothing": "orders.get"}}, "names no view: expected one of"),
        ({"tools": {"view": "orders.get"}, "public": ["view"]}, "named twice"),
        ({"tools": {"both": "orders.get"}}, "may have several methods: name each, such as 'GET both'"),
        ({"tools": {"PUT both": "orders.get"}}, "not PUT"),
        ({"tools": {"GET /text/{order_id}": "orders.get"}}, "names no view"),
        ({"tools": {}, "recheck_ms": 0}, "recheck_ms"),
    ],
)
def test_a_mistake_raises_when_it_is_made(realm: UnsafeTestRealm, options: Any, message: str) -> None:
    app = converters([])
    app.add_url_rule("/both", "both", dict, methods=["GET", "POST"])
    with pytest.raises(SettingsError, match=message):
        guard(app, realm.verifier, **options)


def test_an_application_beside_the_guarded_one_is_refused(realm: UnsafeTestRealm) -> None:
    """Its views would run for every caller with a token; around guarded applications a dispatcher is fine."""
    app, other, ran = converters([]), Flask("other"), list[str]()
    other.add_url_rule("/", "admin", lambda: ran.append("admin") or {})
    inner = app.wsgi_app
    app.wsgi_app = ProxyFix(DispatcherMiddleware(inner, {"/admin": other}))  # type: ignore[method-assign]
    with pytest.raises(SettingsError, match="DispatcherMiddleware"):
        guard(app, realm.verifier, tools={"view": "orders.get"})
    app.wsgi_app = inner  # type: ignore[method-assign]
    guard(other, realm.verifier, tools={"admin": "orders.admin"})
    guard(app, realm.verifier, tools={})
    caller = realm.caller(Rule(tool="orders.get"), Rule(tool="orders.admin", args={}))
    with served(DispatcherMiddleware(app, {"/admin": other})) as client:
        assert client.get("/admin/", auth=caller).status_code == 200
        assert client.get("/admin", auth=realm.caller(GET)).status_code == 403
    assert ran == ["admin"]


def test_a_host_with_parameters_and_a_table_are_refused(realm: UnsafeTestRealm) -> None:
    """The table of ``ArxWSGI`` routes in another way than Flask: it refuses the application, also in a middleware."""
    app = Flask(__name__, subdomain_matching=True)
    for inner in (app, app.wsgi_app):
        with pytest.raises(SettingsError, match=r"integrations\.flask"):
            ArxWSGI(inner, verifier=realm.verifier, tools={"GET /orders/{order_id}": "orders.get"})
    app.add_url_rule("/", "home", lambda tenant: {}, subdomain="<tenant>")
    with pytest.raises(SettingsError, match="subdomain"):
        guard(app, realm.verifier, tools={})


def test_no_secret_is_logged(realm: UnsafeTestRealm, orders: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG, no log, answer or error has a token or its signature."""
    caplog.set_level(logging.DEBUG)
    caller = realm.caller(REFUND)
    answers = [orders.post("/orders/7/refund", json={"amount": amount}, auth=caller) for amount in (5, 50, "x")]
    assert [answer.status_code for answer in answers] == [200, 403, 403]
    shown = caplog.text + "".join(answer.text for answer in answers)
    tokens = [answer.request.headers["authorization"].removeprefix("Bearer ") for answer in answers]
    assert not [token for token in tokens if token in shown or token[-40:] in shown]


@pytest.mark.parametrize("way", ["threads, preloaded", "sync"])
def test_workers_of_gunicorn_share_used_calls_and_obey_a_kill(tmp_path: Path, way: str) -> None:
    """Two workers accept a call once together, and both refuse after a kill; an open answer is cut."""
    example("flask", tmp_path)
    page = (tmp_path / "orders.py").read_text()
    stream = """
    @app.get("/orders/<int:order_id>/events")
    def events(order_id):
        def lines():
            while True:
                yield "event" + " " * 100
        return lines()

    tools = {"events": "orders.events", """
    (tmp_path / "orders.py").write_text(page.replace("    tools = {", stream.lstrip("\n"), 1))
    (tmp_path / "main.py").write_text(
        "from orders import make_app\nfrom arx_verifier import open_verifier\n\n"
        "app = make_app(open_verifier('orders.json'))\n"
    )
    check_workers(tmp_path, "main:app", way)


def test_the_page_of_readiness(realm: UnsafeTestRealm) -> None:
    """Its route answers as the lease is, and needs no token."""
    app = Flask(__name__)
    route("Flask", app=app, verifier=realm.verifier)
    guard(app, realm.verifier, tools={}, public=["readyz"])
    with served(app) as client:

        def ask() -> Readiness:
            answer = client.get("/readyz")
            return answer.status_code, answer.json()["why"]

        check_readiness(realm, ask)
