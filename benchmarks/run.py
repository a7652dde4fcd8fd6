# SPDX-License-Identifier: Apache-2.0
"""Time calls and pushes under ``arx run`` beside the same ones without it: ``make bench-run``.

A small call through the front is compared with the gateway alone, which its client signs for; a small push with one
to the same server of git, by the same git.  All take turns, each client in a process of its own.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from arx_caps.demo.git_server import HttpBackend
from arx_caps.embedded import EmbeddedValkey
from arx_verifier import Rule
from benchmarks import page
from benchmarks.measure import about, save
from tests.adapters.asgi_server import complete_lifespan, serving
from tests.gateway.git_services import git, repository
from tests.run.world import GIT_RULES, RunWorld, run_world

TURNS: Final = 20
CALLS: Final = 100  # of a turn
PUSHES: Final = 60
CLIENT: Final = Path(__file__).with_name("run_client.py")
CATALOGUE: Final = """
[routes]
"GET /items/{name}" = { tool = "get", open = true }
"""
BOX: Final = ("--read", str(Path(sys.prefix)))
Client = Callable[..., list[float]]


async def service(scope: Any, receive: Any, send: Any) -> None:
    """Answer each request with the same text."""
    if await complete_lifespan(scope, receive, send):
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


def ordered(running: "subprocess.Popen[str]") -> Client:
    """Return what gives a client an order and waits for what it measured."""

    def order(**terms: Any) -> list[float]:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(json.dumps(terms) + "\n")
        running.stdin.flush()
        answer = running.stdout.readline()
        assert answer, running.communicate()[1]
        return list(json.loads(answer))

    return order


@contextlib.contextmanager
def alone(world: RunWorld) -> Iterator[Client]:
    """Run a client without `arx run`."""
    words = [sys.executable, str(CLIENT)]
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with subprocess.Popen(words, env=world.environment(), text=True, **pipes) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "begun\n"
        try:
            yield ordered(running)
        finally:
            running.terminate()


@contextlib.contextmanager
def under_run(world: RunWorld, *options: str) -> Iterator[Client]:
    """Run a client under `arx run`."""
    shutil.copy(CLIENT, world.folder / "work")
    script = str(world.folder / "work" / CLIENT.name)
    with world.started(sys.executable, "-I", script, options=options, cwd=world.folder / "work") as running:
        yield ordered(running)


def cuts(taken: list[float]) -> dict[str, float]:
    """Return what a tenth of the times keeps to, p50 and p99, ms."""
    found = statistics.quantiles(taken, n=100, method="inclusive")
    return {name: round(found[part - 1], 3) for name, part in (("tenth_ms", 10), ("p50_ms", 50), ("p99_ms", 99))}


def small_calls(folder: Path, valkey: EmbeddedValkey, turns: int) -> list[dict[str, Any]]:
    """Return p50 and p99 of small calls."""
    (folder / "api.toml").write_text(CATALOGUE)
    (folder / "work").mkdir()
    with run_world(folder, valkey, "bench", service, "api.toml", "api.example") as world:
        world.start(Rule(tool="*"))
        with alone(world) as direct, under_run(world, "--no-box") as plain, under_run(world, *BOX) as boxed:
            clients = {page.GATEWAY_ALONE: direct, page.FRONT: plain, page.FRONT_BOXED: boxed}
            place = {"gateway": world.url, "task": str(world.bundle)}
            taken: dict[str, list[float]] = {name: [] for name in clients}
            for _ in range(turns):
                for name, order in clients.items():
                    more = place if order is direct else {}
                    taken[name] += order(count=CALLS, warm=5, **more)
    return [{"name": name, **cuts(times)} for name, times in taken.items()]


def small_pushes(folder: Path, valkey: EmbeddedValkey, pairs: int) -> list[dict[str, Any]]:
    """Return p50 and p99 of small pushes."""
    (folder / "work").mkdir()
    clone = repository(folder)
    shutil.move(clone, folder / "work" / "clone")
    clone = folder / "work" / "clone"
    served = folder / "served" / "acme"
    shutil.copytree(served / "app.git", served / "direct.git")
    app = HttpBackend(folder / "served")
    with serving(app, log_level="critical") as port, run_world(folder, valkey, "bench-git", app) as world:
        world.start(*GIT_RULES)
        taken: dict[str, list[float]] = {page.PUSH_DIRECT: [], page.PUSH_FRONT: []}
        with alone(world) as direct, under_run(world, *BOX) as boxed:
            for number in range(pairs + 2):
                (clone / "file").write_text(str(number))
                git(clone, "commit", "--quiet", "-a", "-m", "next")
                ref = f"HEAD:refs/heads/agent/{number}"
                push = ["git", "-C", str(clone), "push", "--quiet"]
                each = {
                    page.PUSH_DIRECT: direct(words=[*push, f"http://127.0.0.1:{port}/acme/direct.git", ref]),
                    page.PUSH_FRONT: boxed(words=[*push, "https://git.example/acme/app.git", ref]),
                }
                for name, times in each.items():
                    taken[name] += times if number >= 2 else []
    return [{"name": name, **cuts(times)} for name, times in taken.items()]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Time work under arx run.")
    parser.add_argument("--quick", action="store_true", help="see that it works; write nothing")
    quick = parser.parse_args().quick
    found: dict[str, Any] = about("arx-verifier", "uvicorn", "aiohttp")
    with tempfile.TemporaryDirectory(prefix="arx-", dir="/var/tmp") as name:
        for folder in ("calls", "pushes", "store"):
            (Path(name) / folder).mkdir()
        with EmbeddedValkey(Path(name) / "store") as valkey:
            found["rows"] = small_calls(Path(name) / "calls", valkey, 2 if quick else TURNS)
            found["rows"] += small_pushes(Path(name) / "pushes", valkey, 2 if quick else PUSHES)
    if not quick:
        save("run", found)
        page.write()
    sys.stdout.write(page.run(found) + "\n")


if __name__ == "__main__":
    main()
