# SPDX-License-Identifier: Apache-2.0
"""The realm of the journeys: ``examples/busy_realm.py`` in a process of its own, its operators and its agents."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from arx_caps.agent import Agent, Approval, Session, StartedTask, Task
from tests.realm_folder import ARX
from tests.routes.environments import ROOT
from tests.servers import child


class DemoRealm:
    """A realm that is at work.

    Args:
        facts: What ``busy_realm.py`` reported.
        environment: That of its processes.
    """

    def __init__(self, facts: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.facts, self.environment = facts, {**environment, "ARX_HOME": facts["home"]}
        self.mint: str = facts["mint"]
        self.keys = Path(facts["keys"])

    def arx(self, *words: str | Path, operator: str | None = None, code: int = 0) -> Any:
        """Run a command that must end with this exit code, and return its answer."""
        command = [*ARX, *map(str, words), "--json"]
        if operator is not None:
            command += ["--operator-key", str(self.keys / f"{operator}.key")]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == code, f"{words}: {done.returncode}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout) if done.stdout else None

    def link(self, operator: str) -> str:
        """Return a link that signs an operator in, once."""
        return str(self.arx("console", "open", operator=operator)["url"])

    def process(self, words: str) -> int:
        """Return the pid of the realm's process whose command line has these words."""
        found = [
            int(entry.parent.name)
            for entry in Path("/proc").glob("[0-9]*/cmdline")
            if words in (line := _words_of(entry)) and str(self.facts["home"]) in line
        ]
        assert len(found) == 1, found
        return found[0]

    def agent(self, path: str) -> Agent:
        """Return one of the enrolled agents."""
        return Agent.from_key_file(self.keys / f"{path.replace('/', '.')}.json")

    def call(self, task: Task, tool: str, *approvals: Approval, **args: Any) -> str:
        """Call a tool, and return ``ok`` or the code of the refusal."""
        audience, _, verb = tool.partition(".")
        auth, url = task.auth(audience, approvals=approvals), self.facts["urls"][audience]
        answer = httpx.post(f"{url}/{verb}", json=args, auth=auth, timeout=60)
        return "ok" if answer.is_success else str(answer.json()["code"])

    @contextlib.contextmanager
    def working(self, path: str, template: str, purpose: str, **params: Any) -> Iterator[tuple[Session, StartedTask]]:
        """Open a session of an agent and start a task in it."""
        with self.agent(path) as agent:
            session = agent.open_session(purpose=purpose)
            yield session, session.start_task(template, **params)


def _words_of(entry: Path) -> str:
    try:
        return entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:  # it has ended
        return ""


@contextlib.contextmanager
def demo_realm(folder: Path, log: Path, rate: float) -> Iterator[DemoRealm]:
    """Make a busy realm and run it.

    Args:
        folder: An empty folder for it.
        log: Gets what its processes write.
        rate: Decisions a second.

    Raises:
        RuntimeError: It ended before it was ready.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, str(ROOT / "examples" / "busy_realm.py"), "--folder", str(folder), "--rate", str(rate)]
    with (
        log.open("w") as errors,
        child(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(log.read_text())
            yield DemoRealm(json.loads(line), environment)
        finally:
            process.terminate()  # its own processes end with it
