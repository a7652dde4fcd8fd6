# SPDX-License-Identifier: Apache-2.0
"""A realm that really runs, made and driven by the command line alone."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from arx_caps.agent import Task
from arx_caps.cli import exit_codes
from arx_verifier import AccessRequest, Decision, Verifier
from arx_verifier.service import open_verifier
from tests.cli.helpers import arx
from tests.servers import until

AGENT = "acme/support/triage"
DEADLINE_S = 60.0


class Live:
    """A running realm, made first where it does not exist.

    Attributes:
        folder: Its folder.
        ready: What ``arx up`` said when it was ready.
        started_s: The second in which it was, or a later one, since 1970.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")}
        self._environment |= {"ARX_HOME": str(folder), "PYTHONWARNINGS": "error"}
        if not folder.exists():
            self.ok("init", "--name", "acme", "--issuer", f"http://127.0.0.1:{port}")
        command = [sys.executable, "-m", "arx_caps.cli", "up", "--json"]
        with (folder / "up.err").open("w") as err:
            self._up: subprocess.Popen[str] = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=err, text=True, env=self._environment
            )
        assert self._up.stdout is not None
        line = self._up.stdout.readline()
        if not line:
            self.stop()
        assert line, (folder / "up.err").read_text()
        self.ready: dict[str, Any] = json.loads(line)
        self.started_s = int(time.time())

    def run(self, *words: str | Path) -> tuple[int, dict[str, Any], str]:
        """Run a command with ``--json``; returns exit code, object and stderr.

        In this process: in one of its own, imports take most of the time of these tests.
        """
        done = arx(*words, "--json", env={"ARX_HOME": str(self.folder)})
        assert "Traceback" not in done.err, done.err
        return done.exit_code, done.json, done.err

    def ok(self, *words: str | Path) -> dict[str, Any]:
        """Run a command that must succeed."""
        exit_code, output, err = self.run(*words)
        assert exit_code == 0, (words, output, err)
        return output

    def confirmed(self, *words: str | Path) -> dict[str, Any]:
        """Kill, freeze or thaw until every verifier has confirmed it; repeating is harmless.

        Within its first lease a registry proves nothing, and on a loaded machine a verifier confirms late.
        """
        notices: list[dict[str, Any]] = []

        def holds() -> bool:
            exit_code, report, err = self.run(*words)
            assert exit_code in (exit_codes.OK, exit_codes.INCOMPLETE), (words, report, err)
            notices.append(report)
            return exit_code == exit_codes.OK

        self.until(holds)
        return notices[-1]

    def kill_mint(self) -> None:
        """Kill the mint; the store goes on, and the mint is not started again."""
        self._up.send_signal(signal.SIGSTOP)
        os.kill(self.ready["pid"], signal.SIGKILL)

    def revive(self) -> None:
        """Let the mint be started again, and wait until it is."""
        self._up.send_signal(signal.SIGCONT)
        self.until(lambda: self.run("agent", "list")[0] == 0)

    def until(self, holds: Callable[[], bool]) -> None:
        """Look again and again until something is so."""
        until(holds, DEADLINE_S)

    def stop(self) -> int:
        """Stop the realm in order and return the exit code."""
        self._up.send_signal(signal.SIGCONT)
        self._up.terminate()
        assert self._up.stdout is not None
        self._up.stdout.close()
        return self._up.wait(60)


@contextlib.contextmanager
def live_realm(folder: Path, port: int) -> Iterator[Live]:
    """Run a realm; everything of it is stopped at the end."""
    live = Live(folder, port)
    try:
        yield live
    finally:
        live.stop()


@contextlib.contextmanager
def live_verifier(live: Live, file: Path) -> Iterator[Verifier]:
    """A service's verifier, live in the store's registry."""
    verifier = open_verifier(file)
    verifier.start()
    live.until(lambda: verifier.epochs.check(None, 0, ()) is None)
    # A store refuses calls of the second in which it has started: it may have forgotten used ones.
    live.until(lambda: int(time.time()) > live.started_s)
    yield verifier
    verifier.close()


def call(verifier: Verifier, held: Path, tool: str, **args: Any) -> Decision:
    """Call a tool with what a file holds, as its holder would, and return what the service decides."""
    task = Task.from_text(held.read_text())
    text = task.call_token(verifier.audience, tool, args)
    return verifier.decide(text, AccessRequest(tool, args, time.time_ns() // 1_000_000, "127.0.0.1"))
