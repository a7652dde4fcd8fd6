# SPDX-License-Identifier: Apache-2.0
"""The adapter of Django: the project of its page under gunicorn, and a project with every kind of route in a thread."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from types import SimpleNamespace
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import django
import httpx
import pytest
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse
from django.test import Client, override_settings
from django.urls import include, path, re_path, register_converter
from django.urls.converters import StringConverter

from arx_verifier import ArxWSGI, Rule, SettingsError
from arx_verifier.integrations.django import NAME, guard
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.readiness import Readiness, check_readiness, route
from tests.adapters.workers import GET, REFUND, check_workers
from tests.house.pages import ROOT, blocks
from tests.servers import child, free_ports, until

RAN: list[Any] = []


class Lower(StringConverter):
    """A converter whose values are text, but not the text that was sent."""

    def to_python(self, value: str) -> str:
        return value.lower()


def view(request: Any, *args: Any, **values: Any) -> HttpResponse:
    RAN.append((request.method, args, values))
    return JsonResponse({"by": request.arx.holder if request.arx else None})


def other(request: Any, **values: Any) -> HttpResponse:
    raise AssertionError("this view has no line")


class Renaming:
    """A middleware that changes the parameters that the view gets."""

    def __init__(self, get_response: Any) -> None:
        self._get_response = get_response

    def __call__(self, request: Any) -> Any:
        return self._get_response(request)

    def process_view(self, request: Any, _view: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        change = request.headers.get("x-change")
        if change == "parameter":
            kwargs["order_id"] = type(kwargs["order_id"])(8)
        if change == "no parameter":
            del kwargs["order_id"]
        if change == "further parameter":
            kwargs["amount"] = 5000


def changing(get_response: Any) -> Any:
    """A middleware that changes what the next one gets."""

    def middleware(request: Any) -> Any:
        change = request.headers.get("x-change")
        RAN.append("middleware")
        if change == "answer":
            return HttpResponse("by itself")
        if change == "method":
            request.method = "POST"
        if change == "query":
            request.META["QUERY_STRING"] = "x=1"
        if change == "path":
            request.path_info = "/text/7"
        if change == "body":
            request.read(1)
        if change == "urlconf":
            request.urlconf = (path("healthz", other, name="healthz"),)
        return get_response(request)

    return middleware


register_converter(Lower, "lower")
urlpatterns = [
    path("healthz", view, name="healthz"),
    path("int/<int:order_id>", view, name="order"),
    path("text/<order_id>", view, name="order"),
    path("slug/<slug:order_id>", view, name="order"),
    path("path/<path:order_id>", view, name="order"),
    path("uuid/<uuid:order_id>", view, name="order"),
    path("lower/<lower:order_id>", view, name="order"),
    path("latest", view, {"order_id": "latest"}, name="order"),
    re_path(r"^named/(?P<order_id>[0-9]+)$", view, name="order"),
    re_path(r"^unnamed/([0-9]+)$", view, name="order"),
    re_path(r"^mixed/", include([path("<int:order_id>", view, name="order")])),
    path("desk/", include(([path("<int:order_id>", view, name="order")], "desk"))),
    path("other/<order_id>", other, name="other"),
    path("one", view, name="two views"),
    path("two", other, name="twoviews"),
    path("three", view, name="twoviews"),
    path("<tenant>/", include([path("all", view, name="tenant"), path("<int:order_id>", view, name="order")])),
    path("<int:n>/<slug:kind>/", include([re_path(r"^(?P<order_id>[a-z]+)/", include(([path("<n>", view)], "deep")))])),
    re_path(r"^group/(?P<tenant>[a-z]+)/", include([path("<lower:order_id>", view, {"kind": "x"}, name="order")])),
]
MIDDLEWARE = [f"{__name__}.changing", f"{__name__}.Renaming", NAME]
TOOLS = {"GET order": "orders.get", "POST order": "orders.refund", "GET desk:order": "orders.get"}


@pytest.fixture(scope="module", autouse=True)
def project() -> None:
    sys.modules.setdefault(__name__, sys.modules[__name__])
    settings.configure(
        ROOT_URLCONF=__name__, MIDDLEWARE=MIDDLEWARE, ALLOWED_HOSTS=["127.0.0.1"], DEBUG=True, SECRET_KEY="x"
    )
    django.setup()


@pytest.fixture
def realm() -> UnsafeTestRealm:
    RAN.clear()
    return UnsafeTestRealm("orders")


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def served(app: Any) -> Iterator[httpx.Client]:
    """A client of an application behind the server of the standard library, which shows no raw path."""
    with Server(("127.0.0.1", 0), Quiet) as server:
        server.set_app(app)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", timeout=60) as client:
                yield client
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def orders(realm: UnsafeTestRealm) -> Iterator[httpx.Client]:
    app = guard(get_wsgi_application(), realm.verifier, tools=TOOLS, public=["GET healthz"])
    with served(app) as client:
        yield client


@pytest.mark.parametrize(
    ("target", "judged"),
    [
        ("/int/7", 7),
        ("/int/007", None),
        ("/text/caf%C3%A9", "café"),
        ("/slug/o-1", "o-1"),
        ("/path/a/b", "a/b"),
        ("/uuid/0aa5ca29-b0f4-4b7b-9d6b-000000000000", "0aa5ca29-b0f4-4b7b-9d6b-000000000000"),
        ("/lower/abc", "abc"),
        ("/lower/ABC", None),
        ("/latest", "latest"),
        ("/named/007", "007"),
        ("/unnamed/7", None),
        ("/mixed/7", 7),
        ("/mixed/07", None),
        ("/desk/7", 7),
        ("/desk/07", None),
    ],
)
def test_each_converter_has_one_spelling(
    realm: UnsafeTestRealm, orders: httpx.Client, target: str, judged: Any
) -> None:
    """What is judged is what the view gets, an integer or the text that was sent, and only one text leads to it."""
    answer = orders.get(target, auth=realm.caller(Rule(tool="orders.get", args={"order_id": judged or "x"})))
    assert (answer.status_code, RAN[1:] != []) == ((200, True) if judged else (400, False)), answer.text
    wrong = orders.get(target, auth=realm.caller(Rule(tool="orders.get", args={"order_id": "y"}))).json()
    assert wrong["code"] == ("argument_not_allowed" if judged else "malformed_request")


@pytest.mark.parametrize(
    ("target", "judged"),
    [
        ("/ann/all", {"tenant": "ann"}),
        ("/ann/7", {"tenant": "ann", "order_id": 7}),
        ("/ann/007", None),
        ("/group/ann/b", {"tenant": "ann", "order_id": "b", "kind": "x"}),
        ("/group/ann/B", None),
        ("/7/a-b/c/x", {"n": "x", "kind": "a-b", "order_id": "c"}),  # the inner `n` is the one that the view gets
    ],
)
def test_a_view_gets_the_parameters_of_all_its_includes(
    realm: UnsafeTestRealm, target: str, judged: dict[str, Any] | None
) -> None:
    """Each is judged as the view gets it, in its one spelling."""
    tools = TOOLS | {"GET tenant": "orders.get", f"GET deep:{__name__}.view": "orders.get"}
    with served(guard(get_wsgi_application(), realm.verifier, tools=tools)) as client:
        answer = client.get(target, auth=realm.caller(Rule(tool="orders.get", args=judged or {}, open=judged is None)))
        assert (answer.status_code, RAN[1:] != []) == ((200, True) if judged else (400, False)), answer.text
        other_args = {**(judged or {"order_id": "y"}), "kind": "z"}
        refused = client.get(target, auth=realm.caller(Rule(tool="orders.get", args=other_args))).json()
    assert refused["code"] == ("argument_not_allowed" if judged else "malformed_request")


def test_a_call_out_of_bounds_and_a_kill(realm: UnsafeTestRealm, orders: httpx.Client) -> None:
    """The tool is that of view and method; a caller reads the code, the expected and the received value."""
    worker = realm.caller(GET, REFUND).delegate("test/worker")
    assert orders.get("/int/7", auth=worker).json() == {"by": "test/worker"}
    assert orders.head("/int/7", auth=worker).status_code == 200
    assert orders.post("/int/7", json={"amount": 5}, auth=worker).status_code == 200
    answer = orders.post("/int/7", json={"amount": 50}, auth=worker)
    assert answer.json()["failures"] == [{"place": "caveat 1", "rule": "amount max", "expected": "20", "came": "50"}]
    assert orders.post("/int/7", json={"amount": 5}, auth=realm.caller(GET)).json()["code"] == "tool_not_allowed"
    assert orders.put("/int/7", auth=worker).json()["code"] == "tool_not_allowed"
    realm.epochs.kill("agent:test/worker")
    assert orders.get("/int/7", auth=worker).json()["code"] == "revoked"


def test_what_no_line_names_is_refused(realm: UnsafeTestRealm, orders: httpx.Client) -> None:
    """Without a token no middleware runs but for a public view; a 404 and a view without a line are refusals."""
    for headers in ({}, {"Authorization": "Basic YTpi"}):
        for method, target in (("GET", "/"), ("GET", "/other/7"), ("GET", "/int/7"), ("POST", "/healthz")):
            assert orders.request(method, target, headers=headers).json()["code"] == "missing_token"
    assert RAN == []
    caller = realm.caller(Rule(tool="*"))
    for target in ("/", "/other/7", "/int/x", "/int/7/"):
        assert orders.get(target, auth=caller).json()["code"] == "tool_not_allowed"


def test_a_public_view_needs_no_token(realm: UnsafeTestRealm, orders: httpx.Client) -> None:
    assert orders.get("/healthz").json() == {"by": None}
    assert orders.get("/healthz", auth=realm.caller(GET)).json() == {"by": None}
    for change in ("method", "urlconf"):
        assert orders.get("/healthz", headers={"x-change": change}).json()["code"] == "missing_token"


@pytest.mark.parametrize(
    "change", ["answer", "method", "path", "query", "body", "parameter", "no parameter", "further parameter"]
)
def test_a_middleware_cannot_change_what_was_judged(realm: UnsafeTestRealm, orders: httpx.Client, change: str) -> None:
    """The view reads the method, the path, the query and the body that were signed."""
    caller = realm.caller(Rule(tool="*"))
    answer = orders.request("GET", "/int/7", headers={"x-change": change}, auth=caller)
    assert answer.json()["code"] == ("tool_not_allowed" if change == "answer" else "malformed_request")


def test_neither_half_works_alone(realm: UnsafeTestRealm) -> None:
    """The middleware without ``guard`` refuses; ``guard`` without the middleware does not start."""
    with served(get_wsgi_application()) as client:
        for target in ("/int/7", "/healthz"):
            assert client.get(target, auth=realm.caller(GET)).status_code == 403
    for wrong in ([], [NAME, f"{__name__}.changing"]):
        with override_settings(MIDDLEWARE=wrong), pytest.raises(SettingsError, match="as the last one"):
            guard(get_wsgi_application(), realm.verifier, tools=TOOLS)
    with pytest.raises(SettingsError, match=r"integrations\.django"):
        ArxWSGI(get_wsgi_application(), verifier=realm.verifier, tools={"GET /int/{order_id}": "orders.get"})
    assert RAN == ["middleware", "middleware"]


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ({"GET nothing": "orders.get"}, "names no view"),
        ({"order": "orders.get"}, "may have several methods: name each, such as 'GET order'"),
        ({"GET twoviews": "orders.get"}, "several views"),
        ({"GET /int/{order_id}": "orders.get"}, "names no view"),
    ],
)
def test_a_mistake_raises_when_it_is_made(realm: UnsafeTestRealm, tools: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        guard(get_wsgi_application(), realm.verifier, tools=tools)


def test_no_secret_is_logged(realm: UnsafeTestRealm, orders: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG, no log, answer or error has a token or its signature."""
    caplog.set_level(logging.DEBUG)
    caller = realm.caller(REFUND)
    answers = [orders.post("/int/7", json={"amount": amount}, auth=caller) for amount in (5, 50, "x")]
    assert [answer.status_code for answer in answers] == [200, 403, 403]
    shown = caplog.text + "".join(answer.text for answer in answers)
    tokens = [answer.request.headers["authorization"].removeprefix("Bearer ") for answer in answers]
    assert not [token for token in tokens if token in shown or token[-40:] in shown]


