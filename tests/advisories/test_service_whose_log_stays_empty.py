# SPDX-License-Identifier: Apache-2.0
"""A service that was enrolled as the pages teach shipped no record, and nothing named it.

Its verifier's processes ship: one at a time, another one after a kill, and each its own after a fork.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from arx_caps.agent import Agent, Task
from arx_caps.audit.shipping.lock import FIRST_FILE, LOCK_FILE
from arx_verifier.request import AccessRequest
from tests.cli.live import AGENT, Live, live_realm, live_verifier
from tests.servers import free_ports, until
from tests.workers import gunicorn

pytestmark = [pytest.mark.servers, pytest.mark.spec("LOG 2.6")]

APP = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from arx_verifier import open_verifier
from arx_verifier.integrations.starlette import current_grant, guard


def show(request):
    return JSONResponse({"decision": current_grant(request).decision})


app = Starlette(routes=[Route("/orders/{order_id}", show)])
guard(app, open_verifier("orders.json"), tools={"show": "orders.get"})
"""
WSGI = """
from arx_verifier import ArxWSGI, open_verifier


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["arx"].decision.encode()]


app = ArxWSGI(application, verifier=open_verifier("orders.json"), tools={"GET /orders/{order_id}": "orders.get"})
"""
[PORT] = free_ports(1)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("ships")
    with live_realm(folder / "realm", *free_ports(1)) as realm:
        policy = realm.folder / "policy.toml"
        policy.write_text(policy.read_text().replace("http://127.0.0.1:9001", f"http://127.0.0.1:{PORT}"))
        realm.ok("policy", "reload")
        realm.ok("agent", "enrol", AGENT, "--key-out", folder / "agent.key")
        yield realm


@pytest.fixture
def task(up: Live) -> Iterator[Task]:
    with (
        Agent.from_key_file(up.folder.parent / "agent.key") as agent,
        agent.open_session(purpose="orders") as session,
        session.start_task("lookup", order_id="o-1") as started,
    ):
        yield started


def place(up: Live, folder: Path, app: str) -> Path:
    """Enrol the service in a folder with its application; returns its journal."""
    (folder / "service.py").write_text(app)
    up.ok("service", "enrol", "orders", "--out", folder / "orders.json", "--journal", folder / "journal")
    return folder / "journal"


@contextlib.contextmanager
def uvicorn(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-m", "uvicorn", "service:app", "--port", str(PORT), "--no-proxy-headers", *options]
    environment = {name: value for name, value in os.environ.items() if name[:4] != "ARX_"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log, env=environment)
    try:
        until(lambda: answers(process, folder))
        yield process
    finally:
        process.terminate()
        process.wait(60)


def answers(process: subprocess.Popen[bytes], folder: Path) -> bool:
    assert process.poll() is None, (folder / "log").read_text()
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{PORT}/").status_code != 0
    return False


def call(task: Task, times: int) -> list[str]:
    """Call until so many calls were allowed; returns the ids of their decisions."""
    decided: list[str] = []
    deadline = time.monotonic() + 60
    with httpx.Client(auth=task.auth(), timeout=30) as client:
        while len(decided) < times:
            assert time.monotonic() < deadline
            with contextlib.suppress(httpx.TransportError):  # of a worker that was killed
                answer = client.get(f"http://127.0.0.1:{PORT}/orders/o-1")
                if answer.status_code == 200:
                    decided.append(answer.json()["decision"] if answer.text[0] == "{" else answer.text)
    return decided


def shipped(up: Live, task: Task) -> list[str]:
    """The ids of the task's allowed calls in the log."""
    words = ("audit", "trail", "--task", task.id, "--flat", "--limit", "10000", "--tool", "orders.get")
    code, output, err = up.run(*words)
    assert code == 0, err
    return [record["id"] for record in output["records"] if record["outcome"] == "allow"]


def holder_of(path: Path) -> int | None:
    """The process that has the lock of a file."""
    if not path.exists():
        return None
    inode = path.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, *_, pid, where, _, _ = line.split()
        if kind == "FLOCK" and int(where.rpartition(":")[2]) == inode:
            return int(pid)
    return None


def all_of(up: Live, task: Task, decided: list[str]) -> None:
    until(lambda: set(decided) <= set(shipped(up, task)))
    found = shipped(up, task)
    assert sorted(set(found)) == sorted(found), "a record came twice"


def lost(up: Live) -> int:
    return sum(run["lost"] for run in up.ok("audit", "runs", "--service", "orders")["runs"])


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="who has a lock is read from /proc/locks")
def test_of_several_workers_one_ships_until_it_is_killed(up: Live, task: Task, tmp_path: Path) -> None:
    """
    Nothing but the service runs: its calls are in the log, also those of after two kills -9 of the shipper, each once.
    """
    journal = place(up, tmp_path, APP)
    with uvicorn(tmp_path, "--workers", "3"):
        decided = call(task, 30)
        for _ in range(2):
            until(lambda: holder_of(journal / LOCK_FILE) is not None)
            shipper = holder_of(journal / LOCK_FILE)
            assert shipper is not None
            decided += call(task, 30)
            os.kill(shipper, signal.SIGKILL)
            decided += call(task, 30)
            until(lambda before=shipper: holder_of(journal / LOCK_FILE) not in (None, before))
        all_of(up, task, decided)
    assert lost(up) == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="who has a lock is read from /proc/locks")
