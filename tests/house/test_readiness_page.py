# SPDX-License-Identifier: Apache-2.0
"""docs/readiness.md: routes of applications without an adapter and of gRPC, the systemd unit and the probes."""

import configparser
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml

from arx_caps.cli import exit_codes
from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier import ArxMiddleware, ArxWSGI
from arx_verifier.integrations.grpc import ArxInterceptor
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.asgi_server import serving
from tests.adapters.readiness import Readiness, check_readiness, route
from tests.cli.helpers import arx
from tests.house.pages import ROOT, blocks
from tests.house.reader import environment
from tests.servers import child, free_ports, freeze, listens, until

PAGE = (ROOT / "docs" / "readiness.md").read_text("utf-8")
MAIN = """
from orders import make_app
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.revocation.follower import Follower
from arx_verifier.token.keyring import KeyRing
from arx_verifier.verification.verifier import Verifier

follower = Follower({url!r}, {realm!r}, "orders-1")
keys = KeyRing({{"k1.0": bytes(32)}}, realm={realm!r})
app = make_app(Verifier(audience="orders", keys=keys, epochs=follower, decisions=InMemoryDecisions()))
"""


@pytest.fixture
def realm() -> UnsafeTestRealm:
    return UnsafeTestRealm("orders")


def asking(client: httpx.Client) -> Callable[[], Readiness]:
    """Return what asks the route, and requires that another one needs a token."""

    def ask() -> Readiness:
        assert client.get("/orders/o-1").status_code == 401
        answer = client.get("/readyz")
        return answer.status_code, answer.json()["why"]

    return ask


async def answered(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("no call is allowed")


def test_an_asgi_application(realm: UnsafeTestRealm) -> None:
    """
    Its route answers without a token, and every other one needs one.
    """
    outer = route("Another ASGI", app=answered, verifier=realm.verifier)["with_readyz"]
    tools = {"GET /orders/{order_id}": "orders.get"}
    app = ArxMiddleware(outer, verifier=realm.verifier, tools=tools, public=["/readyz"])
    with serving(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        check_readiness(realm, asking(client))


def test_a_wsgi_application(realm: UnsafeTestRealm) -> None:
    """
    Likewise.
    """
    outer = route("Another WSGI", app=None, verifier=realm.verifier)["with_readyz"]
    tools = {"GET /orders/{order_id}": "orders.get"}
    app = ArxWSGI(outer, verifier=realm.verifier, tools=tools, public=["/readyz"])
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://127.0.0.1") as client:
        check_readiness(realm, asking(client))


def test_a_grpc_service(realm: UnsafeTestRealm) -> None:
    """
    The method of health checks answers without a token, as grpc.health.v1 writes it.
    """
    arx = ArxInterceptor(realm.verifier, tools={}, public=["/grpc.health.v1.Health/Check"])
    server = grpc.server(futures.ThreadPoolExecutor(2), interceptors=[arx])
    route("`async def check`", server=server, verifier=realm.verifier)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")

            def ask() -> Readiness:
                serving = {b"\x08\x01": True, b"\x08\x02": False}[check(b"")]
                return (200 if serving else 503), realm.verifier.readiness().why

            check_readiness(realm, ask)
    finally:
        server.stop(None).wait()


def block_of(language: str) -> str:
    """Return the page's only block of a language."""
    (block,) = [block for block in blocks(PAGE) if block.language == language]
    return block.text


def unit() -> configparser.ConfigParser:
    """Return the page's unit."""
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(block_of("ini"))
    return parsed


def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    """
    ``systemd-analyze verify`` has no complaint, but that programs and users of the page are not on this machine.
    """
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    text = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", block_of("ini"))
    text = text.replace("User=orders", "User=root").replace("/usr/bin/curl", sys.executable)
    (tmp_path / "orders.service").write_text(text)
    done = subprocess.run([analyze, "verify", str(tmp_path / "orders.service")], capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if "orders.service" in line]
    assert (done.returncode, lines) == (0, []), done.stderr


@pytest.fixture
def folder(tmp_path: Path, own_valkey: EmbeddedValkey, own_fast_store: RevocationStore) -> Iterator[Path]:
    """The application of docs/service.md, in a realm whose store may be stopped."""
    (block,) = [
        block
        for block in blocks((ROOT / "docs" / "service.md").read_text("utf-8"))
        if block.before.endswith("`orders.py`:")
    ]
    (tmp_path / "orders.py").write_text(block.text)
    (tmp_path / "main.py").write_text(MAIN.format(url=own_valkey.url, realm=own_fast_store.realm))
    return tmp_path


@pytest.mark.slow
@pytest.mark.servers
def test_the_unit_and_the_probes_wait_for_the_lease(folder: Path, own_valkey: EmbeddedValkey) -> None:
    """
    While the store is stopped the process lives, is not ready, and the unit's start goes on; then it ends well; without
    the store the process is alive and not ready again.
    """
    service, [port], pid = unit()["Service"], free_ports(1), own_valkey.server_pid
    (container,) = yaml.safe_load(block_of("yaml"))["containers"]
    assert container["args"][0] == "uvicorn"
    assert f"{container['ports'][0]['containerPort']}" == "9001"

    def probe(name: str) -> bool:
        """Do what a kubelet does."""
        asked = container[name]
        if "tcpSocket" in asked:
            assert asked["tcpSocket"]["port"] == 9001
            return listens(port)
        assert asked["httpGet"]["port"] == 9001
        return httpx.get(f"http://127.0.0.1:{port}{asked['httpGet']['path']}", timeout=30).is_success

    def words(text: str) -> list[str]:
        return shlex.split(text.replace("9001", str(port)))

    freeze(pid)
    start = [sys.executable, "-m", "uvicorn", *words(service["ExecStart"])[1:]]
    with child(start, cwd=folder, env=environment()) as server:
        try:
            with child(words(service["ExecStartPost"])) as post:
                until(lambda: listens(port))
                assert [probe(f"{name}Probe") for name in ("startup", "liveness", "readiness")] == [True, True, False]
                output = arx("health", f"http://127.0.0.1:{port}", "--json")
                assert (output.exit_code, output.json["why"]) == (exit_codes.DENIED, "syncing")
                assert post.poll() is None
                os.kill(pid, signal.SIGCONT)
                assert post.wait(60) == 0
            until(lambda: probe("readinessProbe"))
            assert arx("health", f"http://127.0.0.1:{port}").exit_code == exit_codes.OK
            freeze(pid)
            until(lambda: not probe("readinessProbe"))
            assert probe("livenessProbe")
        finally:
            os.kill(pid, signal.SIGCONT)
            server.terminate()