def test_a_test_of_the_application_needs_no_server(realm: UnsafeTestRealm) -> None:
    """A transport of httpx goes through the guard; Django's own client does not, and is refused."""
    app = guard(get_wsgi_application(), realm.verifier, tools=TOOLS)
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://127.0.0.1") as client:
        assert client.get("/int/7", auth=realm.caller(GET)).json() == {"by": "test/agent"}
        assert client.get("/int/8", auth=realm.caller(GET)).json()["code"] == "argument_not_allowed"
    RAN.clear()
    assert Client(headers={"host": "127.0.0.1"}).get("/int/7").status_code == 403
    assert RAN == ["middleware"]


def test_the_development_server_serves_the_guarded_application(tmp_path: Path) -> None:
    """It takes the application from ``WSGI_APPLICATION``."""
    text = (ROOT / "docs" / "adapters" / "django.md").read_text("utf-8")
    (tmp_path / "urls.py").write_text(next(block.text for block in blocks(text) if block.language == "python"))
    (tmp_path / "settings.py").write_text(
        f'ROOT_URLCONF = "urls"\nALLOWED_HOSTS = ["127.0.0.1"]\nMIDDLEWARE = ["{NAME}"]\n'
        'WSGI_APPLICATION = "wsgi.application"\nSECRET_KEY = "x"\n'
    )
    (tmp_path / "wsgi.py").write_text(
        "from django.core.wsgi import get_wsgi_application\n"
        "from arx_verifier.integrations.django import guard\n"
        "from arx_verifier.testing import UnsafeTestRealm\n"
        "verifier = UnsafeTestRealm('orders').verifier\n"
        "tools = {'GET order': 'orders.get'}\n"
        "application = guard(get_wsgi_application(), verifier, tools=tools, public=['GET healthz'])\n"
    )
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    words = [sys.executable, "-m", "django", "runserver", "--noreload", "--settings=settings", url[7:]]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def answer(path: str) -> int:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(url + path).status_code
        return 0

    with child(words, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) as server:
        try:
            until(lambda: answer("/healthz") == 200)
            assert answer("/orders/7") == 401
        finally:
            server.terminate()


