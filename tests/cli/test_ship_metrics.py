# SPDX-License-Identifier: Apache-2.0
"""`arx ship --metrics`: what a process that ships exports, and its health, while the mint runs and after."""

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from arx_caps.cli import exit_codes
from arx_caps.http.metrics import AT_ONCE, READ_S, metrics_served
from tests.cli.helpers import arx
from tests.cli.live import live_realm
from tests.exported import exported_by
from tests.servers import free_ports, until

pytestmark = [pytest.mark.servers, pytest.mark.spec("LOG 2.6")]


@pytest.mark.nightly
def test_a_process_that_ships_is_watched(tmp_path: Path) -> None:
    """It exports what is registered, is ready while the mint answers, and names the reason when it does not."""
    own, mint = free_ports(2)
    with live_realm(tmp_path / "realm", mint) as up:
        file = tmp_path / "orders.json"
        up.ok("service", "enrol", "orders", "--out", file, "--journal", tmp_path / "journal")
        words = [sys.executable, "-m", "arx_caps.cli", "ship", str(file), "--quiet", "--metrics", f"127.0.0.1:{own}"]
        with subprocess.Popen(words) as ship:
            try:
                until(lambda: status(own, "/healthz") == 200)
                until(lambda: exported_by("ship", f"127.0.0.1:{own}")["arx_ship_keys_age_seconds"])
                values = exported_by("ship", f"127.0.0.1:{own}")
                assert values["arx_ship_behind_seconds"] == {("orders",): 0.0}
                assert values["arx_ship_lost_records_total"] == {("orders",): 0.0}
                assert [labels[0] for labels in values["arx_build_info"]] == ["ship"]
                assert status(own, "/readyz") == 200
                up.stop()
                until(lambda: status(own, "/readyz") == 503)
                assert httpx.get(f"http://127.0.0.1:{own}/readyz").json()["because"] != []
                assert status(own, "/healthz") == 200
            finally:
                ship.terminate()
        assert status(own, "/healthz") is None
        with subprocess.Popen(words) as ship:  # which never gets an answer
            try:
                until(lambda: status(own, "/readyz") == 503)
                assert exported_by("ship", f"127.0.0.1:{own}")["arx_ship_keys_age_seconds"]["orders",] > 0
            finally:
                ship.terminate()


def test_a_single_pass_serves_no_metrics(tmp_path: Path) -> None:
    """Rather than to ignore the address."""
    ran = arx("ship", tmp_path / "orders.json", "--once", "--metrics", "127.0.0.1:1", "--json")
    assert (ran.exit_code, "invalid --metrics" in ran.err) == (exit_codes.USAGE, True)


def test_clients_that_send_nothing_take_a_bounded_number_of_threads() -> None:
    """Further connections are closed unanswered; one that ends makes room for the next."""
    [port] = free_ports(1)
    with metrics_served("test", f"127.0.0.1:{port}", CollectorRegistry(), list), contextlib.ExitStack() as idle:
        clients = [idle.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(AT_ONCE)]
        with socket.create_connection(("127.0.0.1", port), READ_S / 2) as refused:  # before a silent one is closed
            assert refused.recv(1) == b""
        clients[0].close()
        until(lambda: answers(port))


def answers(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return status(port, "/healthz") == 200
    return False


def status(port: int, path: str) -> int | None:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=30).status_code
    except httpx.ConnectError:
        return None
