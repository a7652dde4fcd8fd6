# SPDX-License-Identifier: Apache-2.0
"""``arx decisions``: filters, forms, damage."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arx_caps.cli import exit_codes
from arx_verifier.errors import Failure
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.record import ChainFacts
from arx_verifier.journal.writer import Journal
from tests.cli.helpers import SESSION, TASK, arx
from tests.servers import child

AT = 1_760_000_000_000


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal with five decisions of two sessions, one of them refused."""
    about = {"agent": "acme/a", "session": SESSION, "task": TASK, "token": "i" * 22, "audience": "orders"}
    own, handed = ChainFacts(**about), ChainFacts(**about, named=("acme/w",), links=("L" * 22,))
    other = ChainFacts(agent="acme/b", session="s-" + "z" * 16, task=TASK, token="j" * 22, audience="mail")
    failure = Failure("caveat 2", "amount range", "[0,5]", "6\x1b[2J")
    sink = Journal(tmp_path / "journals" / "orders", "orders-1", "orders")
    for at, facts, tool in (
        (AT, own, "orders.get"),
        (AT + 1, handed, "orders.get"),
        (AT + 2, other, "mail.send"),
        (AT + 3, own, "orders.list"),
    ):
        sink.append(Decision("ok", at, facts, tool))
    sink.append(Decision("argument_not_allowed", AT + 9, handed, "orders.refund", failures=(failure,)))
    sink.close()
    return tmp_path / "journals"


def tools(journal: Path, *words: str) -> list[str]:
    """Return the tools of the decisions that a filter lets through."""
    return [each["tool"] for each in arx("decisions", "--journal", journal, "--json", *words).json["decisions"]]


def test_filters_hold_together(journal: Path) -> None:
    """
    Each filter narrows the list; an agent is found at any place of the chain.
    """
    assert tools(journal) == ["orders.get", "orders.get", "mail.send", "orders.list", "orders.refund"]
    assert tools(journal, "--code", "deny") == ["orders.refund"]
    assert tools(journal, "--code", "argument_not_allowed", "--tool", "orders.*") == ["orders.refund"]
    assert tools(journal, "--agent", "acme/w") == ["orders.get", "orders.refund"]
    assert tools(journal, "--agent", "acme/*", "--tool", "mail.send") == ["mail.send"]
    assert tools(journal, "--limit", "2") == ["orders.list", "orders.refund"]
    assert tools(journal, "--since", str(AT + 3)) == ["orders.list", "orders.refund"]
    assert tools(journal, "--since", "1h") == []


def test_journals_elsewhere_are_read_with_it(journal: Path, tmp_path: Path) -> None:
    """
    Several folders are one list, and a service file stands for the journal that it names; a folder twice is read once.
    """
    elsewhere = tmp_path / "orders-journal"
    sink = Journal(elsewhere, "orders-2", "orders")
    sink.append(Decision("ok", AT + 5, ChainFacts(agent="acme/c", session="s-" + "c" * 16), "orders.count"))
    sink.close()
    file = tmp_path / "orders.json"
    content = {"v": 1, "realm": "acme", "audience": "orders", "max_ttl_ms": 1000, "journal": str(elsewhere)}
    content["keys"] = {"k1.1": "A" * 43}
    file.touch(0o600)
    file.write_text(json.dumps(content))
    all_of_them = ["orders.get", "orders.get", "mail.send", "orders.list", "orders.count", "orders.refund"]
    assert tools(journal, "--journal", str(file)) == all_of_them
    assert tools(journal, "--journal", str(elsewhere), "--journal", str(journal / "orders")) == all_of_them
    named = arx("decisions", "--json", env={"ARX_JOURNAL": f"{journal}:{file}"}).json["decisions"]
    assert [each["tool"] for each in named] == all_of_them
    unknown = arx("decisions", "--realm-dir", tmp_path, "--session", "s-" + "c" * 16)
    assert (unknown.exit_code, "--journal FILE" in unknown.err) == (exit_codes.DENIED, True)
    file.write_text(json.dumps(content | {"journal": str(tmp_path / "none")}))
    assert "orders.json: its journal" in arx("decisions", "--journal", file).err
    file.write_text(json.dumps({name: value for name, value in content.items() if name != "journal"}))
    assert arx("decisions", "--journal", file).exit_code == exit_codes.USAGE


