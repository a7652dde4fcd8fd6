# SPDX-License-Identifier: Apache-2.0
"""What people mistype, repeat and leave out at a running realm: each error names the mistake and the next step."""

import json
import os
import pty
import re
import signal
import socket
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from arx_caps.cli import exit_codes
from arx_caps.cli.access.mint_session import Caller, Unreachable
from arx_caps.cli.parse import STATES
from arx_caps.mint.tasks.liveness import State
from tests.cli.helpers import SESSION, Ran, arx
from tests.cli.live import AGENT, Live, live_realm
from tests.cli.test_terminal import read_all
from tests.servers import child, free_ports, until

CLEAR = b"\x1b[H\x1b[J"
pytestmark = pytest.mark.servers
Typed = Callable[..., Ran]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A running realm with one agent."""
    folder = tmp_path_factory.mktemp("slips")
    with live_realm(folder / "realm", free_ports(1)[0]) as realm:
        realm.ok("agent", "enrol", AGENT, "--key-out", folder / "agent.key")
        yield realm


@pytest.fixture
def typed(up: Live) -> Typed:
    """Type a command, in this process."""
    return lambda *words: arx(*words, env={"ARX_HOME": str(up.folder)})


@pytest.mark.slow
def test_a_kill_of_a_name_that_is_nearly_right(up: Live, typed: Typed) -> None:
    """It is done, as a sub-agent may have the name, and a hint names the enrolled agent or says that there is none."""
    words = ("--reason", "a test", "--yes")
    ran = typed("kill", "agent", AGENT.replace("support", "suport"), *words)
    assert f"did you mean agent:{AGENT}?" in ran.err
    assert "check the id" in typed("kill", "session", SESSION, *words).err
    ran = typed("kill", "agent", "acme/support/worker", *words)
    assert "agent:acme/support/worker: it is not enrolled" in ran.err
    assert "sub-agent" in ran.err
    ran = typed("kill", "agent", AGENT, *words)
    assert "enrolled" not in ran.err
    typed("thaw", "agent", AGENT, *words)
    ran = typed("freeze", "agent", "acme", *words)  # all below it
    assert "enrolled" not in ran.err
    typed("thaw", "agent", "acme", *words)


@pytest.mark.parametrize("verb", ["kill", "freeze"])
def test_a_wrong_name_is_shown_before_the_question(up: Live, verb: str) -> None:
    """A person at a terminal sees the doubt, then the question; with the answer no, nothing is done."""
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-m", "arx_caps.cli", verb, "agent", "acme/support/triaeg", "--reason", "a test"]
    environment = {**os.environ, "ARX_HOME": str(up.folder), "NO_COLOR": "1"}
    with child(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(terminal, 65536)
        os.write(terminal, b"n\n")
        shown += read_all(terminal)
        assert process.wait(60) == exit_codes.DENIED
    text = shown.decode()
    assert 0 <= text.find(f"did you mean agent:{AGENT}?") < text.find("[y/N]")
    assert "nothing was done" in text


def test_a_lost_answer_without_a_store_is_unknown(up: Live, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mint that received the kill and did not answer may have done it: that nothing was done would be wrong."""
    call = Caller.call

    def lost(self: Caller, method: str, path: str, *words: Any, **options: Any) -> dict[str, Any]:
        done = call(self, method, path, *words, **options)
        if path == "/v1/kills":
            raise Unreachable("the mint does not answer", exit_codes.UNREACHABLE)
        return done

    monkeypatch.setattr(Caller, "call", lost)
    key = ("--operator-key", up.folder / "operator.key", "--realm-dir", tmp_path / "none")
    ran = arx("kill", "session", SESSION, "--reason", "a test", "--yes", "--json", *key)
    assert (ran.exit_code, ran.json["status"]) == (exit_codes.INCOMPLETE, "unknown")


def test_who_may_only_kill_learns_no_names(up: Live, typed: Typed, tmp_path: Path) -> None:
    """A kill is no way to ask which agents there are."""
    typed("operator", "enrol", "night", "--role", "kill-only", "--key-out", tmp_path / "night.key")
    key = ("--operator-key", tmp_path / "night.key")
    ran = typed("kill", "agent", AGENT + "s", "--reason", "a test", "--yes", *key)
    assert (ran.exit_code in (exit_codes.OK, exit_codes.INCOMPLETE), f"{AGENT}?" in ran.err) == (True, False)
    assert f"agent:{AGENT}s: it is not enrolled" in ran.err
    ran = typed("kill", "session", SESSION, "--reason", "a test", "--yes", *key)
    assert "check the id" in ran.err


