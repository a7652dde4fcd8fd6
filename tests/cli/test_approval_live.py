# SPDX-License-Identifier: Apache-2.0
"""Approving from the command line, on a realm that runs: the agent asks, operators answer, the call passes once."""

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from arx_caps.agent import Approval, Task
from arx_caps.cli import exit_codes
from arx_caps.cli.access.mint_session import open_session_file
from arx_caps.cli.approvals import CommandSession
from arx_verifier import AccessRequest, Verifier
from arx_verifier.clock import now_ms
from tests.cli.helpers import arx
from tests.cli.live import AGENT, Live, live_realm, live_verifier
from tests.servers import child, free_ports

pytestmark = pytest.mark.servers

POLICY = """
[audience.payments]
origins = ["http://127.0.0.1:9002"]

[session.support]
agents = ["acme/support/*"]
ttl = "1h"

[task.payout]
agents = ["acme/support/*"]
ttl = "10m"
audience = ["payments"]
allow = [{ tool = "payments.refund", args = { order_id = { max_length = 8 }, amount = { range = [1, 1000] } } }]
approvals = [{ tools = ["payments.refund"], need = 2 }]
"""
ARGS = {"order_id": "o-1", "amount": 500}
CALL = ("--tool", "payments.refund", "--arg", "order_id=o-1", "--arg", "amount=500")


def run(up: Live, *words: str | Path) -> tuple[int, dict[str, Any], str]:
    """Type a command with ``--json``; returns exit code, object and stderr."""
    ran = arx(*words, "--json", env={"ARX_HOME": str(up.folder)})
    return ran.exit_code, ran.json, ran.err


def ok(up: Live, *words: str | Path) -> dict[str, Any]:
    """Type a command that must succeed."""
    exit_code, output, err = run(up, *words)
    assert exit_code == 0, (words, output, err)
    return output


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A running realm whose refunds are approved by two."""
    folder = tmp_path_factory.mktemp("approving")
    with live_realm(folder / "realm", free_ports(1)[0]) as realm:
        (folder / "policy.toml").write_text(POLICY)
        ok(realm, "policy", "load", folder / "policy.toml")
        ok(realm, "agent", "enrol", AGENT, "--key-out", folder / "agent.key")
        ok(realm, "service", "enrol", "payments", "--out", folder / "payments.json")
        for name in ("ada", "bob"):
            ok(realm, "operator", "enrol", name, "--role", "approver", "--key-out", folder / f"{name}.key")
        ok(realm, "session", "open", "--key", folder / "agent.key", "--out", folder / "session")
        yield realm


@pytest.fixture
def here(up: Live) -> Path:
    """The folder with every file."""
    return up.folder.parent


@pytest.fixture
def payments(here: Path, up: Live) -> Iterator[Verifier]:
    """The payments service's verifier."""
    with live_verifier(up, here / "payments.json") as verifier:
        yield verifier


@pytest.fixture
def task(here: Path, up: Live, tmp_path: Path) -> Path:
    """A task's bundle."""
    ok(up, "task", "start", "payout", "--session", here / "session", "--out", tmp_path / "task")
    return tmp_path / "task"


def ask(up: Live, here: Path, task: Path, *words: str | Path) -> dict[str, Any]:
    """Ask for an approval."""
    asked = ok(up, "task", "ask", "--in", task, "--session", here / "session", *CALL, *words)
    return dict(asked["approval"])


def judged(verifier: Verifier, task: Path, approval: Path) -> str:
    """What the service says of the call, sent with the approval that a file has."""
    held, given = Task.from_text(task.read_text()), Approval.from_text(approval.read_text())
    text = held.call_token("payments", "payments.refund", ARGS, approvals=[given])
    return verifier.decide(text, AccessRequest("payments.refund", ARGS, now_ms(), "127.0.0.1")).code


