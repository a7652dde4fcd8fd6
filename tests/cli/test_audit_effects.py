# SPDX-License-Identifier: Apache-2.0
"""``arx audit effects`` against a realm that runs: done, failed, unknown of a process that was killed, and pending."""

import json
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.cli import exit_codes
from arx_caps.console.records import row_of
from arx_caps.service import open_shipper
from arx_caps.text.effects import SILENT_MS, known_effects, runs_over
from arx_verifier.clock import now_ms
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.record import AWAITED, EffectRecord
from arx_verifier.service import open_verifier
from tests.audit.batches import decision, facts
from tests.cli.live import Live, live_realm
from tests.cli.test_audit_trail import text
from tests.cli.test_service_keys import joined
from tests.servers import free_ports, until

pytestmark = [pytest.mark.spec("LOG 3.7"), pytest.mark.servers]
CHAIN = facts("s-1", "t-1")
KILLED = """\
import os, signal, sys
from arx_verifier.service import open_verifier
from tests.cli.test_audit_effects import awaited
sink = open_verifier(sys.argv[1]).decisions
sink.append(awaited(9))
os.kill(os.getpid(), signal.SIGKILL)
"""


def awaited(number: int) -> Decision:
    return decision(number, CHAIN, tool="orders.refund", effect=AWAITED)


def decide(file: Path, results: list[str]) -> None:
    """Record calls of one run, with these effects; ``none`` has no record of it."""
    sink = open_verifier(file).decisions
    for number, result in enumerate(results, 1):
        call = awaited(number)
        sink.append(call)
        if result != "none":
            effect = EffectRecord(result, call.id, 200, 6, bytes(32), 12)
            sink.append(
                decision(number + 50, CHAIN, "effect", "orders.refund", effect=effect, external_id=f"re_{number}")
            )
    sink.close()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A realm whose log has a run that was killed, and one that ended in order."""
    folder = tmp_path_factory.mktemp("live")
    with live_realm(folder / "realm", free_ports(1)[0]) as realm:
        file, _ = joined(realm, folder)
        subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False)
        with open_shipper(file):
            until(lambda: len(realm.ok("audit", "effects")["effects"]) == 1)
        decide(file, ["done", "failed", "none"])
        with open_shipper(file):
            until(lambda: len(realm.ok("audit", "effects")["effects"]) == 4)
            until(lambda: any(run["closed_at"] for run in realm.ok("audit", "runs", "--service", "orders")["runs"]))
        yield realm


@pytest.mark.slow
def test_each_effect_has_its_result(up: Live) -> None:
    """A killed run is pending while it may only be slow; one that ended in order records nothing more."""
    found = up.ok("audit", "effects")["effects"]
    assert [each["result"] for each in found] == ["pending", "done", "failed", "unknown"]
    done = found[1]
    assert (done["tool"], done["external_id"], done["status"], done["size"]) == ("orders.refund", "re_1", 200, 6)
    [unknown] = up.ok("audit", "effects", "--unknown")["effects"]
    assert unknown == found[3]
    assert "external_id" not in unknown
    table = text(up, "audit", "effects").splitlines()
    assert table[0].split()[:4] == ["TIME", "EFFECT", "SERVICE", "TOOL"]
    assert [line.split()[2] for line in table[1:5]] == ["pending", "done", "failed", "unknown"]
    assert up.run("audit", "effects", "--reason", "deny")[0] == exit_codes.USAGE


def test_a_killed_run_is_unknown_once_its_successor_is_heard(up: Live) -> None:
    """After a minute of silence; without a successor it stays pending."""
    records = sorted(up.ok("audit", "trail", "--session", "s-1", "--flat")["records"], key=lambda each: each["index"])
    runs = up.ok("audit", "runs", "--service", "orders")["runs"]
    later = now_ms() + SILENT_MS + 1

    allowed = [each for each in records if each["outcome"] == "allow"]
    effects = [each for each in records if each["outcome"] == "effect"]

    def results(of: list[Any], at: int, alive: Collection[str] | None = ()) -> list[str]:
        return [each.result for each in known_effects(allowed, effects, runs_over(of, alive, at))]

    assert results(runs, now_ms()) == ["pending", "done", "failed", "unknown"]
    assert results(runs, later) == ["unknown", "done", "failed", "unknown"]
    assert results(runs[1:], later)[0] == "pending"
    # Another worker is no successor: the store hears the process of a long call, or its fork, or is not heard itself.
    killed = runs[1]["verifier"]
    for alive in ({killed}, {f"{killed}.77"}, None):
        assert results(runs, later, alive)[0] == "pending"
    assert results(runs, later, {f"{killed}7", runs[0]["verifier"]})[0] == "unknown"


def test_an_effect_may_be_later_than_the_time_asked_for(up: Live) -> None:
    """The calls of a time have their effects, also one of the next day; an effect without its call is not shown."""
    records = sorted(up.ok("audit", "trail", "--session", "s-1", "--flat")["records"], key=lambda each: each["index"])
    [done] = (each for each in records if each["outcome"] == "effect" and each["effect"]["result"] == "done")
    [call] = (each for each in records if each["id"] == done["effect"]["of"])
    assert call["at"] < done["at"]
    [found] = up.ok("audit", "effects", "--since", call["at"], "--until", call["at"] + 1)["effects"]
    assert (found["decision"], found["result"]) == (call["id"], "done")
    later = up.ok("audit", "effects", "--since", done["at"])["effects"]
    assert call["id"] not in {each["decision"] for each in later}


def test_effects_are_shown_with_the_records(up: Live, tmp_path: Path) -> None:
    """In the trail, and as events of OCSF."""
    tree = text(up, "audit", "trail", "--session", "s-1")
    assert "effect: done, status 200, 6 bytes, 12 ms, id re_1, of " in tree
    records = up.ok("audit", "trail", "--reason", "effect")["records"]
    assert [each["outcome"] for each in records] == ["effect", "effect"]
    assert row_of(records[0]).why.startswith("done, status 200, 6 bytes, 12 ms, id re_1, of ")  # as the console has it
    text(up, "audit", "export", "--format", "ocsf", "--out", str(tmp_path / "events.jsonl"))
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    shown = [
        (event["status"], event.get("status_code"))
        for event in events
        if event["unmapped"]["arx"].get("outcome") == "effect"
    ]
    assert shown == [("Success", None), ("Failure", "failed")]
