# SPDX-License-Identifier: Apache-2.0
"""The ledger that ``arx up`` runs beside its store: budgets without a setting, a restart, and a ledger that fails."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import redis

from arx_caps.cli import exit_codes
from arx_verifier import Verifier
from tests.cli.live import AGENT, Live, call, live_realm, live_verifier

pytestmark = [pytest.mark.servers, pytest.mark.spec("17.5")]

ARGS = {"order_id": "o-1"}


def pid_of(url: str) -> int:
    """Return the process of an embedded server."""
    with redis.Redis.from_url(url) as raw:
        return int(raw.info("server")["process_id"])


def enrol(up: Live, folder: Path) -> Path:
    """Enrol an agent and the service of its task; return the service file."""
    up.ok("agent", "enrol", AGENT, "--key-out", folder / "agent.key")
    up.ok("service", "enrol", "orders", "--out", folder / "orders.json")
    up.ok("session", "open", "--key", folder / "agent.key", "--out", folder / "session")
    return folder / "orders.json"


def add_budget(up: Live) -> None:
    """Give each lookup a budget, and let the running mint read it."""
    policy = up.folder / "policy.toml"
    text = policy.read_text()
    policy.write_text(text.replace("[task.lookup]\n", "[task.lookup]\nbudget = { calls = 2 }\n"))
    up._up.send_signal(signal.SIGHUP)
    up.until(lambda: '"reloaded": true' in (up.folder / "up.err").read_text())


def start_task(up: Live, folder: Path, name: str = "held") -> Path:
    """Start a lookup; return the file of its bundle."""
    words = ("--param", "order_id=o-1", "--session", folder / "session")
    up.ok("task", "start", "lookup", *words, "--out", folder / name)
    return folder / name


def answer(verifier: Verifier, held: Path) -> str:
    """Call, and return the reason code."""
    return call(verifier, held, "orders.get", **ARGS).code


@pytest.mark.slow
def test_a_reloaded_policy_has_budgets_and_a_clean_stop_keeps_what_was_drawn(tmp_path: Path, free_port: int) -> None:
    """A service that was enrolled before the policy had budgets draws; after a stop each pool has what it had left."""
    with live_realm(tmp_path / "realm", free_port) as up:
        assert up.ready["ledger"] == f"unix://{tmp_path}/realm/ledger/valkey.sock"
        file = enrol(up, tmp_path)
        add_budget(up)
        held = start_task(up, tmp_path)
        with live_verifier(up, file) as orders:
            assert [answer(orders, held) for _ in range(3)] == ["ok", "ok", "budget_exhausted"]
            spared = start_task(up, tmp_path, "spared")
            assert answer(orders, spared) == "ok"
            up.until(lambda: up.run("doctor")[0] == exit_codes.OK)
        assert up.stop() == 0
        assert [*(tmp_path / "realm").glob("*/*.sock")] == []
    with live_realm(tmp_path / "realm", free_port) as up, live_verifier(up, file) as orders:
        assert answer(orders, held) == "budget_exhausted"
        pools = up.ok("budget", "list")["pools"]
        assert sorted((pool["used"], pool["remaining"], pool["lost"]) for pool in pools) == [
            ("1", "1", False),
            ("2", "0", False),
        ]
        assert up.run("doctor")[0] == exit_codes.OK
        assert [answer(orders, spared) for _ in range(2)] == ["ok", "budget_exhausted"]
        pool = next(pool["id"] for pool in pools if pool["used"] == "1")
        up.ok("budget", "top-up", pool, "1", "calls", "--reason", "after a restart", "--yes")
        assert [answer(orders, spared) for _ in range(2)] == ["ok", "budget_exhausted"]
        # A task that is started after the ledger draws at once: no server can have given out its pool before.
        begun = start_task(up, tmp_path, "begun")
        assert [answer(orders, begun) for _ in range(3)] == ["ok", "ok", "budget_exhausted"]


@pytest.mark.slow
def test_a_kill_and_a_copy_of_the_folder_exhaust(tmp_path: Path, free_port: int) -> None:
    """A realm that was killed, and one whose whole folder is put back as it was after an earlier clean stop."""
    folder = tmp_path / "realm"
    with live_realm(folder, free_port) as up:
        file = enrol(up, tmp_path)
        add_budget(up)
        held, spared = start_task(up, tmp_path), start_task(up, tmp_path, "spared")
        with live_verifier(up, file) as orders:
            assert [answer(orders, each) for each in (held, spared)] == ["ok", "ok"]
        assert up.stop() == 0
    copy = shutil.copytree(folder, tmp_path / "copy")
    with live_realm(folder, free_port) as up, live_verifier(up, file) as orders:
        assert [answer(orders, held) for _ in range(2)] == ["ok", "budget_exhausted"]
        server = pid_of(up.ready["ledger"])
        up._up.kill()
        up.until(lambda: not Path(f"/proc/{server}").exists())
    with live_realm(folder, free_port) as up, live_verifier(up, file) as orders:
        assert [answer(orders, each) for each in (held, spared)] == ["budget_exhausted"] * 2
        assert answer(orders, start_task(up, tmp_path, "after the kill")) == "ok"
        assert up.stop() == 0
    shutil.rmtree(folder)
    copy.rename(folder)
    with live_realm(folder, free_port) as up, live_verifier(up, file) as orders:
        assert [answer(orders, each) for each in (held, spared)] == ["budget_exhausted"] * 2


@pytest.mark.slow
def test_a_ledger_that_cannot_start_stops_no_kill(tmp_path: Path, free_port: int) -> None:
    """Killed, it is started again; with a damaged file its calls are refused, and the realm kills and grants."""
    with live_realm(tmp_path / "realm", free_port) as up:
        file = enrol(up, tmp_path)
        add_budget(up)
        held = start_task(up, tmp_path)
        with live_verifier(up, file) as orders:
            assert answer(orders, held) == "ok"
            os.kill(pid_of(up.ready["ledger"]), signal.SIGKILL)
            # Another server process: its last writes may be missing, so the pool is exhausted.
            up.until(lambda: answer(orders, held) == "budget_exhausted")
        assert up.stop() == 0
    (written,) = (tmp_path / "realm" / "ledger" / "appendonlydir").glob("*.incr.aof")
    content = written.read_bytes()
    written.write_bytes(b"*1\r\n$damaged\r\n" + content)
    with live_realm(tmp_path / "realm", free_port) as up, live_verifier(up, file) as orders:
        up.until(lambda: "the ledger did not start" in (up.folder / "up.err").read_text())
        assert answer(orders, held) == "store_unavailable"
        found = {check["name"]: check for check in up.run("doctor")[1]["checks"] if not check["ok"]}
        assert f"{tmp_path}/realm/ledger/valkey.log" in found["ledger"]["mend"]
        task = start_task(up, tmp_path, "other")
        up.confirmed("kill", "realm", "--reason", "a drill", "--yes")
        assert answer(orders, task) == "revoked"
        written.write_bytes(content)  # mended while the realm runs
        up.until(lambda: "ledger" not in {check["name"] for check in up.run("doctor")[1]["checks"] if not check["ok"]})
