# SPDX-License-Identifier: Apache-2.0
"""Unmodified git and gh under `arx run`, in a box: what they print of each call is a text that is kept."""

import shutil
import subprocess
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier import Rule
from tests.gateway.gateway_realm import AUDIENCE
from tests.gateway.served_door import Recorder
from tests.run.page_realm import PageRealm
from tests.run.test_box import needs_box
from tests.run.transcript import compare, recorded, shown
from tests.run.world import run_world

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.spec("8.7"), needs_box]

OF_GIT = (
    "git clone git@github.com:acme/app again",
    "git -C again -c user.name=Ada -c user.email=ada@acme.example commit -q --allow-empty -m login",
    "git -C again push origin HEAD:main",
    "git -C again push origin HEAD:refs/heads/agent/login",
    "git -C again push origin :refs/heads/agent/login",
    "git ls-remote https://github.com/acme/other",
    "git ls-remote https://gitlab.com/acme/app",
)
OF_GH = (
    "gh api repos/acme/app/pulls/7 --jq .result.tools[].name",
    "gh api -X PUT repos/acme/app/pulls/7/merge",
    "gh api repos/acme/other/pulls/7",
    "gh pr merge 7 -R acme/app --merge",
)


def script(*commands: str) -> str:
    """Return a script that shows each command, what it writes, and its exit status."""
    return "".join(f"echo '$ {each}'; {each} 2>&1; echo \"exit $?\"\n" for each in commands)


def lines_of(written: str) -> list[str]:
    """Return the lines of a transcript."""
    return [line if line.startswith(("$ ", "exit ")) else shown(line)[0] for line in written.splitlines() if line]


def test_git(tmp_path: Path) -> None:
    """
    A clone and a push pass; a push to main, a removal, another repository and another host are refused.
    """
    realm = PageRealm(tmp_path)
    with realm.running():
        lines = lines_of(realm.output("sh", "-c", script(*OF_GIT)))
        compare("git", tmp_path, [*lines, *recorded(realm)])


def test_gh(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str) -> None:
    """
    A pull request is read; its merge, one of another repository, and GraphQL are refused.
    """
    assert shutil.which("gh"), "install gh, as .ci/run does"
    (tmp_path / "work").mkdir()
    with run_world(tmp_path, valkey, realm_name, Recorder(), "github", "api.github.com") as world:
        world.start(Rule(tool=f"{AUDIENCE}.pulls.get", args={"repo": "acme/app"}, open=True))
        done: subprocess.CompletedProcess[str] = world.run(
            "sh", "-c", script(*OF_GH), options=(), cwd=tmp_path / "work"
        )
    compare("gh", tmp_path, lines_of(done.stdout + done.stderr))
