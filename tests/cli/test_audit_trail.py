# SPDX-License-Identifier: Apache-2.0
"""``arx audit trail``, ``tail`` and ``export`` against a realm that runs: decided, shipped, asked."""

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.cli import exit_codes
from arx_caps.service import open_shipper
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.writer import Journal
from arx_verifier.metrics.counted_decisions import CountedDecisions
from arx_verifier.service import open_verifier
from arx_verifier.token.targets import subject_target
from tests.audit.batches import START_MS, decision, facts
from tests.cli.helpers import arx
from tests.cli.live import Live, live_realm
from tests.cli.test_service_keys import joined
from tests.servers import child, free_ports, until

pytestmark = pytest.mark.servers
ADA = ("https://idp.example", "ada")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A realm whose log has thirteen decisions of the service orders."""
    folder = tmp_path_factory.mktemp("live")
    with live_realm(folder / "realm", free_ports(1)[0]) as realm:
        file, _ = joined(realm, folder)
        decide(file, [decision(n, facts("s-1", "t-1", "acme/a")) for n in range(1, 11)])
        decide(
            file, [decision(11, facts("s-1", "t-1")), decision(12, facts("s-1", "t-1", "acme/a", "acme/b"), "revoked")]
        )
        chain = facts("s-2", "t-2", agent="acme/other", subject=ADA)
        decide(
            file, [decision(13, chain, tool="mail.send", request_id="rq-7", traceparent=TRACE, arguments=b'{"n":1}')]
        )
        with open_shipper(file):
            until(lambda: realm.run("audit", "trail", "--session", "s-2")[0] == 0)
        yield realm


def decide(file: Path, decisions: list[Decision]) -> None:
    verifier = open_verifier(file)
    assert isinstance(verifier.decisions, CountedDecisions)
    sink = verifier.decisions.sink
    assert isinstance(sink, Journal)
    for each in decisions:
        sink.append(each)
    sink.close()


def text(up: Live, *words: str) -> str:
    done = arx(*words, "--realm-dir", up.folder)
    assert done.exit_code == 0, done.err
    return done.out + done.err


@pytest.mark.slow
def test_one_id_is_shown_as_a_tree(up: Live) -> None:
    """With what was allowed and denied at each place; any id of the chain shows what is above and below it."""
    lines = text(up, "audit", "trail", "--session", "s-1").splitlines()
    assert lines[0] == "s-1  acme/bot  11 allowed, 1 denied"
    assert lines[1:3] == ["policy p", "└─ acme/bot (proven, bearer)  task t-1  1 allowed"]
    assert any(line.endswith("acme/a (named, bearer)  link:s-1-t-1-acme/a  10 allowed") for line in lines)
    assert any("10 calls: orders  lookup x10" in line for line in lines)
    assert any("revoked" in line for line in lines)
    answer = up.ok("audit", "trail", "--link", "s-1-t-1-acme/a/acme/b")
    [task] = answer["trails"][0]["tasks"]
    assert [task["name"], task["children"][0]["name"], task["children"][0]["children"][0]["denied"]] == [
        "acme/bot",
        "acme/a",
        1,
    ]
    code, problem, _ = up.run("audit", "trail", "--session", "unknown")
    assert (code, problem["code"]) == (exit_codes.DENIED, "unknown_session")


def test_runs_are_listed_with_how_they_ended(up: Live) -> None:
    """Three runs of the service, all of which said their last word."""
    runs = [run for run in up.ok("audit", "runs")["runs"] if run["service"] == "orders"]
    assert sorted((run["high_water"], run["lost"], run["closed_at"] is not None) for run in runs) == [
        (1, 0, True),
        (2, 0, True),
        (10, 0, True),
    ]
    assert "closed" in text(up, "audit", "runs")
    one = up.ok("audit", "runs", "--service", "orders", "--limit", "1")
    assert (one["runs"], one["more"]) == (runs[:1], True)
    assert up.ok("audit", "runs", "--service", "unknown") == {**one, "runs": [], "more": False}


def test_filters_make_a_table_that_says_how_much_it_is(up: Live) -> None:
    """Filters apply together, and the output names what it leaves out."""
    answer = up.ok("audit", "trail", "--session", "s-1", "--reason", "deny")
    assert [(each["code"], each["named"]) for each in answer["records"]] == [("revoked", ["acme/a", "acme/b"])]
    shown = text(up, "audit", "trail", "--agent", "acme/bot", "--limit", "2")
    assert "12 records, from 2027-01-15 08:00:00Z to 2027-01-15 08:00:00Z; the newest 2 are shown" in shown
    assert "no record matches" in text(up, "audit", "trail", "--tool", "no.such")
    events = up.ok("audit", "trail", "--reason", "event", "--since", "1h")["records"]
    assert events
    assert {each["type"] for each in events} == {"event"}
    assert up.run("audit", "trail", "--reason", "nonsense")[0] == exit_codes.USAGE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("--session s-1", 12),
        ("--task t-1", 12),
        ("--task t-2", 1),
        ("--link s-1-t-1-acme/a/acme/b", 12),
        ("--agent acme/**", 13),
        ("--agent acme/b", 12),
        (f"--subject {subject_target(*ADA)}", 1),
        ("--tool lookup --agent acme/bot", 12),
        ("--tool mail.*", 1),
        ("--reason revoked", 1),
        ("--reason allow --session s-1", 11),
        (f"--since {START_MS + 2} --until {START_MS + 6}", 4),
        ("--session s-1 --agent acme/other", 0),
    ],
)
def test_each_filter_finds_what_it_says(up: Live, words: str, count: int) -> None:
    """All that is meant and nothing else, and a page of some says how many there are."""
    answer = up.ok("audit", "trail", "--flat", *words.split())
    assert (len(answer["records"]), answer["total"]["records"], answer["total"]["exact"]) == (count, count, True)
    assert len(up.ok("audit", "trail", "--flat", "--limit", "2", *words.split())["records"]) == min(2, count)


def test_a_call_is_found_again_by_who_made_it(up: Live) -> None:
    """The ids of its request and of its trace, and arguments where they were recorded, come through to the reader."""
    [answer] = up.ok("audit", "trail", "--tool", "mail.send")["records"]
    assert (answer["request_id"], answer["traceparent"], answer["arguments"]) == ("rq-7", TRACE, '{"n":1}')
    others = up.ok("audit", "trail", "--flat", "--session", "s-1")["records"]
    assert {(each["request_id"], each["traceparent"], each["arguments"]) for each in others} == {(None, None, None)}


def test_a_tail_goes_on(up: Live, tmp_path: Path) -> None:
    """Records are shown as they come, and no reading stops that."""
    command = [sys.executable, "-m", "arx_caps.cli", "audit", "tail", "-f", "--jsonl", "--realm-dir", str(up.folder)]
    with child(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(10):
            process.stdout.readline()
        up.ok("agent", "enrol", "acme/new", "--key-out", tmp_path / "new.key")
        seen: dict[str, str] = {}
        while seen.get("kind") != "agent.enrolled":
            seen = json.loads(process.stdout.readline())
            assert seen.get("tool") != "arx.audit.read"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


INTERRUPTED = """
import os, signal
from httpcore._synchronization import ThreadLock
from arx_caps.cli.app import main