def test_what_is_inside_is_shown_in_words(up: Live, typed: Typed, tmp_path: Path) -> None:
    """Keys and rules are shown to people without a word of Python."""
    (tmp_path / "rules.json").write_text('{"rules": [{"tool": "arx.tasks.finish"}]}')
    typed("operator", "enrol", "odd", "--rules", tmp_path / "rules.json", "--key-out", tmp_path / "odd.key")
    shown = typed("operator", "show", "odd").out
    assert '{"tool": "arx.tasks.finish"}' in shown
    shown = typed("agent", "show", AGENT).out
    assert "since 20" in shown
    assert "{" not in shown


def test_an_agent_that_the_policy_does_not_know(typed: Typed, tmp_path: Path) -> None:
    """It is enrolled, and a hint says what its first session needs; without the right to read, there is no hint."""
    ran = typed("agent", "enrol", "others/support/triage", "--key-out", tmp_path / "other.key")
    assert (ran.exit_code, "add it to `agents` of a [session]" in ran.err) == (exit_codes.OK, True)
    ran = typed("agent", "enrol", "acme/desk/second", "--key-out", tmp_path / "second.key")
    assert (ran.exit_code, ran.err) == (exit_codes.OK, "")


def test_a_removed_name_stays_removed(typed: Typed, tmp_path: Path) -> None:
    """The answer "exists already" would send a user to look for it."""
    typed("operator", "enrol", "gone", "--role", "read-only", "--key-out", tmp_path / "a.key")
    typed("operator", "remove", "gone", "--yes")
    ran = typed("operator", "enrol", "gone", "--role", "read-only", "--key-out", tmp_path / "b.key")
    assert (ran.exit_code, "was removed" in ran.err, (tmp_path / "b.key").exists()) == (exit_codes.DENIED, True, False)


def test_a_deactivated_agent_differs_from_an_active_one(typed: Typed, tmp_path: Path) -> None:
    """A second enrolment of a path reports whether the path works still, or is gone for good."""
    enrol = ("agent", "enrol", "acme/gone", "--key-out")
    assert typed(*enrol, tmp_path / "first").exit_code == exit_codes.OK
    again = typed(*enrol, tmp_path / "second").err
    assert "is enrolled already" in again
    assert "`arx agent key add acme/gone --key-out FILE` enrols a further key" in again
    typed("agent", "deactivate", "acme/gone", "--yes")
    assert "was deactivated, and its name is not given again" in typed(*enrol, tmp_path / "second").err


def test_a_session_is_ended_twice(up: Live, typed: Typed, tmp_path: Path) -> None:
    """By its agent as by an operator: the second time finds it done."""
    typed("session", "open", "--key", up.folder.parent / "agent.key", "--out", tmp_path / "s")
    for value in ("confirmed", "unconfirmed", "had ended before"):
        ran = typed("session", "end", "--session", tmp_path / "s")
        assert ran.exit_code == exit_codes.OK, ran.err
        if value in ran.out:
            break
    assert "it had ended before" in typed("session", "end", "--session", tmp_path / "s").out
    for words in (("session", "renew"), ("task", "start", "lookup", "--param", "order_id=o-1")):
        ran = typed(*words, "--session", tmp_path / "s")
        assert (ran.exit_code, "`arx session open" in ran.err) == (exit_codes.DENIED, True)


def test_a_task_is_extended_from_the_grant_that_is_meant(up: Live, typed: Typed, tmp_path: Path) -> None:
    """Else from the newest; what was added is shown, and not what the task began with."""
    typed("session", "open", "--key", up.folder.parent / "agent.key", "--out", tmp_path / "s")
    with_session = ("--session", tmp_path / "s")
    asked = ("--param", "order_id=o-1", "--param", "amount=20")
    task = typed("task", "start", "refund", *with_session, *asked, "--out", tmp_path / "a", "--json").json["task"]
    words = ("task", "extend", task["id"], *with_session)
    shown = typed(*words, "lookup", "--param", "order_id=o-2", "--out", tmp_path / "b").out
    assert "payments" not in shown
    assert typed(*words, "--out", tmp_path / "c", "--json").json["added"]["audiences"] == ["orders"]
    of_it = ("--link", task["link"], "--out", tmp_path / "d", "--json")
    assert typed(*words, *of_it).json["added"]["audiences"] == ["orders", "payments"]
    listed = typed("task", "list", "--limit", "1", "--json").json
    assert ([each["id"] for each in listed["tasks"]], listed["more"]) == ([task["id"]], False)
    for words, count in ((("--state", "open"), 1), (("--state", "ended"), 0), (("--template", "lookup"), 0)):
        assert len(typed("task", "list", "--agent", AGENT, *words, "--json").json["tasks"]) == count, words
    below = ("--under", "acme/support")
    for words, count in ((below, 1), (("--under", "other"), 0), ((*below, "--state", "deactivated"), 0)):
        assert len(typed("agent", "list", *words, "--json").json["agents"]) == count, words


