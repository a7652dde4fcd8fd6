# SPDX-License-Identifier: Apache-2.0
"""The environment of a command under a task: what real programs make of it, and what does not go in."""

import os
import subprocess
from pathlib import Path

import pytest

from arx_caps.run.environment import PLACEHOLDER, environment

HOSTS = ("github.com", "api.github.com", "api.anthropic.com")


def made(folder: Path, **terms: object) -> dict[str, str]:
    """Return an environment for the hosts of this file."""
    given: dict[str, object] = {
        "proxy": "http://127.0.0.1:9",
        "ca_file": folder / "ca.pem",
        "home": folder,
        "folder": folder,
        "hosts": HOSTS,
    }
    return environment(**(given | terms))  # type: ignore[arg-type]


def test_git_reads_no_authority_of_the_machine(tmp_path: Path) -> None:
    """
    They are hundreds of files, which one with GnuTLS reads for each connection.
    """
    assert list(Path(made(tmp_path)["GIT_SSL_CAPATH"]).iterdir()) == []


def output(found: dict[str, str], *command: str) -> str:
    """Return what a real program prints in an environment."""
    done = subprocess.run(command, env=found, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_no_variable_of_the_starter_goes_in_unless_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A real program sees PATH and language, and of the others the one that was named; the keys are placeholders.
    """
    for name in ("AWS_SECRET_ACCESS_KEY", "GH_TOKEN", "ANTHROPIC_API_KEY", "SSH_AUTH_SOCK", "DATABASE_URL", "NAMED"):
        monkeypatch.setenv(name, f"canary of {name}")
    monkeypatch.setenv("LC_TIME", "C")
    seen = output(made(tmp_path, passed=["NAMED", "GH_TOKEN", "NOT_SET"]), "env")
    assert "NAMED=canary of NAMED" in seen
    assert seen.count("canary") == 1
    assert {f"PATH={os.environ['PATH']}", "LC_TIME=C"} <= set(seen.splitlines())
    assert {line for line in seen.splitlines() if line.endswith(PLACEHOLDER)} == {
        f"GH_TOKEN={PLACEHOLDER}",
        f"ANTHROPIC_API_KEY={PLACEHOLDER}",
    }


def test_a_starter_without_a_path_gives_the_usual_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A service may have none; programs of the system are found.
    """
    monkeypatch.delenv("PATH")
    assert f"PATH={os.defpath}" in output(made(tmp_path), "/usr/bin/env").splitlines()


@pytest.mark.parametrize("address", ["git@github.com:acme/app.git", "ssh://git@github.com/acme/app.git"])
def test_git_takes_https_for_ssh(tmp_path: Path, address: str) -> None:
    """
    Real git changes the address of a host of the task, and keeps that of another one.
    """
    found = made(tmp_path, git_settings=[("user.name", "Ada")])
    assert output(found, "git", "ls-remote", "--get-url", address) == "https://github.com/acme/app.git\n"
    other = address.replace("github.com", "git.example")
    assert output(found, "git", "ls-remote", "--get-url", other) == f"{other}\n"
    assert output(found, "git", "config", "user.name") == "Ada\n"


def test_gh_reads_the_socket_of_the_front(tmp_path: Path) -> None:
    """
    Its settings are in a folder of the run, where no other user reads them.
    """
    found = made(tmp_path, socket=tmp_path / 'a "b".sock')
    folder = Path(found["GH_CONFIG_DIR"])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert f'http_unix_socket: "{tmp_path}/a \\"b\\".sock"' in (folder / "config.yml").read_text()