def test_the_service_gives_way_to_a_process_that_ships(up: Live, task: Task, tmp_path: Path) -> None:
    """
    `arx ship` beside it takes over, a second one waits, and with the end of both the service ships again.
    """
    journal = place(up, tmp_path, APP)
    beside = [sys.executable, "-m", "arx_caps.cli", "ship", str(tmp_path / "orders.json"), "--quiet"]
    with uvicorn(tmp_path) as service:
        decided = call(task, 5)
        until(lambda: holder_of(journal / LOCK_FILE) == service.pid)
        with subprocess.Popen(beside) as first, subprocess.Popen(beside) as second:
            until(lambda: holder_of(journal / LOCK_FILE) in (first.pid, second.pid))
            assert holder_of(journal / FIRST_FILE) == holder_of(journal / LOCK_FILE)
            decided += call(task, 20)
            all_of(up, task, decided)
            os.kill(holder_of(journal / LOCK_FILE) or 0, signal.SIGKILL)
            until(lambda: holder_of(journal / LOCK_FILE) in (first.pid, second.pid))
            decided += call(task, 20)
            all_of(up, task, decided)
            first.kill()
            second.kill()
        until(lambda: holder_of(journal / LOCK_FILE) == service.pid)
        assert up.ok("ship", tmp_path / "orders.json", "--once")["done"]
        decided += call(task, 5)
        all_of(up, task, decided)
    assert lost(up) == 0


@pytest.mark.nightly
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["forked first", "preloaded"])
def test_workers_that_were_forked_ship(up: Live, task: Task, tmp_path: Path, options: tuple[str, ...]) -> None:
    """
    Of WSGI, which has no start and no end: the workers ship, and the last records go with their orderly end.
    """
    place(up, tmp_path, WSGI)
    with gunicorn(tmp_path, "service:app", PORT, *options):
        decided = call(task, 20)
        all_of(up, task, decided)
        decided += call(task, 20)
    all_of(up, task, decided)
    assert lost(up) == 0


@pytest.mark.slow
def test_the_last_records_are_sent_with_the_end(up: Live, task: Task, tmp_path: Path) -> None:
    """
    A service that ends at once after its calls, in order: nothing runs afterwards that would send them.
    """
    place(up, tmp_path, APP)
    with uvicorn(tmp_path):
        decided = call(task, 10)
    assert set(decided) <= set(shipped(up, task))