def test_a_log_is_not_recovered_under_a_mint_that_runs(typed: Typed) -> None:
    """Two writers would number the same records."""
    ran = typed("audit", "reindex", "--reason", "a test", "--yes")
    assert (ran.exit_code, "a server answers at" in ran.err) == (exit_codes.USAGE, True)


def test_rows_are_made_again_only_where_nothing_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a connection may be the realm's mint, also if it does not answer."""
    monkeypatch.setattr("arx_caps.cli.access.silence.TIMEOUT_S", 0.2)
    reindex = ("audit", "reindex", "--reason", "a test", "--yes", "--realm-dir", tmp_path / "other")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert arx("init", "--name", "other", "--listen", address, tmp_path / "other").exit_code == exit_codes.OK
        ran = arx(*reindex)
        assert (ran.exit_code, f"a server answers at {address}" in ran.err) == (exit_codes.USAGE, True), ran.err
    ran = arx(*reindex)
    assert (ran.exit_code, "has no checkpoint" in ran.err) == (exit_codes.INCOMPLETE, True), ran.err


def test_the_end_of_the_log_is_one_object(typed: Typed) -> None:
    """What does not go on is one object under ``--json``, as everywhere."""
    answer = typed("audit", "tail", "--limit", "3", "--json").json
    assert (answer["schema"], len(answer["records"])) == ("arx/records/1", 3)


def test_a_state_is_one_that_there_is(typed: Typed) -> None:
    """The command knows those of the mint, and lists them after a mistyped one."""
    assert get_args(State) == STATES
    ran = typed("session", "list", "--state", "opn")
    assert (ran.exit_code, "'frozen'" in ran.err) == (exit_codes.USAGE, True)


def test_whom_an_erasure_names(typed: Typed) -> None:
    """Nothing but a subject is one, and the error names where to find it."""
    for target in ("unknown", f"agent:{AGENT}"):
        ran = typed("audit", "erase", "--subject", target, "--reason", "a test", "--yes")
        assert (ran.exit_code, "regex" in ran.err, "--person ISSUER SUBJECT" in ran.err) == (
            exit_codes.USAGE,
            False,
            True,
        )


def test_records_are_older_than_a_year(typed: Typed) -> None:
    """Whatever lives has a duration of a year at most; how long ago something was has not."""
    ran = typed("audit", "prune", "--before", "400d", "--reason", "a test", "--yes")
    assert (ran.exit_code, "pruned 0 records" in " ".join(ran.out.split())) == (exit_codes.OK, True)
    assert typed("audit", "trail", "--since", "4000d").exit_code == exit_codes.OK


def test_what_was_killed_does_not_thaw(up: Live, typed: Typed) -> None:
    """A thawed freeze gives nothing back to a session that is over, and the answer to the thaw reports that."""
    words = ("--reason", "a test", "--yes")
    opened = [typed("session", "open", "--key", up.folder.parent / "agent.key") for _ in range(2)]
    ids = [json.loads(ran.out)["session"]["id"] for ran in opened]
    typed("session", "freeze", *ids, *words)
    typed("kill", "session", ids[0], *words)
    for ran in (typed("session", "thaw", *ids, *words), typed("thaw", *(f"session:{id_}" for id_ in ids), *words)):
        assert f"session:{ids[0]} is killed and stays so" in ran.err
        assert ids[1] not in ran.err


def test_who_may_not_learns_how_to_see_what_he_may(typed: Typed, tmp_path: Path) -> None:
    """The error explains a role that does not suffice, which of two keys came last, and a missing key."""
    typed("operator", "enrol", "watch", "--role", "kill-only", "--key-out", tmp_path / "watch.key")
    ran = typed("session", "list", "--operator-key", tmp_path / "watch.key")
    assert (ran.exit_code, "`arx whoami`" in ran.err) == (exit_codes.DENIED, True)
    ran = typed("operator", "key", "add", "watch", "--key-out", tmp_path / "next.key", "--json")
    assert ran.json["kid"] == json.loads((tmp_path / "next.key").read_text())["kid"]
    ran = typed("operator", "key", "remove", "watch", "OLD_KID")
    assert 'operator:watch has no key "OLD_KID"' in ran.err.replace("'", '"')