enter = ThreadLock.__enter__

def interrupted(lock):
    enter(lock)
    os.kill(os.getpid(), signal.SIGINT)
    return lock

ThreadLock.__enter__ = interrupted
main()
"""


def test_a_command_ends_whenever_it_is_interrupted(up: Live) -> None:
    """Also at the moment when the HTTP client has just locked its connections, which closing it would wait for."""
    command = [sys.executable, "-c", INTERRUPTED, "audit", "tail", "-f", "--realm-dir", str(up.folder)]
    with child(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.wait(60) == exit_codes.INTERRUPTED
        assert process.stderr.read().strip() == "arx: interrupted"


@pytest.mark.slow
def test_exports_go_on_where_they_broke_off(up: Live, tmp_path: Path) -> None:
    """Whole, in the log's order, in each form; a torn last line is taken back, and nothing is written twice."""
    whole = tmp_path / "log.jsonl"
    filters = ("--agent", "acme/bot", "--until", str(START_MS + 100))
    answer = up.ok("audit", "export", "--out", whole, *filters)
    lines = whole.read_text().splitlines(keepends=True)
    assert (answer["records"], len(lines)) == (12, 12)
    assert [json.loads(line)["at"] for line in lines] == [START_MS + n for n in range(1, 13)]
    torn = tmp_path / "torn.jsonl"
    torn.write_text("".join(lines[:5]) + lines[5][:40])
    assert up.run("audit", "export", "--out", torn, *filters)[0] == exit_codes.USAGE
    answer = up.ok("audit", "export", "--out", torn, "--resume", *filters)
    assert (answer["written"], answer["records"], torn.read_text()) == (7, 12, whole.read_text())
    table = tmp_path / "log.csv"
    up.ok("audit", "export", "--format", "csv", "--out", table, *filters)
    before = table.read_text()
    up.ok("audit", "export", "--format", "csv", "--out", table, "--resume", *filters)
    assert table.read_text() == before
    assert [row["tool"] for row in csv.DictReader(before.splitlines())] == ["lookup"] * 12
    assert up.run("audit", "export", "--format", "ocsf", "--out", table, "--resume")[0] == exit_codes.USAGE
    events = tmp_path / "log.ocsf"
    up.ok("audit", "export", "--format", "ocsf", "--out", events, "--reason", "revoked")
    [event] = map(json.loads, events.read_text().splitlines())
    assert (event["class_uid"], event["status_code"]) == (6003, "revoked")