@pytest.mark.slow
def test_from_the_question_to_the_call(up: Live, here: Path, task: Path, payments: Verifier) -> None:
    """
    Asked, listed with all that an operator needs, approved by two, waited for, used once, seen in the trail.
    """
    asked = ask(up, here, task, "--why", "charged twice")
    assert (asked["state"], asked["need"], asked["args"]) == ("waiting", 2, ARGS)
    (shown,) = ok(up, "approval", "list", "--operator-key", here / "ada.key", "--task", asked["task"])["approvals"]
    assert (shown["id"], shown["agent"], shown["why"], shown["tool"]) == (
        asked["id"],
        AGENT,
        "charged twice",
        "payments.refund",
    )
    own = ok(up, "approval", "list", "--session", here / "session", "--of", asked["session"])["approvals"]
    assert asked["id"] in {each["id"] for each in own}
    first = ok(up, "approval", "approve", asked["id"], "--yes", "--operator-key", here / "ada.key")["approval"]
    assert (first["state"], first["by"]) == ("waiting", ["ada"])
    exit_code, output, _ = run(up, "approval", "approve", asked["id"], "--yes", "--operator-key", here / "ada.key")
    assert (exit_code, output["code"]) == (exit_codes.DENIED, "conflict")
    out = task.with_name("approval")
    late = ("approval", "wait", asked["id"], "--session", here / "session", "--discharge", out, "--timeout", "50ms")
    exit_code, output, printed = run(up, *late)
    assert (exit_code, output["code"], out.exists()) == (exit_codes.INCOMPLETE, "waiting", False)
    assert "waiting for operators" in printed
    command = [sys.executable, "-m", "arx_caps.cli", *map(str, late[:-2]), "--json"]
    with child(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiter:
        second = ok(up, "approval", "approve", asked["id"], "--yes", "--operator-key", here / "bob.key")["approval"]
        assert (second["state"], second["by"]) == ("approved", ["ada", "bob"])
        written, printed = waiter.communicate(timeout=60)
    assert (waiter.returncode, "arx1_" in written + printed) == (0, False)
    assert json.loads(written)["approval"] == second
    assert out.stat().st_mode & 0o077 == 0
    output = ok(up, "token", "explain", task, *CALL, "--service", here / "payments.json", "--approval", out)
    assert output["allowed"]
    assert [judged(payments, task, out) for _ in range(2)] == ["ok", "already_used"]
    exit_code, output, _ = run(up, "approval", "approve", asked["id"], "--yes", "--operator-key", here / "ada.key")
    assert (exit_code, output["code"]) == (exit_codes.DENIED, "conflict")


def test_a_person_sees_what_they_approve(up: Live, here: Path, task: Path) -> None:
    """
    The list and the approval itself show one card; without a yes nothing is approved, whatever is kept quiet.
    """
    asked = ask(up, here, task, "--why", "a \x1b[2Jtest")
    typed = partial(arx, env={"ARX_HOME": str(up.folder)})
    exit_code, written, answer = typed("approval", "list", "--task", asked["task"])
    lines = written.splitlines()
    assert (exit_code, lines[0].split()[:3]) == (0, [asked["id"], "waiting,", "asked"])
    assert [line.split() for line in lines[1:5]] == [
        ["agent", AGENT],
        ["wants", "payments.refund", "at", "payments"],
        ["amount", "=", "500"],
        ["order_id", "=", '"o-1"'],
    ]
    assert "\x1b" not in written
    assert f"arx approval approve {asked['id']}" in answer
    exit_code, written, answer = typed("approval", "approve", asked["id"], "--quiet")
    assert (exit_code, written, "confirmation needed" in answer) == (exit_codes.USAGE, "", True)
    assert ok(up, "approval", "show", asked["id"])["approval"]["by"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "exit_code", "by"), [(b"n\n", exit_codes.DENIED, []), (b"y\n", exit_codes.OK, ["root"])]
)
def test_a_person_answers_on_a_terminal(
    up: Live, here: Path, task: Path, typed: bytes, exit_code: int, by: list[str]
) -> None:
    """
    The question comes with all that it is about, also where the rest is kept quiet, and what is typed is done.
    """
    asked = ask(up, here, task)
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-m", "arx_caps.cli", "approval", "approve", asked["id"], "--quiet"]
    command += ["--realm-dir", str(up.folder)]
    with child(command, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while b"approve this call?" not in shown:
            ready, _, _ = select.select([terminal], [], [], 60)
            assert ready, f"no question within a minute: {shown!r}"
            shown += os.read(terminal, 4096)
        os.write(terminal, typed)
        assert process.wait(60) == exit_code
    os.close(terminal)
    lines = [line.split() for line in shown.decode().splitlines()]
    assert ["amount", "=", "500"] in lines
    assert ["agent", AGENT] in lines
    assert ok(up, "approval", "show", asked["id"])["approval"]["by"] == by


def test_a_no_and_what_is_taken_back(up: Live, here: Path, task: Path, payments: Verifier) -> None:
    """
    A denial ends the agent's wait with 1 and its reason; what is withdrawn no service takes any more.
    """
    denied, given = ask(up, here, task), ask(up, here, task)
    no = ok(up, "approval", "deny", denied["id"], "--why", "no receipt", "--operator-key", here / "ada.key")["approval"]
    assert (no["state"], no["denied_by"], no["answer_why"]) == ("denied", "ada", "no receipt")
    wait = ("--session", here / "session", "--timeout", "60s")
    exit_code, output, printed = run(up, "approval", "wait", denied["id"], *wait)
    assert (exit_code, output["code"], "no receipt" in printed) == (exit_codes.DENIED, "approval_denied", True)
    assert "waiting for operators" not in printed
    exit_code, output, _ = run(up, "approval", "withdraw", denied["id"], "--yes")
    assert (exit_code, output["approval"]["state"], output["kill"]) == (exit_codes.OK, "denied", None)
    for name in ("ada", "bob"):
        key = ("--operator-key", here / f"{name}.key")
        ok(up, "approval", "approve", given["id"], "--yes", "--why", "a receipt came", *key)
    exit_code, output, _ = run(up, "approval", "deny", given["id"])
    assert (exit_code, output["error"]) == (
        exit_codes.DENIED,
        f"{given['id']} is approved already; to take that back, withdraw it",
    )
    out = task.with_name("approval")
    ok(up, "approval", "wait", given["id"], *wait, "--discharge", out)
    exit_code, output, _ = run(up, "approval", "withdraw", given["id"], "--yes", "--operator-key", here / "bob.key")
    assert (exit_code in (exit_codes.OK, exit_codes.INCOMPLETE), output["approval"]["state"]) == (True, "withdrawn")
    up.until(lambda: judged(payments, task, out) == "revoked")
    exit_code, output, _ = run(up, "approval", "wait", given["id"], *wait)
    assert (exit_code, output["code"]) == (exit_codes.DENIED, "approval_withdrawn")
    assert output["error"] == f"{given['id']} was withdrawn"


def test_a_no_has_no_reason_but_its_own(up: Live, here: Path, task: Path) -> None:
    """
    The reason of the first operator's approval is not shown as the reason of the second one's denial.
    """
    asked = ask(up, here, task)
    yes = ("approve", asked["id"], "--yes", "--why", "looks right", "--operator-key", here / "ada.key")
    assert ok(up, "approval", *yes)["approval"]["answer_why"] == "looks right"
    no = ok(up, "approval", "deny", asked["id"], "--operator-key", here / "bob.key")["approval"]
    assert (no["state"], no["answer_why"]) == ("denied", None)


def test_a_missing_id_or_a_long_reason_has_a_hint(up: Live, here: Path) -> None:
    """
    The error for an unknown id leads to the list; a reason that no person would read goes nowhere.
    """
    for words in (("show",), ("approve", "--yes"), ("deny",), ("withdraw", "--yes")):
        exit_code, output, _ = run(up, "approval", words[0], "a-aaaaaaaaaaaaaaaa", *words[1:])
        assert (exit_code, output["hint"]) == (
            exit_codes.DENIED,
            "`arx approval list --state all` lists every approval",
        )
    exit_code, output, _ = run(up, "approval", "deny", "a-aaaaaaaaaaaaaaaa", "--why", "x" * 501)
    assert (exit_code, "at most 500 characters, got 501" in output["error"]) == (exit_codes.USAGE, True)


def test_a_kill_of_an_approval_is_no_slip(up: Live, here: Path, task: Path) -> None:
    """
    The kill of an unknown ``task:a-…`` is no error; a mistyped id is one.
    """
    asked = ask(up, here, task)
    for name, doubted in ((asked["id"], False), ("a-abcdefghijklmnop", True)):
        exit_code, _, output = run(up, "kill", f"task:{name}", "--reason", "a test", "--yes")
        assert exit_code in (exit_codes.OK, exit_codes.INCOMPLETE)
        assert ("check the id" in output) is doubted
        assert "thaw" not in output  # nothing of an approval can begin later
    assert "did you mean task:a-abcdefghijklmnop?" in run(up, "kill", "a-abcdefghijklmnop", "--reason", "x", "--yes")[2]
    assert ok(up, "approval", "show", asked["id"])["approval"]["state"] == "withdrawn"


def test_who_may_not_approve_learns_it(up: Live, here: Path, task: Path) -> None:
    """
    A reader sees what waits and says nothing to it; an approver ends nothing else.
    """
    ok(up, "operator", "enrol", "reader", "--role", "read-only", "--key-out", here / "reader.key")
    asked = ask(up, here, task)
    words = (asked["id"], "--operator-key", here / "reader.key")
    assert ok(up, "approval", "show", *words)["approval"]["id"] == asked["id"]
    for verb in (("approve", "--yes"), ("deny",), ("withdraw", "--yes")):
        exit_code, output, _ = run(up, "approval", verb[0], *words, *verb[1:])
        assert (exit_code, output["code"]) == (exit_codes.DENIED, "tool_not_allowed")
    exit_code, output, _ = run(
        up, "kill", f"task:{asked['task']}", "--reason", "x", "--yes", "--operator-key", here / "ada.key"
    )
    assert (exit_code, output["code"]) == (exit_codes.DENIED, "tool_not_allowed")


def test_an_approval_that_counts_no_more_is_reported(up: Live, here: Path, task: Path) -> None:
    """
    Two have approved and it waits: the user reads that one of them was removed meanwhile.
    """
    asked = ask(up, here, task)
    ok(up, "operator", "enrol", "eve", "--role", "approver", "--key-out", task.with_name("eve.key"))
    ok(up, "approval", "approve", asked["id"], "--yes", "--operator-key", task.with_name("eve.key"))
    ok(up, "operator", "remove", "eve", "--yes")
    yes = ("approval", "approve", asked["id"], "--yes", "--operator-key", here / "ada.key")
    ran = arx(*yes, env={"ARX_HOME": str(up.folder)})
    assert (ran.exit_code, "another operator must approve" in ran.err) == (0, True)
    assert "2 of 2 approved: eve, ada; not all of these may approve now" in ran.out


def test_a_frozen_approver_takes_the_approvals_along(up: Live, here: Path, task: Path) -> None:
    """
    A hint explains it, and the list has them as withdrawn until a thaw.
    """
    asked = ask(up, here, task)
    ok(up, "operator", "enrol", "mal", "--role", "approver", "--key-out", task.with_name("mal.key"))
    for key in (here / "ada.key", task.with_name("mal.key")):
        ok(up, "approval", "approve", asked["id"], "--yes", "--operator-key", key)

    def listed(state: str) -> bool:
        rows = ok(up, "approval", "list", "--state", state, "--task", asked["task"])["approvals"]
        return [row["id"] for row in rows] == [asked["id"]]

    assert listed("approved")
    words = ("operator:mal", "--reason", "key stolen", "--yes")
    assert "`arx approval list --state withdrawn`" in run(up, "freeze", *words)[2]
    assert (listed("approved"), listed("withdrawn")) == (False, True)
    waited = ("approval", "wait", asked["id"], "--session", here / "session", "--timeout", "5s")
    exit_code, output, _ = run(up, *waited)
    assert (exit_code, output["code"]) == (exit_codes.DENIED, "approval_withdrawn")
    assert "approval list" not in run(up, "thaw", *words)[2]
    assert listed("approved")


def test_a_mint_that_is_away_ends_no_wait(up: Live, here: Path, task: Path) -> None:
    """
    A mint that is restarted, or replaced by another version, loses nothing of a wait for an operator.
    """
    asked = ask(up, here, task)
    away = open_session_file(str(here / "session"), f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(TimeoutError, match="still waits"):
        Approval(asked, asker=CommandSession(*away)).wait(timeout_s=0.1)


@pytest.mark.slow
def test_a_frozen_target_is_reported_with_where_to_look(up: Live, here: Path, task: Path) -> None:
    """
    An operator who may not approve now learns that it is the task that is frozen, and not the operator.
    """
    asked = ask(up, here, task)
    target = ("task:" + asked["task"], "--reason", "a test", "--yes")
    run(up, "freeze", *target)
    exit_code, output, _ = run(up, "approval", "approve", asked["id"], "--yes")
    assert (exit_code, output["code"]) == (exit_codes.DENIED, "frozen")
    assert f"arx task show {asked['task']}" in output["hint"]
    assert ok(up, "task", "show", asked["task"])["task"]["state"] == "frozen"
    run(up, "thaw", *target)
    assert ok(up, "approval", "approve", asked["id"], "--yes")["approval"]["state"] == "waiting"
