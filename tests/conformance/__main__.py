# SPDX-License-Identifier: Apache-2.0
"""Run the MCP conformance suite and the inspector with ARx before a real server: ``make conformance``.

The suite runs against the server itself, and through ``arx gateway`` with a task that allows everything: each scenario
and each check must have the same outcome.  A proxy signs its requests.  The gateway reaches the server over HTTP
(``web``) and once more over stdio (``pipe``).  The scenarios of tasks have a server of their own (``jobs``).  Those for
authorization servers run against the mint, and against what the gateway shows of it.  What others made is in
``build/conformance``, and so are the results.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from arx_caps.agent import Task
from tests.adapters.asgi_server import serving
from tests.conformance.authorization import authorization_faults
from tests.conformance.inspector import ERAS, Inspector, faults, hidden_faults
from tests.conformance.packages import BUILD, node_packages, server_python
from tests.conformance.signing_proxy import signing_proxy
from tests.conformance.suite import REVISIONS, Outcome, differences, failures, run_suite
from tests.conformance.world import World

TASKS: Final = "tasks-"  # scenarios of the extension of 2026-07-28, which have a server of their own
# A gateway passes on no id of a task that it has not given to this client.
EXPECTED_OF_TASKS: Final = {
    "tasks-capability-negotiation": "a client that knows no tasks has begun none: -32602 comes before -32021",
}
# Over a pipe the same server cannot do the same, and the suite must show it.
EXPECTED: Final = {
    "2025-11-25": {
        "server-sse-multiple-streams": "the gateway answers with JSON where a server over HTTP opens a stream",
        "server-sse-polling": "a server closes a stream of HTTP before its answer, so that the client asks for it",
    },
    "2026-07-28": {
        "http-custom-header-server-validation": "a server that reads no headers misses none for its arguments",
    },
}


def main() -> None:
    """Run it.

    Raises:
        SystemExit: An outcome is another one through ARx.
    """
    argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__).parse_args()
    packages, python = node_packages(), server_python()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), python)
        try:
            with world.running():
                lines += [*_authorization(world, packages)]
                lines += [*_suites(world, packages), *_inspections(world, packages, Path(folder))]
        finally:
            (BUILD / "logs.txt").write_text(world.logs(), "utf-8")
    if lines:
        sys.exit("\n".join(["failed:", *lines, f"see {BUILD}"]))


def _authorization(world: World, packages: Path) -> Iterator[str]:
    lines = [*authorization_faults(world, packages, world.client("little"))]
    yield from lines
    _say(f"authorization: {len(lines)} lines of faults")


def _suites(world: World, packages: Path) -> Iterator[str]:
    urls = {"web": world.web, "pipe": world.pipe, "jobs": world.jobs}
    with _signed(Task.load(world.task("everything")), urls) as signed:
        for revision in REVISIONS:

            def found(name: str, url: str, has_tasks: bool = False, revision: str = revision) -> Outcome:
                outcome = run_suite(packages, url, revision, BUILD / revision / name)
                return {key: each for key, each in outcome.items() if key.startswith(TASKS) == has_tasks}

            direct = found("direct", world.direct)
            yield from (f"{revision} direct: {line}" for line in failures(direct))
            for name, expected in (("web", {}), ("pipe", EXPECTED[revision])):
                yield from _compared(f"{revision} {name}", direct, found(name, f"{signed}/{name}"), expected)
        direct = found("tasks", world.tasks, has_tasks=True)
        yield from (f"{revision} tasks: {line}" for line in failures(direct))
        yield from _compared(
            f"{revision} jobs", direct, found("jobs", f"{signed}/jobs", has_tasks=True), EXPECTED_OF_TASKS
        )


def _compared(name: str, direct: Outcome, behind: Outcome, expected: Mapping[str, str]) -> Iterator[str]:
    lines = differences(direct, behind, expected)
    yield from (f"{name}: {line}" for line in lines)
    checks = sum(each.total() for each in behind.values())
    _say(f"{name}: {len(behind)} scenarios, {checks} checks; {len(lines)} lines of differences")
    for scenario, reason in expected.items():
        _say(f"  as expected, {scenario} is another one: {reason}")


def _inspections(world: World, packages: Path, folder: Path) -> Iterator[str]:
    file = world.task("little")
    with _signed(Task.load(file), {"web": world.web}) as signed:
        targets = {
            "http": ("--transport", "http", "--server-url", f"{signed}/web"),
            "stdio": ("--config", str(world.client_config(file, world.web)), "--server", "web"),
        }
        for name, target in targets.items():
            for era in ERAS:
                lines = [*faults(Inspector(packages, target, era, folder))]
                yield from (f"inspector, {name}, {era}: {line}" for line in lines)
                _say(f"inspector, {name}, {era}: {len(lines)} faults")
        yield from hidden_faults(world, Task.load(file))


@contextlib.contextmanager
def _signed(task: Task, urls: Mapping[str, str]) -> Iterator[str]:
    """Sign requests with a task; yield the origin of a proxy whose path is the audience."""
    with serving(signing_proxy(task, urls), lifespan="off") as port:
        yield f"http://127.0.0.1:{port}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
