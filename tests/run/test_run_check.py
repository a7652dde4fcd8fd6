# SPDX-License-Identifier: Apache-2.0
"""`arx run --check` with real programs in boxes: which of them reach the front, and what the others print."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.house.pages import ROOT
from tests.run.test_box import why_not

SYSTEM = f"{Path(sys.executable).parent}:/usr/bin:/bin"
in_a_box = pytest.mark.skipif(why_not("own") is not None, reason=str(why_not("own")))


def run(path: str | None, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run `arx run --check` with programs of these folders; None is an environment without PATH."""
    kept = {name: value for name, value in os.environ.items() if name != "PATH"}
    return subprocess.run(
        [sys.executable, "-m", "arx_caps.cli", "run", "--check", *options],
        env=kept | ({"PATH": path} if path is not None else {}) | {"PYTHONPATH": str(ROOT), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def found(path: str | None, *options: str) -> dict[str, dict[str, Any]]:
    """Return what it finds of each program."""
    done = run(path, "--json", *options)
    assert done.returncode == 0, done.stderr
    return {each["program"]: each for each in json.loads(done.stdout)["programs"]}


@in_a_box
def test_real_programs_follow() -> None:
    """
    git, curl, Python and httpx by TLS of the run's authority, gh by the front's socket; the table has the same rows.
    """
    rows = found(SYSTEM)
    for name, program in {"git": "git", "curl": "curl", "python": "python3", "python httpx": "python3"}.items():
        assert rows[name] == {
            "program": name,
            "path": shutil.which(program, path=SYSTEM),
            "result": "follows",
            "printed": "",
        }
    assert rows["gh"]["result"] == ("follows" if shutil.which("gh", path=SYSTEM) else "not installed")
    lines = run(SYSTEM).stdout.splitlines()
    assert lines[0].split() == ["program", "path", "result", "printed"]
    assert [line.split("  ")[0] for line in lines[1:]] == list(rows)


@in_a_box
def test_a_program_that_does_not_follow_is_shown_with_what_it_printed(tmp_path: Path) -> None:
    """
    A curl past the proxy, one of another authority, and one that asks another host; no request arrived.
    """
    program = tmp_path / "curl"
    real = shutil.which("curl", path=SYSTEM)
    for script, printed in {
        f"exec {real} --noproxy '*' \"$@\"": "Could not resolve host: check.example",
        f'CURL_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt exec {real} "$@"': "ertificate",
        f"exec {real} -sS https://other.example/": "the front",
        "exit 0": "nothing",
        "": "curl: neither a program of this machine nor a script that begins with #!",
    }.items():
        program.write_text(f"#!/bin/sh\n{script}\n" if script else "exit 0\n")
        program.chmod(0o755)
        row = found(f"{tmp_path}:{SYSTEM}")["curl"]
        assert (row["path"], row["result"]) == (str(program), "does not")
        assert printed in row["printed"], row


@in_a_box
@pytest.mark.skipif(shutil.which("node", path=SYSTEM) is None, reason="no node on this machine")
def test_a_node_without_a_proxy_is_named_with_the_versions_that_have_one() -> None:
    """
    Node has it since 22.21 and 24.0.
    """
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    version, row = tuple(map(int, said[1:].split("."))), found(SYSTEM)["node"]
    if (22, 21) <= version < (23,) or version >= (24,):
        assert row["result"] == "follows"
    else:
        assert row["result"] == "does not"
        assert row["printed"].endswith(f": Node {said} follows no proxy, 22.21 and 24 do")


@in_a_box
def test_without_a_path_the_system_s_programs_are_checked() -> None:
    """
    As where a service starts it.
    """
    assert found(None)["git"]["result"] == "follows"


@in_a_box
def test_a_program_may_be_a_link_in_a_folder_that_is_shown(tmp_path: Path) -> None:
    """
    No mount can be made on a link; what is in the folder is shown with it.
    """
    (tmp_path / "curl").symlink_to(str(shutil.which("curl", path=SYSTEM)))
    row = found(f"{tmp_path}:{SYSTEM}", "--read", str(tmp_path))["curl"]
    assert (row["path"], row["result"]) == (str(tmp_path / "curl"), "follows")


@in_a_box
def test_a_missing_program_is_not_installed(tmp_path: Path) -> None:
    """
    Of a folder with bubblewrap and git alone, git follows.
    """
    for name in ("bwrap", "git"):
        (tmp_path / name).symlink_to(str(shutil.which(name, path=SYSTEM)))
    rows = found(str(tmp_path))
    assert {name for name, row in rows.items() if row["result"] != "not installed"} == {"git"}
    assert rows["git"]["result"] == "follows"


@in_a_box
def test_a_path_that_a_box_must_not_show_is_refused(tmp_path: Path) -> None:
    """
    Of a folder with a key of ARx, as a command is.
    """
    (tmp_path / "coder.key.json").touch(0o600)
    (tmp_path / "coder.key.json").write_text(json.dumps({"v": 1, "key": {"kty": "OKP", "d": "x"}}))
    done = run(SYSTEM, "--read", str(tmp_path))
    assert (done.returncode, done.stdout) == (125, "")
    assert f"could read {tmp_path / 'coder.key.json'}" in done.stderr


@in_a_box
def test_a_path_that_cannot_be_shown_blames_no_namespaces(tmp_path: Path) -> None:
    """
    On a machine that has boxes, the error names the path alone.
    """
    done = run(SYSTEM, "--read", str(tmp_path / "none"))
    assert done.returncode == 125
    assert f"{tmp_path / 'none'}: No such file or directory, or type --no-box" in done.stderr
    assert "namespaces" not in done.stderr


def test_without_a_box_nothing_is_checked(tmp_path: Path) -> None:
    """
    It is refused as a command is.
    """
    done = run(str(tmp_path))
    assert (done.returncode, done.stdout) == (125, "")
    assert "no box: bwrap not found: install bubblewrap" in done.stderr


def test_it_takes_no_task() -> None:
    """
    A command or an option of one beside it is a mistake.
    """
    for words in (("--no-box",), ("--", "true"), ("--task", "file")):
        done = run(SYSTEM, *words)
        assert done.returncode == 2
        assert "--check takes --read alone" in done.stderr