def test_a_code_that_is_none_is_a_mistake(journal: Path) -> None:
    """
    A mistyped code is not answered with an empty table; a known code without records is, with a note.
    """
    ran = arx("decisions", "--journal", journal, "--code", "argument_not_alowed")
    assert ran.exit_code == exit_codes.USAGE
    assert "argument_not_allowed?" in ran.err
    ran = arx("decisions", "--journal", journal, "--code", "revoked")
    assert (ran.exit_code, ran.err) == (exit_codes.OK, "no decision in these journals matches\n")


def test_what_was_only_counted_is_shown_in_numbers(tmp_path: Path) -> None:
    """
    Unproven refusals are in the table by code with their number, and the filter finds them.
    """
    sink = Journal(tmp_path / "orders", "orders-1", "orders")
    for _ in range(3):
        sink.count("missing_token", "127.0.0.1")
    sink.close()
    for words in ((), ("--code", "missing_token"), ("--code", "counted")):
        rows = arx("decisions", "--journal", tmp_path, *words).out.splitlines()[1:]
        assert all(row.endswith(" missing_token") for row in rows)
        assert sum(int(row.split()[-2]) for row in rows) == 3


def test_a_session_is_shown_as_a_tree(journal: Path) -> None:
    """
    Delegations stand below whom they came from, with what each of them did.
    """
    ran = arx("decisions", "--journal", journal, "--session", SESSION)
    assert ran.exit_code == exit_codes.OK
    assert ran.out.index("acme/a") < ran.out.index("acme/w") < ran.out.index("argument_not_allowed")
    assert "mail.send" not in ran.out
    assert "\x1b" not in ran.out
    trail = arx("decisions", "--journal", journal, "--session", SESSION, "--json").json
    assert (trail["schema"], trail["allowed"], trail["denied"]) == ("arx/trail/1", 3, 1)


def test_lines_for_machines(journal: Path) -> None:
    """
    ``--jsonl`` is one object a line, each with its schema.
    """
    lines = arx("decisions", "--journal", journal, "--jsonl").out.splitlines()
    assert [json.loads(line)["schema"] for line in lines] == ["arx/decision/1"] * 5


def test_a_table_for_people_shows_no_control_characters(journal: Path) -> None:
    """
    What a tool was called with cannot steer the terminal of who reads it.
    """
    ran = arx("decisions", "--journal", journal)
    assert "acme/a -> acme/w" in ran.out
    assert "\x1b" not in ran.out


@pytest.mark.servers
def test_following_begins_with_the_last_and_goes_on(journal: Path) -> None:
    """
    ``--follow`` writes the last decisions once, then whatever a verifier decides from now on.
    """
    command = [sys.executable, "-m", "arx_caps.cli", "decisions", "--journal", str(journal), "--follow", "--limit", "2"]
    with child(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as following:
        assert following.stdout is not None
        try:
            values = [following.stdout.readline() for _ in range(2)]
            sink = Journal(journal / "mail", "mail-1", "mail")
            sink.append(
                Decision("ok", AT + 20, ChainFacts(agent="acme/c", session=SESSION, audience="mail"), "mail.read")
            )
            values.append(following.stdout.readline())
            sink.close()
            following.send_signal(signal.SIGINT)
            assert following.wait(60) == exit_codes.OK
            assert following.stdout.read() == ""
        finally:
            following.kill()
    assert ["orders.list" in values[0], "orders.refund" in values[1], "mail.read" in values[2]] == [True] * 3


def test_damage_is_reported_and_read_past(journal: Path) -> None:
    """
    A journal that is not as it was written ends with 3; what can still be read is shown.
    """
    segment = next(path for path in journal.rglob("*") if path.is_file())
    raw = bytearray(segment.read_bytes())
    at = raw.index(b"mail.send")
    raw[at] ^= 1
    segment.write_bytes(bytes(raw))
    ran = arx("decisions", "--journal", journal)
    assert ran.exit_code == exit_codes.INCOMPLETE
    assert "damaged:" in ran.err
