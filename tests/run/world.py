# SPDX-License-Identifier: Apache-2.0
"""A realm, its gateway before `git http-backend` and a service, and commands that `arx run` starts under a task."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from arx_caps.agent import Bundle
from arx_caps.demo.git_server import HttpBackend
from arx_caps.embedded import EmbeddedValkey
from arx_verifier import Constraint, Rule
from tests.adapters.asgi_server import serving
from tests.gateway.gateway_realm import AUDIENCE, GatewayRealm, Program, gateway
from tests.gateway.git_services import git, repository
from tests.house.pages import ROOT
from tests.servers import free_ports, until

REFS: Final = Constraint(each=Constraint(glob="refs/heads/agent/*"), min_length=1)
GIT_RULES: Final = (
    Rule(tool=f"{AUDIENCE}.fetch", args={"repo": "acme/app"}),
    Rule(tool=f"{AUDIENCE}.push", args={"repo": "acme/app", "refs": REFS, "creates": Constraint(min=0), "deletes": 0}),
)
_TABLE: Final = """
[upstream.{name}]
audience = "orders"
url = "http://127.0.0.1:{port}"
catalogue = "{catalogue}"
hosts = ["{host}"]
max_body = 1048576
"""


class RunWorld:
    """The realm, and the file of a task.

    Attributes:
        realm: The realm.
        folder: Its folder.
        bundle: The file of the task's bundle.
        url: The gateway's URL.
        secret: The text of the bundle.
        gateway: The gateway's process.
    """

    def __init__(self, realm: GatewayRealm, url: str, gateway: Program) -> None:
        self.realm, self.folder, self.url, self.gateway = realm, realm.folder, url, gateway
        self.bundle, self.secret = realm.folder / "task.bundle", ""

    def start(self, *rules: Rule, session: str = "s-1") -> None:
        """Write the bundle of a task."""
        macaroon = self.realm.caller(*rules, session=session).macaroon
        about = macaroon.unverified_identifier
        bundle = Bundle(
            agent=about.agent,
            issuer="https://mint.example",
            origins={AUDIENCE: (self.url,)},
            realm=macaroon.location,
            task=about.task,
            tokens={AUDIENCE: macaroon},
        )
        self.secret = bundle.encode()
        self.bundle.touch(0o600)
        self.bundle.write_text(self.secret, "utf-8")

    def words(self, *command: str, options: Sequence[str] = ("--no-box",)) -> list[str]:
        """Return the words that run a command under the task."""
        return [sys.executable, "-m", "arx_caps.cli", "run", *options, "--task", str(self.bundle), "--", *command]

    def environment(self) -> dict[str, str]:
        """Return the environment of `arx run`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ARX_", "GIT_"))}
        return kept | {"PYTHONPATH": str(ROOT), "HOME": str(self.folder), "LC_ALL": "C"}

    @contextlib.contextmanager
    def started(
        self, *command: str, options: Sequence[str] = ("--no-box",), **more: Any
    ) -> "Iterator[subprocess.Popen[str]]":
        """Run a command under the task from its first line, which is `begun`; it reads what the block writes."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        words = self.words(*command, options=options)
        with subprocess.Popen(
            words, cwd=more.pop("cwd", self.folder), env=self.environment(), text=True, **pipes, **more
        ) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == "begun\n", running.communicate()[1]
            try:
                yield running
            finally:
                running.terminate()

    def run(
        self, *command: str, options: Sequence[str] = ("--no-box",), **more: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command under the task to its end."""
        return subprocess.run(
            self.words(*command, options=options),
            cwd=more.pop("cwd", self.folder),
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            **more,
        )


@contextlib.contextmanager
def run_world(
    folder: Path, valkey: EmbeddedValkey, name: str, app: Any, catalogue: str = "git", host: str = "git.example"
) -> Iterator[RunWorld]:
    """Run a gateway before a service, and give its realm."""
    realm, [port] = GatewayRealm(folder, valkey.url, name=name), free_ports(1)
    with serving(app, log_level="critical") as behind:
        file = realm.write(_TABLE.format(name="app", port=behind, catalogue=catalogue, host=host), port=port)
        with gateway(file, folder / "log") as process:
            world = RunWorld(realm, f"http://127.0.0.1:{port}", process)
            probe = realm.caller(Rule(tool="*"), session="s-0")  # a new store refuses what was signed before it
            until(
                lambda: (
                    httpx.get(f"{world.url}/app/none", auth=probe, timeout=30).json().get("code") == "tool_not_allowed"
                )
            )  # type: ignore[arg-type]
            yield world


@contextlib.contextmanager
def git_world(folder: Path, valkey: EmbeddedValkey, name: str) -> Iterator[tuple[RunWorld, Path]]:
    """Run a gateway before a repository; give its realm, with a task for it, and a clone."""
    clone = repository(folder)
    git(clone, "remote", "set-url", "origin", "https://git.example/acme/app.git")
    with run_world(folder, valkey, name, HttpBackend(folder / "served")) as world:
        world.start(*GIT_RULES)
        yield world, clone
