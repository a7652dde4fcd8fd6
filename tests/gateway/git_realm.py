# SPDX-License-Identifier: Apache-2.0
"""A realm that runs, with a gateway before `git http-backend`, and agents that push for people."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from arx_caps.agent import Task
from arx_caps.demo.git_server import HttpBackend
from tests.adapters.asgi_server import serving
from tests.gateway.git_services import front, repository
from tests.mint.issuer import IDP, MINT, jwks, token
from tests.realm_folder import RealmFolder
from tests.servers import free_ports

AGENT: Final = "acme/coder"
POLICY: Final = """
[issuer.corp]
url = "IDP"
jwks = "corp.jwks"
audience = ["MINT"]
algorithms = ["ES256"]

[audience.git]
origins = ["http://127.0.0.1:GATEWAY"]

[session.people]
agents = ["acme/**"]
ttl = "1h"
subject = "required"
subjects = [{ issuer = "corp" }]
subject_outlives = "1h"

[task.code]
agents = ["acme/**"]
ttl = "1h"
depth = 2
audience = ["git"]
allow = [
  { tool = "git.fetch", args = { repo = { glob = "acme/*" } } },
  { tool = "git.push", args = PUSH },
]
"""
PUSH: Final = (
    '{ repo = { glob = "acme/*" }, refs = { each = { glob = "refs/heads/agent/*" } }, '
    "creates = { min = 0 }, deletes = 0 }"
)
GATEWAY: Final = """
[gateway]
listen = ["127.0.0.1:{gateway}"]

[upstream.git]
audience = "git"
url = "http://127.0.0.1:{upstream}"
catalogue = "git"
"""


class TaskCaller(httpx.Auth):
    """Signs what a front sends, as an agent with a task does."""

    requires_request_body = True

    def __init__(self, task: Task) -> None:
        self._task, self.auth_flow = task, task.auth("git").auth_flow  # type: ignore[method-assign]

    def token(self, tool: str, /, **args: Any) -> str:
        """Return the token of one call."""
        return self._task.call_token("git", tool, args)


class GitRealm(RealmFolder):
    """The realm.

    Args:
        folder: For its files, and for the repositories, in ``served``.

    Attributes:
        clone: A clone of the repository `acme/app`, with a commit that is not pushed.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.clone = repository(folder)
        self._gateway = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run mint, gateway and repositories, with the agent enrolled."""
        mint, self._gateway = free_ports(2)
        with serving(HttpBackend(self.folder / "served"), log_level="critical") as upstream:
            self.arx("init", str(self.folder / "realm"), "--listen", f"127.0.0.1:{mint}")
            ports = {"gateway": self._gateway, "upstream": upstream}
            policy = (
                POLICY.replace("PUSH", PUSH)
                .replace("IDP", IDP)
                .replace("MINT", MINT)
                .replace("GATEWAY", str(self._gateway))
            )
            (self.folder / "realm" / "policy.toml").write_text(policy)
            (self.folder / "realm" / "corp.jwks").write_bytes(jwks())
            (self.folder / "gateway.toml").write_text(GATEWAY.format(**ports))
            with self.up("--gateway", "gateway.toml", ready='"upstreams": ["git"]'):
                self.arx("agent", "enrol", AGENT, "--key-out", str(self.folder / "coder.key"))
                yield

    def task(self, person: str) -> Task:
        """Return a task that the agent has for a person."""
        files = [self.folder / f"{person}.{kind}" for kind in ("jwt", "session", "bundle")]
        files[0].write_text(token(time.time_ns() // 1_000_000, sub=person))
        files[0].chmod(0o600)
        key = str(self.folder / "coder.key")
        self.arx("session", "open", "--key", key, "--id-token", str(files[0]), "--out", str(files[1]))
        self.arx("task", "start", "code", "--session", str(files[1]), "--out", str(files[2]))
        return Task.load(files[2])

    def front(self, task: Task) -> contextlib.AbstractContextManager[str]:
        """Serve the URL at which an unmodified git reaches the repositories under a task."""
        caller: Any = TaskCaller(task)
        return front(f"http://127.0.0.1:{self._gateway}/git", caller, audience="git")
