# SPDX-License-Identifier: Apache-2.0
"""``arx hook claude-code``: what a call means, and that only an allowed call ends with exit code 0."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arx_caps.agent import Bundle, Task
from arx_caps.hook.claude_code import read_call, settings
from arx_verifier import RequestError, Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.cli.helpers import arx
from tests.house.pages import ROOT, blocks, matches

WAIT_S = 60
RULES = (Rule(tool="shell.run", args={"command": "git status"}), Rule(tool="mcp.orders.get"))


def question(name: str, given: dict[str, Any], folder: str = "/srv", **more: Any) -> bytes:
    """What Claude Code writes, with members that the hook does not need."""
    event: dict[str, Any] = {
        "session_id": "s",
        "transcript_path": "/t",
        "permission_mode": "default",
        "tool_use_id": "toolu_1",
    }
    event |= {"hook_event_name": "PreToolUse", "cwd": folder, "tool_name": name, "tool_input": given}
    return json.dumps(event | more).encode()


def bundle_of(folder: Path, ttl_ms: int = 600_000, **more: Any) -> Path:
    """Write the bundle of a task, signed by the key of no realm."""
    caller = UnsafeTestRealm("laptop").caller(*RULES, ttl_ms=ttl_ms, **more)
    fields = {"agent": "test/agent", "issuer": "http://127.0.0.1:1", "realm": "test", "task": "t-test"}
    Task(Bundle(**fields, origins={"laptop": ()}, tokens={"laptop": caller.macaroon})).save(folder / "task.bundle")
    return folder / "task.bundle"


def hook(asked: bytes, *words: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the hook as Claude Code does."""
    command = [sys.executable, "-m", "arx_caps.cli", "hook", "claude-code", *map(str, words)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")} | (env or {})
    return subprocess.run(command, input=asked, capture_output=True, timeout=WAIT_S, env=clean, check=False)


def refusal(done: subprocess.CompletedProcess[bytes]) -> str:
    """What the model reads of a refused call, by both ways that Claude Code takes."""
    assert done.returncode == 2, done
    answer = json.loads(done.stdout)["hookSpecificOutput"]
    assert (answer["hookEventName"], answer["permissionDecision"]) == ("PreToolUse", "deny")
    assert done.stderr.decode().strip() == answer["permissionDecisionReason"]
    assert b"Traceback" not in done.stderr
    return str(answer["permissionDecisionReason"])


@pytest.mark.parametrize(
    ("name", "given", "tool", "args"),
    [
        ("Bash", {"command": "ls", "description": "list"}, "shell.run", {"command": "ls"}),
        (
            "Bash",
            {"command": "ls", "dangerouslyDisableSandbox": True},
            "shell.run",
            {"command": "ls", "unsandboxed": True},
        ),
        ("Write", {"file_path": "/srv/a", "content": "x"}, "file.write", {"path": "/srv/a"}),
        (
            "Edit",
            {"file_path": "/srv/./b//a", "old_string": "x", "new_string": "y"},
            "file.write",
            {"path": "/srv/b/a"},
        ),
        ("NotebookEdit", {"notebook_path": "/srv/n", "new_source": ""}, "file.write", {"path": "/srv/n"}),
        ("Read", {"file_path": "a", "limit": 3}, "file.read", {"path": "/srv/a"}),
        ("Grep", {"pattern": "secret"}, "file.read", {"path": "/srv"}),
        ("Glob", {"pattern": "**/*.py"}, "file.read", {"path": "/srv"}),
        ("Glob", {"pattern": "b/c/*.py", "path": "/srv/x"}, "file.read", {"path": "/srv/x/b/c"}),
        ("Glob", {"pattern": "/etc/pass*"}, "file.read", {"path": "/etc"}),
        ("Glob", {"pattern": "/{etc,opt}/*"}, "file.read", {"path": "/"}),
        ("Glob", {"pattern": "/etc/passwd"}, "file.read", {"path": "/etc/passwd"}),
        ("WebFetch", {"url": "https://a.example/", "prompt": "x"}, "web.fetch", {"url": "https://a.example/"}),
        ("WebSearch", {"query": "x"}, "web.search", {"query": "x"}),
        ("Agent", {"prompt": "x", "subagent_type": "Explore"}, "agent.start", {"type": "Explore"}),
        (
            "Agent",
            {"prompt": "x", "isolation": "remote"},
            "agent.start",
            {"type": "general-purpose", "isolation": "remote"},
        ),
        ("mcp__orders__get", {"id": "o-1"}, "mcp.orders.get", {"id": "o-1"}),
        ("TodoWrite", {"todos": []}, "", {}),
    ],
)
def test_a_call_has_one_meaning(name: str, given: dict[str, Any], tool: str, args: dict[str, Any]) -> None:
    """Each tool of Claude Code is one tool of the policy, with the arguments that a rule can judge."""
    assert read_call(question(name, given)) == (name, tool, args)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("Skill", {"skill": "x"}),
        ("bash", {"command": "ls"}),
        ("Bash", {}),
        ("Bash", {"command": ["ls"]}),
        ("Read", {"file_path": " /etc/passwd"}),
        ("Read", {"file_path": "~/.ssh/id"}),
        ("Read", {"file_path": "/srv/link/../x"}),
        ("Read", {"file_path": "/srv/a\u0000b"}),
        ("Read", {"file_path": "/srv/e\u0301"}),
        ("Glob", {"pattern": "../**"}),
        ("Glob", {"pattern": "{/etc/passwd,x}"}),
        ("Glob", {"pattern": "~/*"}),
        ("mcp__a__b__c", {}),
        ("mcp__a", {}),
        ("mcp__a__é", {}),
    ],
)
def test_what_could_mean_something_else_is_refused(name: str, given: dict[str, Any]) -> None:
    """The agent opens another file than the text names, or the tool has no name in policies."""
    with pytest.raises(RequestError):
        read_call(question(name, given))


