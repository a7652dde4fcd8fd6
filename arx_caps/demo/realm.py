# SPDX-License-Identifier: Apache-2.0
"""What the demos share: a realm in a temporary folder with its processes, and the check of what came of each step."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

LONGEST_S = 300  # a demo takes seconds; one that waits in vain, such as for a process that cannot start, ends

Started = TypeVar("Started")


class DemoRealm:
    """A realm in a folder, its processes, and the operator's command line."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.environment = {**os.environ, "ARX_HOME": str(folder)}

    def arx(self, *words: str | Path) -> str:
        """Run ``arx`` as the operator and return what it wrote."""
        command = [sys.executable, "-m", "arx_caps.cli", *words, "--quiet"]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=self.environment).stdout

    def kill(self, target: str, reason: str = "the demo's kill") -> dict[str, Any]:
        """Kill until every verifier has confirmed it, and return the report with the time of the first kill.

        On a loaded machine, a verifier may confirm later than its lease ends: exit code 3.
        """
        command = [sys.executable, "-m", "arx_caps.cli", "kill", target, "--reason", reason, "--yes"]
        first, until = 0, time.monotonic() + 30
        while True:
            done = subprocess.run(
                [*command, "--json", "--quiet"], check=False, stdout=subprocess.PIPE, text=True, env=self.environment
            )
            if done.returncode != 3:
                done.check_returncode()
            kill: dict[str, Any] = json.loads(done.stdout)
            first = first or kill["at_ms"]
            if done.returncode == 0 or time.monotonic() > until:
                return kill | {"at_ms": first}

    def start(self, *words: str | Path, python: str | Path = sys.executable, name: str = "") -> Iterator[str]:
        """Start a process that ends with the demo, and return the lines that it writes; it is in ``processes``."""
        command = [python, *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.environment)
        self.processes[name] = process
        self.end_with_the_demo(process)
        return iter(process.stdout or ())

    def end_with_the_demo(self, process: "subprocess.Popen[str]") -> None:
        """Stop a process at the end."""
        self._stack.enter_context(process)
        self._stack.callback(stop, process)


def stop(process: subprocess.Popen[str]) -> None:
    """End a process: ask it, and kill it if it does not end."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    process.kill()


def leave(number: int, _: object) -> NoReturn:
    """End by way of every cleanup: no process and no key may outlive the demo."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def run_demo(
    expected: Mapping[str, str],
    what: str,
    set_up: Callable[[DemoRealm], Started],
    play: Callable[[DemoRealm, Started], Iterator[dict[str, Any]]],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Play a demo, and return its report: each step, and the names of those that came out otherwise or are missing.

    Args:
        expected: The outcome of each step.
        what: What ``set_up`` starts.
        set_up: Starts the processes of a realm.
        play: Yields what came of each step.
        say: Writes lines for people.
    """
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, leave)
    signal.alarm(LONGEST_S)
    began, steps = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="arx-demo-") as folder, contextlib.ExitStack() as stack:
        realm = DemoRealm(Path(folder) / "realm", stack)
        started = set_up(realm)
        say(f"started {what} in {time.monotonic() - began:.1f} s")
        for step in play(realm, started):
            wanted = expected.get(step["step"], "no such step")
            steps.append({"step": step["step"], "came": step["came"], "expected": wanted, "why": step.get("why", [])})
            judged = "ok" if step["came"] == wanted else f"NOT AS EXPECTED: {wanted}"
            say("\n    ".join([f"- {step['step']}: {step['came']}  [{judged}]", *steps[-1]["why"]]))
    came = {step["step"]: step["came"] for step in steps}
    wrong = [step for step in {**expected, **came} if expected.get(step) != came.get(step)]
    return {"steps": steps, "not_as_expected": wrong, "seconds": round(time.monotonic() - began, 1)}


def free_addresses(count: int) -> list[str]:
    """Return the addresses, as URLs, of some free ports."""
    with contextlib.ExitStack() as held:  # all at once, so that the ports differ
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"http://127.0.0.1:{each.getsockname()[1]}" for each in sockets]