@pytest.mark.slow
def test_a_mint_that_is_away_delays_no_call(up: Live, task: Task, tmp_path: Path) -> None:
    """
    Calls are allowed while nothing answers at the mint's address, the log of the service names it once, and its end
    does not wait for the mint.
    """
    journal = place(up, tmp_path, APP)
    [nowhere] = free_ports(1)
    file = tmp_path / "orders.json"
    text = file.read_text()
    file.write_text(text.replace(str(json.loads(text)["issuer"]), f"http://127.0.0.1:{nowhere}"))
    with uvicorn(tmp_path):
        decided = call(task, 20)
        until(lambda: "records are not shipped" in (tmp_path / "log").read_text())
        begun = time.monotonic()
    assert time.monotonic() - begun < 30
    assert list(journal.glob("*.arxj"))
    file.write_text(text)
    assert up.ok("ship", file, "--once")["done"]
    all_of(up, task, decided)


def silent(text: str, *words: Any) -> str:
    """What a process that opens a verifier and starts it writes to stderr."""
    done = subprocess.run([sys.executable, "-c", text, *map(str, words)], capture_output=True, text=True, check=True)
    return done.stderr


def without_key(file: Path) -> Path:
    """A service file with the audience's keys alone."""
    content = json.loads(file.read_text())
    del content["key_file"]
    keyless = file.with_suffix(".keyless")
    keyless.touch(mode=0o600)
    keyless.write_text(json.dumps(content))
    return keyless


@pytest.mark.spec("CONTROL 3.6")
def test_the_mint_names_a_service_that_runs_and_never_shipped(up: Live, tmp_path: Path) -> None:
    """
    `arx audit trail`, `arx status` and `arx service list` have the command to run, until its first record came.
    """
    file = tmp_path / "payments.json"
    up.ok("service", "enrol", "payments", "--out", file)
    asked = (("audit", "trail"), ("audit", "trail", "--flat"), ("status",), ("service", "list"))
    with live_verifier(up, without_key(file)) as verifier:
        until(lambda: up.ok("status")["services_never_shipped"] == ["payments"])
        for words in asked:
            code, _, err = up.run(*words)
            assert code == 0, words
            assert "the log has no record of payments: a verifier runs" in err, words
            assert "`arx ship FILE`" in err, words
        verifier.decide("junk", AccessRequest("payments.list", {}, time.time_ns() // 1_000_000, None))
        verifier.decisions.close()  # which records what was counted
        up.ok("ship", file, "--once")
        for words in asked:
            assert "no record of payments" not in up.run(*words)[2], words


@pytest.mark.slow
def test_what_does_not_ship_is_named(up: Live, tmp_path: Path) -> None:
    """
    Without arx-caps, or without a key of its own, the service's log has one line with the command to run.
    """
    place(up, tmp_path, APP)
    opened = "import sys, time; {}; from arx_verifier import open_verifier; v = open_verifier(sys.argv[1]); v.start()\n"
    opened += "v.start(); v.close()"
    alone = silent(opened.format("sys.modules['arx_caps'] = None"), tmp_path / "orders.json")
    assert alone.count("\n") == 1
    assert "arx-caps is not installed here" in alone
    assert f"keep `arx ship {tmp_path / 'orders.json'}` running" in alone
    keyless = without_key(tmp_path / "orders.json")
    assert "enrol it with `arx service enrol`" in silent(opened.format("pass"), keyless)


@pytest.mark.slow
def test_a_fork_waits_for_the_import(up: Live, tmp_path: Path) -> None:
    """
    A child that was forked while a thread imports what calls the mint could never end that import.
    """
    place(up, tmp_path, APP)
    script = """
import os, sys
from arx_verifier import open_verifier
verifier = open_verifier(sys.argv[1])
verifier.start()
while "arx_caps" not in sys.modules:
    pass
child = os.fork()
if child == 0:
    os._exit(0 if hasattr(sys.modules.get("arx_caps.service.upkeep"), "keep_service") else 1)
assert os.waitpid(child, 0)[1] == 0, "the child has a module that is not whole"
verifier.close()
"""
    silent(script, tmp_path / "orders.json")


@pytest.mark.slow
def test_a_verifier_of_unit_tests_ships_nothing() -> None:
    """
    It has no service file, and starts no thread.
    """
    answer = silent(
        "import threading; from arx_verifier.testing import UnsafeTestRealm; r = UnsafeTestRealm('orders')\n"
        "r.verifier.start(); assert threading.active_count() == 1; r.verifier.close()"
    )
    assert answer == ""
