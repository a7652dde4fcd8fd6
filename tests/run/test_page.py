# SPDX-License-Identifier: Apache-2.0
"""The page of `arx run`: its gateway, policy and commands, with `git http-backend` in the place of GitHub."""

import base64
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arx_caps.demo.git_server import HttpBackend
from tests.adapters.asgi_server import serving
from tests.gateway.git_services import git, refs_of, repository
from tests.house.pages import ROOT, blocks, matches
from tests.realm_folder import ARX, RealmFolder
from tests.servers import free_ports, until

pytestmark = [pytest.mark.servers, pytest.mark.slow]
PAGE = (ROOT / "docs" / "run.md").read_text("utf-8")
GATEWAY, POLICY = [block.text for block in blocks(PAGE) if block.language == "toml"]
REFUSED, NO_BOX = [block.text for block in blocks(PAGE) if block.language == "text"]
CREDENTIAL = base64.b64encode(b"x-access-token:a-token-of-github").decode()


class GuardedBackend(HttpBackend):
    """Refuses what has not the gateway's credential."""

    async def __call__(self, scope: object, receive: object, send: object) -> None:
        """Answer a request."""
        assert isinstance(scope, dict)
        if scope["type"] == "http":
            assert dict(scope["headers"]).get(b"authorization") == f"Basic {CREDENTIAL}".encode()
        await super().__call__(scope, receive, send)


class PageRealm(RealmFolder):
    """The realm of the page, and a clone of the repository."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.clone = repository(folder)
        git(self.clone, "remote", "set-url", "origin", "https://github.com/acme/app")
        self.environment |= {"GIT_BASIC": CREDENTIAL, "ANTHROPIC_API_KEY": "a-key-of-a-model", "HOME": str(folder)}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it; the commands of the page up to the last one are typed."""
        mint, *ports = free_ports(3)
        with serving(GuardedBackend(self.folder / "served"), log_level="critical") as upstream:
            self.arx("init", "--listen", f"127.0.0.1:{mint}")
            here = f'url = "http://127.0.0.1:{upstream}"\nhosts = ["github.com"]'
            gateway, policy = GATEWAY.replace('url = "https://github.com"', here), POLICY
            for known, port in zip(("9020", "9021"), ports, strict=True):
                gateway, policy = (text.replace(known, str(port)) for text in (gateway, policy))
            (self.folder / "gateway.toml").write_text(gateway)
            (self.folder / "realm" / "policy.toml").write_text(policy)
            with self.up("--gateway", "gateway.toml", ready='"upstreams": ["git", "model"]'):
                self.arx("agent", "enrol", "acme/coder", "--key-out", str(self.folder / "coder.key.json"))
                yield

    def run(self, *command: str, box: bool = True, stdin: int | None = None) -> "subprocess.Popen[str]":
        """Start a command as the page does, in the clone."""
        (line,) = [line for line in PAGE.splitlines() if line.startswith("arx run --key")]
        words = line.removesuffix(" -- claude").split()
        return subprocess.Popen(
            [*ARX, "run", *([] if box else ["--no-box"]), *words[2:], "--", *command],
            cwd=self.clone,
            env=self.environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def output(self, *command: str, box: bool = True) -> str:
        """Run a command to its end; return what it wrote."""
        with self.run(*command, box=box) as running:
            written, _ = running.communicate(timeout=120)
        return written


def test_the_page_is_what_happens(tmp_path: Path) -> None:
    """A push passes, another branch is refused, nothing secret is in the environment, and a kill ends the work."""
    realm = PageRealm(tmp_path)
    bare = tmp_path / "served" / "acme" / "app.git"
    with realm.running():
        shown = realm.output("git", "push", "origin", "HEAD:refs/heads/agent/login")
        assert refs_of(bare)["refs/heads/agent/login"] == git(realm.clone, "rev-parse", "HEAD").strip(), shown
        shown = realm.output("git", "push", "origin", "HEAD:main")
        assert any(matches(REFUSED, line) for line in shown.splitlines()), shown
        shown = realm.output("env")
        assert "ANTHROPIC_API_KEY=arx-run-no-secret" in shown
        assert not [each for each in (CREDENTIAL, "a-key-of-a-model", "arxb1_", "arx1_") if each in shown]
        assert NO_BOX.strip() in realm.output("true", box=False).splitlines()
        with realm.run("sh", "-c", "read go; git fetch origin", stdin=subprocess.PIPE) as running:
            until(lambda: len(realm.arx("session", "list", "--state", "open")["sessions"]) == 1)
            realm.arx("kill", "agent:acme/coder", "--reason", "astray", "--yes")
            shown, _ = running.communicate("go\n", timeout=120)
        assert "refused by arx: an operator ended this work" in shown, shown
        until(lambda: len(realm.arx("audit", "commits", "acme/app")["updates"]) == 2)
        updates = realm.arx("audit", "commits", "acme/app")["updates"]
        assert [(each["ref"], each["result"]) for each in updates] == [
            ("refs/heads/agent/login", "done"),
            ("refs/heads/main", "refused"),
        ]
