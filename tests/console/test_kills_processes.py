# SPDX-License-Identifier: Apache-2.0
"""A kill in the console of a real realm: a mint that is killed meanwhile, verifiers as processes, one that hangs."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from arx_caps.embedded import socket_path
from arx_caps.settings.realm import Realm
from tests.cli.live import Live, live_realm
from tests.mint.events import events_of

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.spec("CONTROL 4.7")]
SESSION = "session:s-abcdefghijklmnop"
VERIFIERS = 4
# A verifier's follower in a process of its own, which says when it has a lease.
FOLLOWER = """
import sys
from arx_verifier.revocation.follower import Follower
follower = Follower(*sys.argv[1:])
follower.start()
assert follower.catch_up(0, 0, 60.0)
print("live", flush=True)
sys.stdin.read()
"""


class Visitor:
    """A browser at a real mint."""

    def __init__(self, up: Live) -> None:
        url = urlsplit(up.ok("console", "open")["url"])
        self.origin = f"{url.scheme}://{url.netloc}"
        self.client = httpx.Client(base_url=self.origin, follow_redirects=True, timeout=60, trust_env=False)
        self.page = self.client.get(f"{url.path}?{url.query}").text
        self.post("/console/open", link=parse_qs(url.query)["link"][0])

    def post(self, path: str, **fields: str) -> httpx.Response:
        hidden = {
            name: unescape(value) for name, value in re.findall(r'name="(token|form)" value="([^"]*)"', self.page)
        }
        answer = self.client.post(path, data={**hidden, **fields}, headers={"Origin": self.origin})
        self.page = answer.text
        return answer

    def get(self, path: str) -> str:
        self.page = self.client.get(path).text
        return self.page

    def kill(self, target: str) -> str:
        """Kill a target in the dialog, and return the path of its page."""
        self.get(f"/console/kill?target={target}")
        return self.post("/console/kill", targets=target, what="kill", reason="a test", do="go").url.path


@pytest.fixture
def up(tmp_path: Path, free_port: int) -> Iterator[Live]:
    with live_realm(tmp_path / "realm", free_port) as live:
        yield live


@pytest.fixture
def visitor(up: Live) -> Iterator[Visitor]:
    made = Visitor(up)
    with contextlib.closing(made.client):
        yield made


@pytest.fixture
def fleet(up: Live) -> Iterator[list[subprocess.Popen[str]]]:
    realm = Realm.open(up.folder)
    url = f"unix://{socket_path(realm.valkey_dir)}"
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", FOLLOWER, url, realm.name]
    started = [subprocess.Popen([*command, f"orders-{number}"], **pipes) for number in range(VERIFIERS)]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "live\n"
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def final(visitor: Visitor, path: str) -> bool:
    return "Final: recorded" in visitor.get(path)


def test_verifiers_confirm_and_a_hanging_one_is_named(
    up: Live, visitor: Visitor, fleet: list[subprocess.Popen[str]]
) -> None:
    """All confirm; then one is stopped: its name and the end of its lease are on the page and in the log."""
    # A registry that is younger than a lease proves nothing yet.
    up.until(lambda: "badge ok" in (visitor.kill(SESSION) and visitor.page) and "confirmed" in visitor.page)
    assert f"{VERIFIERS + 1} of {VERIFIERS + 1}" in visitor.page
    paths: list[str] = []

    def is_named_alone() -> bool:
        paths.append(visitor.kill(SESSION))
        up.until(lambda: final(visitor, paths[-1]))
        return f"{VERIFIERS} of {VERIFIERS + 1}" in visitor.page

    os.kill(fleet[0].pid, signal.SIGSTOP)
    try:
        up.until(is_named_alone)  # on a loaded machine a second one may be late
    finally:
        os.kill(fleet[0].pid, signal.SIGCONT)
    assert "<code>orders-0</code>" in visitor.page
    record = up.run("kills", "show", paths[-1].rpartition("/")[2], "--wait")[1]
    assert (record["confirmations"]["status"], record["confirmations"]["unreachable"]) == ("partial", ["orders-0"])


@pytest.mark.nightly
def test_a_mint_that_is_killed_has_the_kill_again(
    up: Live, visitor: Visitor, fleet: list[subprocess.Popen[str]]
) -> None:
    """The mint dies before the laggard's lease has ended: its successor shows the kill, and records what it finds."""
    os.kill(fleet[0].pid, signal.SIGSTOP)
    path = visitor.kill(SESSION)
    up.kill_mint()
    os.kill(fleet[0].pid, signal.SIGCONT)
    with pytest.raises(httpx.TransportError):
        visitor.get(path)
    up.revive()
    assert "a test" in visitor.get(path)
    up.until(lambda: final(visitor, path))
    events = events_of(up.folder, "targets.confirmed")
    assert [str(event["seq"]) for event in events].count(path.rpartition("/")[2]) == 1