def test_a_lost_operator_key_is_not_the_end(up: Live, typed: Typed, tmp_path: Path) -> None:
    """The owner of the realm's folder without a key reads the way back, and it works as printed."""
    kept = up.folder / "operator.key"
    kept.rename(tmp_path / "lost.key")
    try:
        ran = typed("whoami")
        output = re.search(r"`arx (operator recover --key-out .*)`", ran.err)
        assert output is not None, ran.err
        assert typed(*output[1].split()).exit_code == exit_codes.OK
        assert typed("whoami").exit_code == exit_codes.OK
    finally:
        kept.unlink(missing_ok=True)
        (tmp_path / "lost.key").rename(kept)


def test_a_service_that_sends_nothing_is_named(typed: Typed, tmp_path: Path) -> None:
    """The log's list of runs says whose decisions it does not have at all."""
    typed("service", "enrol", "silent", "--out", tmp_path / "silent.json")
    for words in ((), ("--limit", "1"), ("--service", "silent")):
        ran = typed("audit", "runs", *words)
        assert (ran.exit_code, "has no record of silent" in ran.err) == (exit_codes.OK, True), words
    assert "has no record" not in typed("audit", "runs", "--service", "orders", "--limit", "1").err


def test_a_key_that_lives_is_not_retired_by_the_way(typed: Typed) -> None:
    """The error names the obstacle, and how to look."""
    ran = typed("key", "retire", "k1", "--yes")
    assert (ran.exit_code, "`arx key list`" in ran.err) == (exit_codes.DENIED, True)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("agnet:acme/x", "agent:acme/x"),
        ("acme/support", "agent:acme/support"),
        (SESSION, f"session:{SESSION}"),
        ("nothing at all", None),
    ],
)
def test_a_target_without_its_kind(typed: Typed, text: str, meant: str | None) -> None:
    """Is refused, and the one that looks like it is named."""
    ran = typed("kill", text, "--reason", "a test", "--yes")
    assert ran.exit_code == exit_codes.USAGE
    assert ("hint:" in ran.err) == (meant is not None)
    assert meant is None or f" {meant}?" in ran.err


def test_an_agent_that_is_nearly_right(typed: Typed) -> None:
    """The enrolled one is named."""
    ran = typed("agent", "show", f"{AGENT}x")
    assert ran.exit_code == exit_codes.DENIED
    assert f"did you mean {AGENT}?" in ran.err


@pytest.mark.slow
def test_top_shows_the_realm(up: Live, typed: Typed) -> None:
    """
    A pipe gets one look: the state, rates, and the last kill with its target.
    """
    typed("kill", "session", SESSION, "--reason", "a test", "--yes")
    answer = up.ok("top", "--since", "5m")
    assert (answer["status"]["ready"], answer["span_ms"]) == (True, 300_000)
    assert answer["kills"][0]["targets"][0]["target"] == f"session:{SESSION}"
    until(lambda: up.ok("top")["total"]["allow"])  # the minute that runs counts
    shown = typed("top").out
    assert "grants" in shown
    assert "REASON" in shown
    assert SESSION in shown


@pytest.mark.slow
def test_top_fits_the_terminal(up: Live, typed: Typed) -> None:
    """On a terminal of 16 lines, tables have fewer rows, and the first lines stay: whether the mint grants."""
    for _ in range(5):
        typed("kill", "session", SESSION, "--reason", "a test", "--yes")
    terminal, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (16, 80))
    environment = {**os.environ, "ARX_HOME": str(up.folder), "NO_COLOR": "1"}
    for name in ("COLUMNS", "LINES"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "arx_caps.cli", "top", "--every", "500ms"]
    with child(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while shown.count(CLEAR) < 2:  # the first screen is whole
            shown += os.read(terminal, 65536)
        process.send_signal(signal.SIGINT)
        read_all(terminal)
        assert process.wait(60) == 0
    screen = shown.split(CLEAR)[1].decode().splitlines()
    assert "grants" in screen[1]
    assert any(line.startswith("AGENT") for line in screen)
    assert len(screen) <= 16
