# SPDX-License-Identifier: Apache-2.0
"""Kills of a task under `arx run` in the middle of a clone, a push, an answer of a model, and between two calls."""

import base64
import itertools
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import pytest

from arx_caps.demo.git_server import HttpBackend
from arx_caps.embedded import EmbeddedValkey
from arx_verifier import Rule
from tests.adapters.asgi_server import complete_lifespan
from tests.gateway.git_services import refs_of, repository
from tests.house.pages import ROOT
from tests.run.world import GIT_RULES, RunWorld, run_world

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.4"), pytest.mark.spec("10")]

LEASE_S: Final = 1.0  # of the realm
CLIENT: Final = str(ROOT / "tests" / "run" / "kill_client.py")
DISCOVERY: Final = ("git.example", "/acme/app.git/info/refs?service=git-upload-pack")
MODELS: Final = ("model.example", "/v1/models/one")
CUT: Final = 18  # CURLE_PARTIAL_FILE
kills = pytest.mark.parametrize(
    "count", [pytest.param(2, marks=pytest.mark.slow), pytest.param(50, marks=pytest.mark.nightly)]
)


class Halting(HttpBackend):
    """A server of git that halts in the middle of each pack, until the client goes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.begun = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan" or scope["method"] == "GET":
            await super().__call__(scope, receive, send)
            return
        is_push, begun = scope["path"].endswith("git-receive-pack"), False

        async def halt() -> dict[str, Any]:
            self.begun.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            return {"type": "http.disconnect"}

        async def halved() -> Any:
            nonlocal begun
            if not is_push:
                return await receive()
            if begun:
                return await halt()
            begun, message = True, await receive()
            return {**message, "body": message["body"][:-20], "more_body": True}

        async def halted(message: Any) -> None:
            await send(message)
            if not is_push and message.get("body"):
                await halt()

        await super().__call__(scope, halved, halted)


class Model:
    """A model that begins each answer, and goes on without an end."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if await complete_lifespan(scope, receive, send):
            return
        kind = b"application/json" if scope["method"] == "GET" else b"text/event-stream"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        is_stream = scope["method"] == "POST"
        await send({"type": "http.response.body", "body": b"event: ping\ndata: {}\n\n", "more_body": is_stream})
        while is_stream and (await receive())["type"] != "http.disconnect":
            self.begun.set()


def kill(
    world: RunWorld, rules: tuple[Rule, ...], number: int, work: list[str], begun: threading.Event | None, *calls: str
) -> tuple[int, tuple[float, float]]:
    """Start work under a new task, and kill it once it has begun; return its status, and two times after the kill, s.

    The times are the begin of the first call that was refused, and the end of the work.
    """
    session = f"s-{base64.b32encode(number.to_bytes(10)).decode().lower()}"
    world.start(*rules, session=session)
    with world.started(sys.executable, CLIENT, json.dumps([work, *calls])) as running:
        assert begun is None or begun.wait(60)
        world.realm.kill(session)
        killed = time.monotonic()
        output, errors = running.communicate("\n", timeout=120)
    found = json.loads(output)
    *allowed, (refused, status) = found["calls"]
    assert status == 403, errors
    assert not [at for at, _ in allowed if at > killed + LEASE_S]
    return found["status"], (refused - killed, found["ended"] - killed)


def show(what: str, times: list[tuple[float, float]]) -> None:
    """Print the largest times after a kill."""
    calls, ends = ([round(1000 * value, 1) for value in each] for each in zip(*times, strict=True))
    print(
        f"{what}: {len(times)} kills; refused at most {max(calls)} ms after, the work over at most {max(ends)} ms after"
    )


@kills
def test_a_kill_in_the_middle_of_git_s_work(
    count: int, tmp_path: Path, valkey: EmbeddedValkey, realm_name: str
) -> None:
    """
    The clone and the push end with an error, no ref of the push exists, and each call after the lease is refused.
    """
    clone, service = repository(tmp_path), Halting(tmp_path / "served")
    served = tmp_path / "served" / "acme" / "app.git"
    before, numbers, url = refs_of(served), itertools.count(), "https://git.example/acme/app"
    work = {
        "clone": ["git", "clone", url, str(tmp_path / "new")],
        "push": ["git", "-C", str(clone), "push", url, "HEAD:refs/heads/agent/a"],
        "idle": [],
    }
    with run_world(tmp_path, valkey, realm_name, service) as world:
        for what, words in work.items():
            times = []
            for _ in range(count):
                service.begun.clear()
                begun = service.begun if words else None
                status, after = kill(world, GIT_RULES, next(numbers), words, begun, *DISCOVERY)
                assert (status != 0) is bool(words)
                assert not (tmp_path / "new").exists()
                times.append(after)
            show(what, times)
            assert refs_of(served) == before


@kills
def test_a_kill_in_the_middle_of_an_answer_of_a_model(
    count: int, tmp_path: Path, valkey: EmbeddedValkey, realm_name: str
) -> None:
    """
    The client sees an answer without its end, and each call after the lease is refused.
    """
    service, times = Model(), []
    ask = json.dumps({"model": "one", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "a"}]})
    words = ["curl", "-sSN", "-H", "content-type: application/json", "-d", ask, "https://model.example/v1/messages"]
    with run_world(tmp_path, valkey, realm_name, service, "anthropic", "model.example") as world:
        for number in range(count):
            service.begun.clear()
            status, after = kill(world, (Rule(tool="*"),), number, words, service.begun, *MODELS)
            assert status == CUT
            times.append(after)
    show("stream", times)
