# SPDX-License-Identifier: Apache-2.0
"""The page of `arx run`: what its commands print and do, with `git http-backend` in the place of GitHub."""

import shlex
import subprocess
import time
from pathlib import Path

import pytest

from tests.gateway.git_services import git, refs_of
from tests.house.pages import blocks, matches, section
from tests.mint.issuer import IDP, jwks, token
from tests.realm_folder import ARX
from tests.run.page_realm import CREDENTIAL, MODEL_KEY, PAGE, PageRealm
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.slow]
REFUSED, _, NO_BOX = [block.text for block in blocks(PAGE) if block.language == "text"]
ISSUER = f"""
[issuer.ci]
url = "{IDP}"
jwks = "ci.jwks.json"
audience = ["arx"]
algorithms = ["ES256"]
[[workload]]
issuer = "ci"
claims = {{ sub = "repo:acme/app:ref:refs/heads/main" }}
agent = "acme/coder"
"""
FOR_PEOPLE = '[session]\nsubject = "allowed"\nsubjects = [{ issuer = "ci" }]\n'


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
        sessions = realm.arx("session", "list")["sessions"]
        assert [each["purpose"] for each in sessions] == ["arx run, box: none", *["arx run"] * 3]
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


def test_a_job_of_a_ci_needs_no_key(tmp_path: Path) -> None:
    """
    The token of its platform starts the task, also for a person, whose the commits are; the command cannot read it.
    """
    realm = PageRealm(tmp_path)
    (line,) = [line for line in section(PAGE, "In CI").splitlines() if line.startswith("arx run")]
    now = time.time_ns() // 1_000_000
    (tmp_path / "ci.jwt").write_text(token(now, sub="repo:acme/app:ref:refs/heads/main", aud="arx"))
    (tmp_path / "ann.jwt").write_text(token(now, sub="ann", aud="arx"))
    script = f"git var GIT_AUTHOR_IDENT; cat {tmp_path}/*.jwt; git push origin HEAD:refs/heads/agent/nightly"
    (realm.clone / "nightly.sh").write_text(f"#!/bin/sh\n{script}\n")
    (realm.clone / "nightly.sh").chmod(0o755)
    with realm.running(("[session]\n", FOR_PEOPLE), more=ISSUER):
        (tmp_path / "realm" / "ci.jwks.json").write_bytes(jwks("ec"))
        line = line.replace("https://arx.example", realm.mint).replace("~", str(tmp_path))
        words = [*ARX, *shlex.split(line)[1:]]
        words[len(ARX) + 1 : len(ARX) + 1] = ["--id-token", str(tmp_path / "ann.jwt")]
        with realm.started(words) as running:
            shown, _ = running.communicate(timeout=120)
        assert running.returncode == 0, shown
        assert shown.count("No such file") == 1, shown
        assert "ann <ann@idp.example>" in shown
        assert "refs/heads/agent/nightly" in refs_of(realm.bare)
        [session] = realm.arx("session", "list")["sessions"]
        assert (session["agent"], session["purpose"]) == ("acme/coder", "arx run")
