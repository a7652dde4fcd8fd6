# SPDX-License-Identifier: Apache-2.0
"""`arx ship --metrics`: what a process that ships exports, and its health, while the mint runs and after."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from arx_caps.cli import exit_codes
from tests.cli.helpers import arx
from tests.cli.live import live_realm
from tests.exported import exported_by
from tests.servers import free_ports, until

pytestmark = [pytest.mark.servers, pytest.mark.spec("LOG 2.6")]


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


def test_a_single_pass_serves_no_metrics(tmp_path: Path) -> None:
    """Rather than to ignore the address."""
    ran = arx("ship", tmp_path / "orders.json", "--once", "--metrics", "127.0.0.1:1", "--json")
    assert (ran.exit_code, "invalid --metrics" in ran.err) == (exit_codes.USAGE, True)


def status(port: int, path: str) -> int | None:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=30).status_code
    except httpx.ConnectError:
        return None
