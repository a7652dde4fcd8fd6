# SPDX-License-Identifier: Apache-2.0
"""``arx hook serve`` in a realm that runs: calls are decided on, recorded, and refused after a kill."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.agent import Task
from arx_caps.hook.decider import bind_decider
from arx_caps.hook.judges import MAX_LINE
from arx_verifier import SettingsError
from tests.cli.helpers import arx
from tests.cli.live import Live, live_realm
from tests.hook.test_claude_code import WAIT_S, bundle_of, hook, question, refusal
from tests.house.pages import ROOT, blocks

pytestmark = pytest.mark.servers
PAGE = (ROOT / "docs" / "coding-agents.md").read_text("utf-8")
STATUS = question("Bash", {"command": "git status"})


@contextlib.contextmanager
def decider(service: Path, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run ``arx hook serve`` until it is ready, and stop it in order."""
    command = [sys.executable, "-m", "arx_caps.cli", "hook", "serve", str(service), "--socket", str(path), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready == {"schema": "arx/hook/1", "audience": "laptop", "socket": str(path)}
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert not path.exists()


def asked(path: Path, line: bytes) -> dict[str, Any]:
    """Ask a decider by a line, and return its answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(WAIT_S)
        connection.connect(str(path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ends a line that is too long
            connection.sendall(line + b"\n")
        with connection.makefile("rb") as answers, contextlib.suppress(ConnectionResetError):
            answer = answers.readline()
            return dict(json.loads(answer)) if answer else {}
    return {}


@pytest.fixture
def live(tmp_path: Path, free_port: int) -> Iterator[Live]:
    """A realm with the page's policy, an agent with a task, and the service of its machine."""
    with live_realm(tmp_path / "realm", free_port) as realm:
        (policy,) = [block.text for block in blocks(PAGE) if block.language == "toml"]
        (realm.folder / "policy.toml").write_text(policy)
        realm.ok("policy", "reload")
        realm.ok("agent", "enrol", "acme/coder", "--key-out", tmp_path / "coder.key.json")
        realm.ok("service", "enrol", "laptop", "--out", tmp_path / "laptop.arx.json")
        realm.ok("session", "open", "--key", tmp_path / "coder.key.json", "--out", tmp_path / "session.json")
        realm.ok("task", "start", "code", "--session", tmp_path / "session.json", "--out", tmp_path / "task.bundle")
        yield realm


@pytest.mark.slow
def test_a_call_is_decided_recorded_and_revocable(live: Live, tmp_path: Path) -> None:
    """The task's rules hold, each decision has a record, and a kill refuses the next call."""
    path = tmp_path / "hook.sock"
    words = ("--task", tmp_path / "task.bundle", "--decider", path)
    with decider(tmp_path / "laptop.arx.json", path):
        assert path.stat().st_mode & 0o777 == 0o600
        live.until(lambda: hook(STATUS, *words).returncode == 0)
        text = refusal(hook(question("Bash", {"command": "git push"}), *words))
        assert text.startswith("Bash was refused: command must be one of")
        write = question("Write", {"file_path": "/home/ann/shop/README", "content": ""})
        assert 'below "/home/ann/shop/src"' in refusal(hook(write, *words))
        recorded = live.ok("decisions")["decisions"]
        found = {each["id"]: (each["tool"], each["code"], each["agent"]) for each in recorded}
        assert found[text.rpartition("(decision ")[2].rstrip(")")] == (
            "shell.run",
            "argument_not_allowed",
            "acme/coder",
        )
        assert ("shell.run", "ok", "acme/coder") in found.values()
        foreign = ("--task", bundle_of(tmp_path / "realm"), "--decider", path)
        refusal(hook(STATUS, *foreign))  # its token was signed by another key
        live.confirmed("kill", "agent:acme/coder", "--reason", "a test", "--yes")
        assert refusal(hook(STATUS, *words)).startswith("An operator ended this work")
    assert "expected a running `arx hook serve`" in refusal(hook(STATUS, *words))


@pytest.mark.slow
def test_a_question_is_answered_once_and_by_one_meaning(live: Live, tmp_path: Path) -> None:
    """A question that was seen is of no use again, nor for other arguments; one without a meaning is refused."""
    path, task = tmp_path / "hook.sock", Task.load(tmp_path / "task.bundle")
    args = {"command": "git status"}

    def line(args: dict[str, Any], token: str) -> bytes:
        return json.dumps({"token": token, "tool": "shell.run", "args": args}).encode()

    with decider(tmp_path / "laptop.arx.json", path):
        live.until(lambda: hook(STATUS, "--task", tmp_path / "task.bundle", "--decider", path).returncode == 0)
        token = task.call_token("laptop", "shell.run", args)
        assert asked(path, line({"command": "git diff"}, token))["code"] == "proof_invalid"
        assert asked(path, line(args, token))["code"] == "ok"
        assert asked(path, line(args, token))["code"] == "replayed"
        assert asked(path, line(args, task.tokens["laptop"]))["code"] == "proof_missing"
        assert asked(path, line(args, ""))["code"] == "missing_token"
        for bad in (b"no JSON", b"[]", b'{"tool": 1, "args": {}}', line(args, token).replace(b'"args"', b'"tool"')):
            assert asked(path, bad)["code"] == "malformed_request"
        assert asked(path, b'{"token": "' + b"x" * MAX_LINE + b'"}') == {}
        assert arx("hook", "serve", tmp_path / "laptop.arx.json", "--socket", path).err.startswith(
            f"arx: {path}: another process listens there"
        )
        assert asked(path, line(args, task.call_token("laptop", "shell.run", args)))["code"] == "ok"


def test_a_socket_is_taken_over_from_a_process_that_has_ended(tmp_path: Path) -> None:
    """A file of another kind is left alone, and an unknown group is an error."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(path))
    with bind_decider(path):
        assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "file").write_text("kept")
    with pytest.raises(SettingsError, match="expected no file or a socket"), bind_decider(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "kept"
    with pytest.raises(SettingsError, match="expected a group of this machine"), bind_decider(path, "no-such-group"):
        pass
