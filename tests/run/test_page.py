# SPDX-License-Identifier: Apache-2.0
"""The page of `arx run`: what its commands print and do, with `git http-backend` in the place of GitHub."""

import subprocess
from pathlib import Path

import pytest

from tests.gateway.git_services import git, refs_of
from tests.house.pages import blocks, matches
from tests.run.page_realm import CREDENTIAL, MODEL_KEY, PAGE, PageRealm
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.slow]
REFUSED, NO_BOX = [block.text for block in blocks(PAGE) if block.language == "text"]


def test_the_page_is_what_happens(tmp_path: Path) -> None:
    """A push passes, another branch is refused, nothing secret is in the environment, and a kill ends the work."""
    realm = PageRealm(tmp_path)
    with realm.running():
        shown = realm.output("git", "push", "origin", "HEAD:refs/heads/agent/login")
        assert refs_of(realm.bare)["refs/heads/agent/login"] == git(realm.clone, "rev-parse", "HEAD").strip(), shown
        shown = realm.output("git", "push", "origin", "HEAD:main")
        assert any(matches(REFUSED, line) for line in shown.splitlines()), shown
        shown = realm.output("env")
        assert "ANTHROPIC_API_KEY=arx-run-no-secret" in shown
        assert not [each for each in (CREDENTIAL, MODEL_KEY, "arxb1_", "arx1_") if each in shown]
        assert NO_BOX.strip() in realm.output("true", options=("--no-box",)).splitlines()
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
