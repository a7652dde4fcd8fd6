# SPDX-License-Identifier: Apache-2.0
"""A WSGI application under gunicorn with two workers, forked before or after it is loaded: one call once, and kills."""

import contextlib
import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from tests.house.pages import ROOT, blocks, section
from tests.servers import until
from tests.workers import SESSION, WAYS, Holder, Service, deciders, gunicorn, write_service_file

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.3", "11")]
SHORT = ("sync", "threads, preloaded")  # both workers, and a service that is loaded before and after the fork

BY = "operator:ada"
APP = """
import json, os, threading, time

from arx_verifier import ArxWSGI, open_verifier


def application(environ, start_response):
    what = environ["arx"].tool
    start_response("200 OK", [("Content-Type", "text/plain")])
    if what == "orders.get":
        return [str(os.getpid()).encode()]
    return stream(what)


def stream(what):
    yield str(os.getpid()).encode().ljust(8)
    while what == "orders.busy":
        yield b"x" * 100
    while not os.path.exists("go-on"):  # what no server can interrupt
        time.sleep(0.02)


app = ArxWSGI(
    application,
    verifier=open_verifier("orders.json"),
    tools={"GET /orders/{order_id}": "orders.get", "GET /busy": "orders.busy", "GET /idle": "orders.idle"},
)
print("loaded with", threading.active_count(), "threads and", os.path.exists("journal"), flush=True)
"""


@pytest.fixture(params=[pytest.param(way, marks=() if way in SHORT else pytest.mark.nightly) for way in WAYS])
def service(
    request: pytest.FixtureRequest, tmp_path: Path, realm_store: RevocationStore, valkey: EmbeddedValkey, free_port: int
) -> Iterator[Service]:
    (tmp_path / "service.py").write_text(APP)
    write_service_file(tmp_path, realm_store, valkey.url)
    with gunicorn(tmp_path, "service:app", free_port, *WAYS[request.param]) as running:
        yield running


@pytest.mark.slow
def test_workers_share_used_calls_and_kills(service: Service, realm_store: RevocationStore) -> None:
    """
    Both workers allow, each call is accepted once by both together, and both refuse after a kill.
    """
    holder, pids = Holder(realm_store, Rule(tool="orders.get")), set[int]()

    def both_allowed() -> bool:
        headers = holder.sign("GET", "/orders/o-1")
        answers = [*pool.map(lambda _: service.ask("GET", "/orders/o-1", headers), range(4))]
        assert sorted(answer.status for answer in answers) == [200, 401, 401, 401], answers
        assert {answer.json["code"] for answer in answers if answer.status == 401} == {"replayed"}
        pids.update(int(answer.body) for answer in answers if answer.status == 200)
        return len(pids) == 2

    with ThreadPoolExecutor(4) as pool:
        until(both_allowed)
    assert service.master.pid not in pids
    assert len(realm_store.verifiers()) == 2
    realm_store.wait_confirmed(realm_store.kill([f"session:{SESSION}"], "test", BY))
    deciders(service, holder, "/orders/o-1", "revoked")


@pytest.mark.slow
def test_nothing_is_opened_before_the_fork(service: Service, realm_store: RevocationStore) -> None:
    """
    Where the application is loaded there is no thread and no journal, and no verifier is registered before a call.
    """
    assert "loaded with 1 threads and False" in service.log
    assert not realm_store.verifiers()
    first = service.call(Holder(realm_store, Rule(tool="orders.get")), "GET", "/orders/o-1")
    assert first.status == 200, first
    assert len(realm_store.verifiers()) == 1
    service.master.terminate()
    assert service.master.wait(60) == 0
    assert not realm_store.verifiers(), "a worker leaves the registry when it exits, so that no kill waits for it"


@pytest.mark.slow
def test_open_answers_end_with_a_kill(service: Service, realm_store: RevocationStore, tmp_path: Path) -> None:
    """
    A busy answer and one whose thread waits are cut without the end of the body, and the worker serves the next call.
    """
    holder = Holder(realm_store, Rule(tool="orders.busy"), Rule(tool="orders.idle"))
    other = Holder(realm_store, Rule(tool="orders.get"), session="s-bbbbbbbbbbbbbbbb")
    with contextlib.ExitStack() as stack:
        opened = []
        for target in ("/busy", "/idle"):
            connection, answer = service.open("GET", target, holder.sign("GET", target))
            stack.callback(connection.close)
            assert answer.read(8).strip().isdigit()
            opened.append(answer)
        assert realm_store.kill([f"session:{SESSION}"], "test", BY).durable
        for answer in opened:
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                answer.read()
    (tmp_path / "go-on").touch()
    after = service.call(other, "GET", "/orders/o-1")
    assert after.status == 200, after


@pytest.mark.slow
def test_the_pages_example_runs_as_it_is_shown(
    tmp_path: Path, realm_store: RevocationStore, valkey: EmbeddedValkey, free_port: int
) -> None:
    """
    An allowed call, one with an argument out of bounds, and one of no route.
    """
    page = (ROOT / "docs" / "adapters" / "flask.md").read_text(encoding="utf-8")
    example, _ = blocks(section(page, "Another WSGI application"))
    (tmp_path / "service.py").write_text(example.text)
    (tmp_path / "gunicorn.conf.py").write_text("def post_worker_init(worker): worker.wsgi.start()\n")
    write_service_file(tmp_path, realm_store, valkey.url)
    holder = Holder(realm_store, Rule(tool="orders.refund", args={"order_id": "o-1", "amount": Constraint(max=20)}))
    with gunicorn(tmp_path, "service:app", free_port, *WAYS["threads, preloaded"]) as service:
        until(lambda: len(realm_store.verifiers()) == 2)
        first = service.call(holder, "POST", "/orders/o-1/refund", b'{"amount": 5}')
        assert (first.status, first.json) == (200, {"tool": "orders.refund", "by": "acme/support"})
        refused = service.call(holder, "POST", "/orders/o-1/refund", b'{"amount": 50}')
        assert (refused.status, refused.json["code"]) == (403, "argument_not_allowed")
        assert service.call(holder, "DELETE", "/orders/o-1").json["code"] == "tool_not_allowed"