def test_a_rule_is_for_the_file_and_not_for_its_name(tmp_path: Path) -> None:
    """A link out of the folder is judged by its target, also for a missing file."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    call = read_call(question("Write", {"file_path": str(inside / "link" / "new"), "content": ""}))
    assert call.args == {"path": str(outside.resolve() / "new")}


@pytest.mark.slow
def test_only_an_allowed_call_ends_with_0(tmp_path: Path) -> None:
    """An allowed one prints nothing: Claude Code's own rules go on to apply."""
    words = ("--task", bundle_of(tmp_path), "--offline")
    allowed = hook(question("Bash", {"command": "git status"}), *words)
    assert (allowed.returncode, allowed.stdout, allowed.stderr) == (0, b"", b"")
    assert hook(question("mcp__orders__get", {"id": 1}), *words).returncode == 0
    text = refusal(hook(question("Bash", {"command": "git status; id"}), *words))
    assert text.startswith('Bash was refused: command must be "git status", got "git status; id". Do not repeat')
    from_file = hook(question("Bash", {"command": "git status"}), "--offline", env={"ARX_TASK_FILE": str(words[1])})
    assert from_file.returncode == 0


@pytest.mark.slow
def test_each_failure_refuses(tmp_path: Path) -> None:
    """Exit code 2 is the one that stops a call: whatever else happens must end with it."""
    good, bundle = question("Bash", {"command": "git status"}), bundle_of(tmp_path)
    words = ("--task", bundle, "--offline")
    twice = good.replace(b'"tool_name"', b'"tool_name": "TodoWrite", "tool_name"')
    for asked in (b"", b"no JSON", b"[]", good[:-1], twice, good.replace(b"PreToolUse", b"PostToolUse")):
        refusal(hook(asked, *words))
    assert "no name in policies" in refusal(hook(question("Skill", {"skill": "x"}), *words))
    assert "cannot be read" in refusal(hook(good, "--task", tmp_path / "none", "--offline"))
    assert "set ARX_TASK" in refusal(hook(good, "--offline"))
    assert "expected a running `arx hook serve`" in refusal(hook(good, *words[:2], "--decider", tmp_path / "none"))
    assert hook(good, "--task", bundle).returncode == 2  # neither --decider nor --offline
    assert hook(good, *words, "--unknown").returncode == 2
    bundle.chmod(0o644)
    refusal(hook(good, *words))
    bundle.write_text("arxb1_no")
    bundle.chmod(0o600)
    refusal(hook(good, *words))
    assert "must be used before" in refusal(hook(good, "--task", bundle_of(tmp_path, ttl_ms=-1000), "--offline"))


def test_what_only_a_verifier_can_keep_is_refused_offline(tmp_path: Path) -> None:
    """A budget that nothing counts would be none."""
    words = ("--task", bundle_of(tmp_path, budget={"calls": 2}), "--offline")
    assert "only a verifier can keep" in refusal(hook(question("Bash", {"command": "git status"}), *words))


def test_a_decider_that_does_not_answer_is_a_refusal(tmp_path: Path) -> None:
    """Claude Code runs a tool whose hook takes longer than the time in its settings."""
    bundle = bundle_of(tmp_path)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        words = ("--task", bundle, "--decider", tmp_path / "s", "--timeout", "1")
        text = refusal(hook(question("Bash", {"command": "git status"}), *words))
    assert text == "The call was refused: no decision came in time. Try it once more."


def test_a_command_that_is_missing_or_killed_refuses(tmp_path: Path) -> None:
    """The shell's own exit codes, 127 and 137, would let the call pass."""
    for command in ([str(tmp_path / "none")], ["sh", "-c", "kill -9 $$"], ["sh", "-c", "exit 1"]):
        text = settings(command)["hooks"]["PreToolUse"][0]["hooks"][0]["command"]
        done = subprocess.run(text, shell=True, capture_output=True, timeout=WAIT_S, check=False)
        assert done.returncode == 2


def test_the_settings_are_the_pages(tmp_path: Path) -> None:
    """The page shows what the command prints, and the printed command is the hook."""
    page = (ROOT / "docs" / "coding-agents.md").read_text("utf-8")
    (line,) = [
        block.text
        for block in blocks(page)
        if block.language == "sh" and "--print-config" in block.text and "hook" in block.text
    ]
    (shown,) = [block.text for block in blocks(page) if block.language == "json"]
    ran = arx(*line.split()[1:])
    assert ran.exit_code == 0, ran
    assert matches(shown, ran.out)
    printed = arx("hook", "claude-code", "--task", bundle_of(tmp_path), "--offline", "--print-config", "--json").json
    command = printed["config"]["hooks"]["PreToolUse"][0]["hooks"][0]["command"]
    asked = question("Bash", {"command": "git status"})
    for given, code in ((asked, 0), (asked.replace(b"status", b"push"), 2)):
        done = subprocess.run(
            command, shell=True, cwd="/", input=given, capture_output=True, timeout=WAIT_S, check=False
        )
        assert done.returncode == code