@pytest.mark.slow
def test_a_selection_convinces_a_holder_of_the_key(up: Live, tmp_path: Path) -> None:
    """Some records, each with its proof: checked offline; one that broke off goes on under the same checkpoint."""
    selection, key = tmp_path / "s-1.jsonl", up.ok("audit", "key")["key"]
    assert up.ok("audit", "export", "--format", "selection", "--out", selection, "--session", "s-1")["records"] == 12
    checked = up.ok("audit", "verify", selection, "--key", key)
    assert (checked["kind"], checked["records"]) == ("selection", 12)
    lines = selection.read_bytes().splitlines(keepends=True)
    torn = tmp_path / "torn.jsonl"
    torn.write_bytes(b"".join(lines[:6]) + lines[6][:99])
    assert up.run("audit", "verify", torn, "--key", key)[0] == exit_codes.INCOMPLETE
    up.ok("audit", "export", "--format", "selection", "--out", torn, "--session", "s-1", "--resume")
    assert torn.read_bytes() == selection.read_bytes()
    torn.write_bytes(b"".join([lines[0], *lines[2:]]))
    assert up.run("audit", "verify", torn, "--key", key)[0] == exit_codes.DENIED


def test_what_may_go_is_asked_for_twice(up: Live) -> None:
    """Nothing is erased without a confirmation, and the answer names what was erased."""
    erase = ("audit", "erase", "--person", "https://idp.example", "unknown", "--reason", "asked to")
    assert up.run(*erase)[1]["code"] == "not_confirmed"
    assert up.ok(*erase, "--yes")["erased"] == 0
    assert up.ok("audit", "prune", "--before", "90d", "--reason", "old", "--yes") == {
        "schema": "arx/audit-pruned/1",
        "first": 0,
        "pruned": 0,
    }
    assert up.run("audit", "erase", "--reason", "x", "--yes")[0] == exit_codes.USAGE


@pytest.mark.slow
@pytest.mark.parametrize("form", ["{boot}-{sequence}", "{verifier}/{boot}/{sequence}"])
def test_a_decision_is_proven_and_the_proof_holds_offline(up: Live, tmp_path: Path, form: str) -> None:
    """``arx audit prove`` by the id that a decision shows, then ``arx audit verify`` with nothing but the log's key."""
    answer = up.ok("audit", "trail", "--agent", "acme/other")["records"][0]
    key, file = up.ok("audit", "key")["key"], tmp_path / "proof"
    proven = up.ok("audit", "prove", form.format(**answer), "--out", str(file))
    checked = up.ok("audit", "verify", str(file), "--key", key)
    assert (checked["outcome"], checked["kind"], checked["first"]) == ("holds", "proof", proven["index"])
    decision = checked["decision"]
    assert (decision["agent"], decision["tool"], decision["outcome"]) == (
        "acme/other",
        answer["tool"],
        answer["outcome"],
    )
    assert f"allow ok: {answer['tool']}, by acme/other" in arx("audit", "verify", file, "--key", key).out
    assert file.stat().st_mode & 0o777 == 0o600
    code, problem, _ = up.run("audit", "prove", "unknown-1", "--out", str(file))
    assert (code, problem["code"]) == (1, "not_found")


def test_a_copy_is_fetched_from_the_mint(up: Live, tmp_path: Path) -> None:
    """An operator elsewhere gets the log's files over HTTP; they verify, and a second time what is new comes."""
    key = up.ok("audit", "key")["key"]
    sizes = [up.ok("audit", "copy", tmp_path / "copy", "--remote")["size"] for _ in range(2)]
    assert sizes == sorted(sizes)
    assert up.ok("audit", "verify", tmp_path / "copy", "--key", key)["records"] == sizes[-1] > 0


@pytest.mark.slow
def test_top_lists_the_most(up: Live) -> None:
    """Of each kind, over a time, from the totals that the log keeps; as a table, and as data."""
    span = ("--since", str(START_MS), "--until", str(START_MS + 1000))
    until(lambda: up.ok("audit", "top", *span)["tops"][0]["rows"])
    agents, sessions, tools, reasons = up.ok("audit", "top", *span)["tops"]
    assert [(row["name"], row["allow"], row["deny"]) for row in agents["rows"]] == [
        ("acme/bot", 11, 1),
        ("acme/other", 1, 0),
    ]
    assert [(row["name"], row["agent"]) for row in sessions["rows"]] == [("s-1", "acme/bot"), ("s-2", "acme/other")]
    assert [(row["name"], row["allow"]) for row in tools["rows"]] == [("lookup", 11), ("mail.send", 1)]
    assert [(row["name"], row["deny"]) for row in reasons["rows"]] == [("revoked", 1)]
    shown = text(up, "audit", "top", "--by", "reason,agent", "--order", "refused", "--limit", "1", *span).splitlines()
    assert [line.split() for line in shown[:2]] == [["REASON", "REFUSED"], ["revoked", "1"]]
    assert [line.split() for line in shown[3:6]] == [
        ["AGENT", "DECISIONS", "ALLOW", "REFUSED", "REFUSED", "%"],
        ["acme/bot", "12", "11", "1", "8.3"],
        ["others", "1", "1", "0", "0.0"],
    ]
    code, problem, _ = up.run("audit", "top", "--by", "agent,colour")
    assert code == exit_codes.USAGE, problem
