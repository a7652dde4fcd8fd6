# SPDX-License-Identifier: Apache-2.0
"""The realm of the page of `arx run`: its gateway, policy and commands, with the servers of a test behind it."""

import base64
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from arx_caps.demo.git_server import HttpBackend
from tests.adapters.asgi_server import serving
from tests.gateway.git_services import git, repository
from tests.house.pages import ROOT, blocks
from tests.realm_folder import ARX, RealmFolder
from tests.servers import free_ports

PAGE: Final = (ROOT / "docs" / "run.md").read_text("utf-8")
GATEWAY, POLICY = [block.text for block in blocks(PAGE) if block.language == "toml"]
CREDENTIAL: Final = base64.b64encode(b"x-access-token:a-token-of-github").decode()
MODEL_KEY: Final = "a-key-of-a-model"


class GuardedBackend(HttpBackend):
    """Refuses what has not the gateway's credential."""

    async def __call__(self, scope: object, receive: object, send: object) -> None:
        """Answer a request."""
        assert isinstance(scope, dict)
        if scope["type"] == "http":
            assert dict(scope["headers"]).get(b"authorization") == f"Basic {CREDENTIAL}".encode()
        await super().__call__(scope, receive, send)


class PageRealm(RealmFolder):
    """The realm, and a clone of the repository.

    Attributes:
        mint: The URL of its mint, once it runs.
    """

    mint = ""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.clone = repository(folder)
        git(self.clone, "remote", "set-url", "origin", "https://github.com/acme/app")
        self.environment |= {"GIT_BASIC": CREDENTIAL, "ANTHROPIC_API_KEY": MODEL_KEY, "HOME": str(folder)}

    @property
    def bare(self) -> Path:
        """The repository at the server."""
        return self.folder / "served" / "acme" / "app.git"

    @contextmanager
    def running(self, *changes: tuple[str, str], more: str = "") -> Iterator[None]:
        """Run it; the commands of the page up to the last one are typed.

        Args:
            changes: Texts of the gateway's file and the policy, each with another one in its place.
            more: Further lines of the policy.
        """
        mint, *ports = free_ports(3)
        with serving(GuardedBackend(self.folder / "served"), log_level="critical") as upstream:
            self.mint = f"http://127.0.0.1:{mint}"
            self.arx("init", "--listen", f"127.0.0.1:{mint}")
            gateway, policy = GATEWAY, POLICY + more
            here = f'url = "http://127.0.0.1:{upstream}"\nhosts = ["github.com"]'
            for known, own in (('url = "https://github.com"', here), *changes):
                assert known in gateway + policy
                gateway, policy = gateway.replace(known, own), policy.replace(known, own)
            for known, port in zip(("9020", "9021"), ports, strict=True):
                gateway, policy = (text.replace(known, str(port)) for text in (gateway, policy))
            (self.folder / "gateway.toml").write_text(gateway)
            (self.folder / "realm" / "policy.toml").write_text(policy)
            with self.up("--gateway", "gateway.toml", ready='"upstreams": ["git", "model"]'):
                self.arx("agent", "enrol", "acme/coder", "--key-out", str(self.folder / "coder.key.json"))
                yield

    def run(self, *command: str, options: tuple[str, ...] = (), **more: Any) -> "subprocess.Popen[str]":
        """Start a command as the page does, in the clone."""
        (line,) = [line for line in PAGE.splitlines() if line.startswith("arx run --key")]
        words = line.removesuffix(" -- claude").split()
        return self.started([*ARX, "run", *options, *words[2:], "--", *command], **more)

    def started(self, words: list[str], **more: Any) -> "subprocess.Popen[str]":
        """Start a process in the clone."""
        return subprocess.Popen(
            words,
            cwd=self.clone,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **more,
        )

    def output(self, *command: str, options: tuple[str, ...] = (), **more: Any) -> str:
        """Run a command to its end; return what it wrote."""
        with self.run(*command, options=options, **more) as running:
            written, _ = running.communicate(timeout=240)
        return written
