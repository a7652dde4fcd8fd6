# SPDX-License-Identifier: Apache-2.0
"""Streams under `arx run`: events that a kill cuts, clients that go, and a large push in constant memory."""

import random
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier import Rule
from tests.adapters.asgi_server import complete_lifespan
from tests.gateway.git_services import git, refs_of
from tests.run.page_realm import PageRealm
from tests.run.world import RunWorld, git_world, run_world

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.4")]

SESSION = "s-abcdefghijklmnop"
CATALOGUE = """
[routes]
"GET /watch" = { tool = "watch" }
"GET /wait" = { tool = "wait" }
"PUT /files/{name}" = { tool = "store", body = "stream" }
"""
MAX_BYTES = 64 << 20  # of `arx run`


class Service:
    """Sends one event and then none, or nothing at all, and notes clients that go."""

    def __init__(self) -> None:
        self.gone = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if await complete_lifespan(scope, receive, send):
            return
        if scope["path"] == "/watch":
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        message = await receive()
        while message["type"] != "http.disconnect":
            message = await receive()
        self.gone.set()


@pytest.fixture
def watched(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str) -> Iterator[tuple[RunWorld, Service]]:
    (tmp_path / "api.toml").write_text(CATALOGUE, "utf-8")
    service = Service()
    with run_world(tmp_path, valkey, realm_name, service, "api.toml", "api.example") as world:
        world.start(Rule(tool="*"), session=SESSION)
        yield world, service


def reading(world: RunWorld, *words: str) -> "subprocess.Popen[str]":
    """Run curl, whose output comes as it is sent."""
    command = world.words("curl", "-sSN", *words, "https://api.example/watch")
    return subprocess.Popen(command, env=world.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_kill_cuts_a_stream(watched: tuple[RunWorld, Service]) -> None:
    """
    The client sees an answer without its end, and not a whole one.
    """
    world, service = watched
    with reading(world) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "data: 1\n"
        world.realm.kill(SESSION)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 18, errors  # CURLE_PARTIAL_FILE
    assert "ASGI" not in errors
    assert service.gone.wait(60)


def test_a_client_that_goes_ends_its_request(watched: tuple[RunWorld, Service]) -> None:
    """
    At the service too: during the answer, during the body, and before an answer that does not begin.
    """
    world, service = watched
    with reading(world, "--max-time", "2") as running:
        assert running.wait(60) == 28
    assert service.gone.wait(60)
    service.gone.clear()
    done = world.run(
        "sh",
        "-c",
        "head -c 1000000 /dev/zero | curl -sS -T - --limit-rate 50k --max-time 2 https://api.example/files/a",
    )
    assert done.returncode == 28
    assert service.gone.wait(60)
    (world.folder / "whole").write_bytes(bytes(1000))
    for words in (("https://api.example/wait",), ("-T", "whole", "https://api.example/files/a")):
        service.gone.clear()
        assert world.run("curl", "-sS", "--max-time", "2", *words).returncode == 28
        assert service.gone.wait(30)  # sooner than the gateway's own limit, 60 s


each_size = pytest.mark.parametrize(
    "mebibytes", [pytest.param(100, marks=pytest.mark.slow), pytest.param(1024, marks=pytest.mark.nightly)]
)


def large_push(clone: Path, mebibytes: int) -> tuple[str, ...]:
    """Commit a file that no compression makes smaller; return a command that pushes it, and prints its parent's use."""
    with (clone / "large").open("wb") as file:
        for seed in range(mebibytes):
            file.write(random.Random(seed).randbytes(1 << 20))
    git(clone, "add", "large", core_compression="0", core_bigFileThreshold="1m")
    git(clone, "commit", "--quiet", "-m", "large")
    push = f"git -C {clone} push --quiet origin HEAD:refs/heads/agent/login && cat /proc/$PPID/status"
    return "sh", "-c", push


def hold_push(clone: Path, bare: Path, written: str, most: int = MAX_BYTES) -> None:
    """Require that the push arrived, through a process that took less than ``most`` bytes."""
    assert refs_of(bare)["refs/heads/agent/login"] == git(clone, "rev-parse", "HEAD").strip(), written
    found = re.search(r"VmHWM:\s+(\d+) kB", written)
    assert found
    assert int(found[1]) * 1024 < most


@each_size
def test_a_large_push_takes_constant_memory(
    mebibytes: int, tmp_path: Path, valkey: EmbeddedValkey, realm_name: str
) -> None:
    """
    A pack of 100 MiB or 1 GiB passes through the front.
    """
    with git_world(tmp_path, valkey, realm_name) as (world, clone):
        done = world.run(*large_push(clone, mebibytes))
        assert done.returncode == 0, done.stderr
        hold_push(clone, tmp_path / "served" / "acme" / "app.git", done.stdout)


@each_size
def test_a_large_push_with_a_key_takes_constant_memory(mebibytes: int, tmp_path: Path) -> None:
    """
    The same with a task that `arx run` starts at the mint, for which it has a second HTTP client.
    """
    realm = PageRealm(tmp_path)
    push = large_push(realm.clone, mebibytes)
    with realm.running():
        hold_push(realm.clone, realm.bare, realm.output(*push, options=("--no-box",)), MAX_BYTES + (4 << 20))