@pytest.mark.parametrize("way", ["threads, preloaded", "sync"])
def test_the_pages_project_under_gunicorn(tmp_path: Path, way: str) -> None:
    """Two workers accept a call once together, and both refuse after a kill; an open answer is cut."""
    text = (ROOT / "docs" / "adapters" / "django.md").read_text("utf-8")
    urls, wsgi = [block.text for block in blocks(text) if block.language == "python"]
    urls += """

def events(request, order_id):
    from django.http import StreamingHttpResponse
    return StreamingHttpResponse("event" + " " * 100 for _ in iter(int, 1))

urlpatterns.append(path("orders/<int:order_id>/events", events, name="events"))
"""
    (tmp_path / "urls.py").write_text(urls)
    (tmp_path / "wsgi.py").write_text(wsgi.replace("tools={", 'tools={"GET events": "orders.events", ', 1))
    lines = f'ROOT_URLCONF = "urls"\nALLOWED_HOSTS = ["127.0.0.1"]\nMIDDLEWARE = ["{NAME}"]\n'
    (tmp_path / "settings.py").write_text(lines)
    check_workers(tmp_path, "wsgi", way)


def test_the_page_of_readiness(realm: UnsafeTestRealm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its route answers as the lease is, and needs no token."""
    monkeypatch.setitem(sys.modules, "wsgi", SimpleNamespace(verifier=realm.verifier))
    view = route("`wsgi.py` keeps its verifier")["readyz"]
    with override_settings(ROOT_URLCONF=(path("readyz", view, name="readyz"),)):
        app = guard(get_wsgi_application(), realm.verifier, tools={}, public=["GET readyz"])
        with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://127.0.0.1") as client:

            def ask() -> Readiness:
                answer = client.get("/readyz")
                return answer.status_code, answer.json()["why"]

            check_readiness(realm, ask)
