# SPDX-License-Identifier: Apache-2.0
"""A realm with its gateway before the suite's server, reached over HTTP and over stdio."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from arx_caps.agent import Agent
from tests.mint.login import issuer
from tests.realm_folder import ARX, RealmFolder
from tests.servers import free_ports, listens, until

STDIO: Final = "import sys; from mcp_everything_server.server import mcp; mcp.run('stdio')"
POLICY: Final = """
[issuer.corp]
url = "{issuer}"
jwks = "{issuer}/keys"
audience = ["unused"]
algorithms = ["ES256"]
[audience.web]
origins = ["http://127.0.0.1:{web}"]
[audience.pipe]
origins = ["http://127.0.0.1:{pipe}"]
[audience.jobs]
origins = ["http://127.0.0.1:{jobs}"]
[session.all]
agents = ["acme/**"]
ttl = "1h"
subject = "allowed"
subjects = [ {{ issuer = "corp" }} ]
subject_outlives = "1h"
[task.everything]
agents = ["acme/**"]
ttl = "1h"
audience = ["web", "pipe", "jobs"]
allow = [{{ tool = "web.*", any = true }}, {{ tool = "pipe.*", any = true }}, {{ tool = "jobs.*", any = true }}]
[task.little]
agents = ["acme/**"]
ttl = "1h"
audience = ["web"]
allow = [
  {{ tool = "web.test_simple_text", args = {{}} }},
  {{ tool = "web.test_x_mcp_header", args = {{ region = "eu" }} }},
]
"""
GATEWAY: Final = """
[gateway]
listen = ["127.0.0.1:{web}", "127.0.0.1:{pipe}", "127.0.0.1:{jobs}"]
origins = ["http://127.0.0.1:{web}", "http://127.0.0.1:{pipe}"]
[upstream.web]
audience = "web"
url = "http://127.0.0.1:{server}/mcp"
server_requests = ["sampling", "elicitation", "roots"]
resource = "http://127.0.0.1:{web}/web"
[upstream.pipe]
audience = "pipe"
command = ["{python}", "-c", "{stdio}"]
server_requests = ["sampling", "elicitation", "roots"]
isolation = "none"
[upstream.jobs]
audience = "jobs"
url = "http://127.0.0.1:{tasks}/mcp"
server_requests = ["elicitation"]
"""
# The suite warns of a server that takes no client described by a document.
DESCRIBED: Final = """\
clients_agent = "acme/little-client"
clients_scopes = ["little"]
clients_hosts = ["app.example"]
"""


class World(RealmFolder):
    """What runs.

    Args:
        folder: For its files.
        python: The Python of the server's environment.

    Attributes:
        direct: The server's own URL.
        web: The gateway's URL of it.
        pipe: The gateway's URL of the same server over stdio.
        tasks: The own URL of the server with tasks.
        jobs: The gateway's URL of it.
        mint: The mint's URL.
        gateway: The gateway's origin, where clients that know no metadata of resources look for that of the mint.
    """

    def __init__(self, folder: Path, python: Path) -> None:
        super().__init__(folder)
        self._python = python
        self._processes: list[subprocess.Popen[bytes]] = []
        self._mint, self._server, self._tasks, self._web, self._pipe, self._jobs = free_ports(6)
        self.direct = f"http://127.0.0.1:{self._server}/mcp"
        self.tasks, self.jobs = f"http://127.0.0.1:{self._tasks}/mcp", f"http://127.0.0.1:{self._jobs}/jobs"
        self.web, self.pipe = f"http://127.0.0.1:{self._web}/web", f"http://127.0.0.1:{self._pipe}/pipe"
        self.mint, self.gateway = f"http://127.0.0.1:{self._mint}", f"http://127.0.0.1:{self._web}"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the servers, the realm and the gateway."""
        ports = {"web": self._web, "pipe": self._pipe, "jobs": self._jobs}
        ports |= {"server": self._server, "tasks": self._tasks}
        text = GATEWAY.format(**ports, python=self._python, stdio=STDIO)
        (self.folder / "gateway.toml").write_text(text)
        server = (str(self._python), "-m", "mcp_everything_server", "--port", str(self._server))
        with issuer(self.mint) as people:
            self.make(self._mint, POLICY.format(**ports, issuer=people.url), people.url, more=DESCRIBED)
            with self._serving(server):
                yield

    @contextlib.contextmanager
    def _serving(self, server: tuple[str, ...]) -> Iterator[None]:
        with (
            self._started("server", *server, "--log-level", "WARNING"),
            self._started("tasks", sys.executable, "-m", "tests.conformance.task_server", str(self._tasks)),
            self._started("gateway", *ARX, "up", "--gateway", "gateway.toml"),
        ):
            self._wait_for(self._server, self._tasks, self._web, self._pipe, self._jobs)
            yield

    def task(self, template: str) -> Path:
        """Start a task of an agent of its own, and return its file.

        Args:
            template: The template, which the agent is called after.
        """
        key, file = self.folder / f"{template}.key", self.folder / f"{template}.bundle"
        self.arx("agent", "enrol", f"acme/{template}", "--key-out", str(key))
        with Agent.from_key_file(key) as agent:
            session = agent.open_session()
            session.start_task(template).save(file)
        return file

    def client(self, template: str) -> str:
        """Register a public OAuth client of an agent of its own, and return its id.

        Args:
            template: Its scope.
        """
        agent = f"acme/{template}-client"
        self.arx("agent", "enrol", agent, "--key-out", str(self.folder / f"{template}-client.key"))
        words = ("--scope", template, "--public", "--redirect", "http://127.0.0.1/callback")
        return str(self.arx("client", "add", agent, *words)["client"]["id"])

    def client_config(self, task: Path, url: str) -> Path:
        """Write the file with which a stock client starts a bridge over stdio, and return it.

        Args:
            task: The file of the task.
            url: The server.
        """
        config = self.arx("connect", "--task", str(task), "--print-config", "claude", url)["config"]
        file = self.folder / "client.json"
        file.write_text(json.dumps(config))
        return file

    def _wait_for(self, *ports: int) -> None:
        def ended() -> bool:
            return any(process.poll() is not None for process in self._processes)

        until(lambda: all(map(listens, ports)) or ended())
        if ended():
            raise RuntimeError(f"a process has ended\n{self.logs()}")

    def logs(self) -> str:
        """What all processes wrote."""
        return "\n".join(f"{file.name}\n{file.read_text()}" for file in sorted(self.folder.glob("*.log")))

    @contextlib.contextmanager
    def _started(self, name: str, *words: str) -> Iterator[None]:
        with (self.folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        self._processes.append(process)
        try:
            yield
            if process.poll() is not None:
                raise RuntimeError(f"{name} has ended\n{self.logs()}")
        finally:
            self._processes.remove(process)
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
