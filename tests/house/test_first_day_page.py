# SPDX-License-Identifier: Apache-2.0
"""docs/first-day.md: its steps, on a real application."""

import contextlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from arx_caps.agent import Agent
from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.cli.helpers import arx
from tests.cli.live import AGENT, Live, live_realm
from tests.cli.test_service_keys import joined
from tests.house.pages import ROOT, blocks, matches
from tests.servers import free_ports, until

PAGE = (ROOT / "docs" / "first-day.md").read_text("utf-8")


def test_a_service_in_watch_mode_answers_as_before(tmp_path: Path) -> None:
    """
    Each call goes on, with its own credentials, and says why an enforcing guard would refuse it.
    """
    (block,) = [block for block in blocks(PAGE) if "`main.py`" in block.before]
    (tmp_path / "main.py").write_text(block.text, "utf-8")
    realm = UnsafeTestRealm("orders")
    agent = realm.caller(Rule(tool="orders.get", args={"order_id": "o-1"}))
    with TestClient(runpy.run_path(str(tmp_path / "main.py"))["make_app"](realm.verifier)) as client:
        assert client.get("/orders/o-1", auth=agent).json() == {"order": "o-1", "would_refuse": None}
        assert client.get("/orders/o-2", auth=agent).json()["would_refuse"] == "argument_not_allowed"
        assert client.get("/orders/o-2", headers={"authorization": "Bearer own"}).json()["would_refuse"] == "malformed"
        realm.epochs.kill("session:s-test")
        assert client.get("/orders/o-1", auth=agent).json()["code"] == "revoked"
    recorded = [each.arguments for each in realm.decisions.decisions]
    assert recorded == [b'{"order_id":"%s"}' % order for order in (b"o-1", b"o-2", b"o-2", b"o-1")]


SERVE = """
from arx_verifier import open_verifier
from main import make_app
app = make_app(open_verifier("orders.json"{limits}))
"""
WATCH = ', mode="watch", until=UNTIL, record="arguments"'
BROAD = """
[session]
agents = ["acme/**"]
ttl = "1h"
[task.any]
agents = ["acme/**"]
ttl = "1h"
audience = ["orders"]
allow = [{ tool = "orders.*", any = true }]
"""


@contextlib.contextmanager
def served(folder: Path, origin: str, *, limits: str = "") -> Iterator[None]:
    """Run the page's application with the service file, as a process of its own."""
    (folder / "serve.py").write_text(SERVE.format(limits=limits))
    command = [sys.executable, "-m", "uvicorn", "serve:app", "--port", origin.rpartition(":")[2], "--no-proxy-headers"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")}
    process = subprocess.Popen([*command, "--log-level", "warning"], cwd=folder, env=environment)
    try:
        until(lambda: answers(origin))
        yield
    finally:
        process.terminate()
        process.wait(30)


def answers(origin: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{origin}/nowhere").status_code > 0
    return False


def get(folder: Path, origin: str, template: str, order: str, *paths: str) -> list[httpx.Response]:
    """Start a task for an order in a session of its own, and read orders."""
    with (
        Agent.from_key_file(folder / "agent.key") as agent,
        agent.open_session(purpose="where is the order?") as session,
    ):
        task = session.start_task(template, **({} if template == "any" else {"order_id": order}))  # type: ignore[arg-type]
        with httpx.Client(base_url=origin, auth=task.auth(), timeout=60) as client:
            return [client.get(f"/orders/{path}") for path in paths]


def type_in(live: Live, section: str, exit_codes: tuple[int, ...] = (0,)) -> None:
    """Type the commands of a section, and compare what they write."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    for block in (block for block in blocks(text) if block.language == "console"):
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
            ran = arx(*shlex.split(command)[1:], env={"ARX_HOME": str(live.folder)})
            assert ran.exit_code in exit_codes, (command, ran)
            assert matches(shown, ran.out or ran.err), ran.out or ran.err


@pytest.mark.slow
@pytest.mark.servers
def test_the_day_ends_with_one_service_that_enforces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Watched, drafted, checked, put in force, enforced, and under a ceiling: each command of the page, on a real service.
    """
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks(PAGE) if "`main.py`" in block.before]
    with live_realm(tmp_path / "realm", free_ports(1)[0]) as live:
        live.ok("agent", "enrol", AGENT, "--key-out", tmp_path / "agent.key")
        joined(live, tmp_path)
        origin = re.search(r'audience.orders]\norigins = \["(http://[^"]+)"', live.ok("policy", "show")["policy"])
        assert origin is not None
        (tmp_path / "main.py").write_text(block.text)
        with served(tmp_path, origin[1]):
            for n in range(4):
                seen = get(tmp_path, origin[1], "lookup", f"o-{n}", f"o-{n}", f"o-{n}")
                assert [each.status_code for each in seen] == [200, 200]
            assert httpx.get(f"{origin[1]}/orders/o-9").json()["would_refuse"] == "missing_token"
            live.until(lambda: live.run("policy", "draft", "--from", "7d")[1].get("calls") == 9)
            type_in(live, "Draft a policy of what was seen")
            type_in(live, "Check, test and compare it", (0, 1))
        (tmp_path / "main.py").write_text(block.text.replace(WATCH, ""))
        (draft,) = live.ok("policy", "show")["policy"].split("[task.")[1:2]
        assert draft.startswith("triage-where-is-the-order]")
        with served(tmp_path, origin[1]):
            allowed, other = get(tmp_path, origin[1], "triage-where-is-the-order", "o-1", "o-1", "o-2")
            assert (allowed.status_code, other.json()["code"]) == (200, "argument_not_allowed")
            assert httpx.get(f"{origin[1]}/orders/o-9").status_code == 401
        (limits,) = [block.text for block in blocks(PAGE) if block.language == "toml"]
        (tmp_path / "orders-limits.toml").write_text(limits)
        (tmp_path / "broad.toml").write_text(f'[audience.orders]\norigins = ["{origin[1]}"]\n{BROAD}')
        live.ok("policy", "load", tmp_path / "broad.toml")
        with served(tmp_path, origin[1], limits=', limits="orders-limits.toml"'):
            allowed, above = get(tmp_path, origin[1], "any", "", "o-1", "x-1")
            assert (allowed.status_code, above.json()["code"]) == (200, "over_service_limit")
