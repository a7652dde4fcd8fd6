# SPDX-License-Identifier: Apache-2.0
"""Budgets and marks in a realm that runs: one ledger in every service file, what it has, a top-up and a lift."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from arx_caps.cli import exit_codes
from arx_caps.embedded import EmbeddedValkey
from arx_verifier.ledger.pools import MarkQuestion, PoolDraw, Short, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from tests.cli.helpers import Ran, arx
from tests.cli.live import Live, live_realm
from tests.mint.events import events_of
from tests.servers import free_ports

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 2.11")]

TASK, LINK = "t-abcdefghijklmnop", "A" * 22
OWN, SUB = f"{TASK}/-/refund/usd/task", f"{TASK}/{LINK}/worker/usd/hour"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("ledger")) as valkey:
        yield valkey


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, kept: EmbeddedValkey) -> Iterator[Live]:
    folder, port = tmp_path_factory.mktemp("budget") / "realm", free_ports(1)[0]
    made = arx("init", "--name", "acme", "--issuer", f"http://127.0.0.1:{port}", env={"ARX_HOME": str(folder)})
    assert made.exit_code == exit_codes.OK, made.err
    with (folder / "realm.toml").open("a") as file:
        file.write(f'ledger = "{kept.url}"\n')
    with live_realm(folder, port) as realm:
        yield realm


def ran(up: Live, *words: str | Path) -> Ran:
    """Type a command."""
    return arx(*words, "--json", env={"ARX_HOME": str(up.folder)})


def ok(up: Live, *words: str | Path) -> dict[str, Any]:
    """Type a command that must succeed."""
    answer = ran(up, *words)
    assert answer.exit_code == exit_codes.OK, (words, answer)
    return answer.json


def drawn(ledger: RedisLedger, cost: int, opened: int) -> Taken | Short:
    """Draw from a task's pool and from that of a delegation."""
    whole = PoolDraw(OWN, 5_000_000, 0, opened, cost, cost)
    return ledger.take("draw", "", [whole, PoolDraw(SUB, 9_000_000, 3_600_000, opened, cost, cost)])


def test_an_operator_sees_and_tops_up_a_pool(up: Live, kept: EmbeddedValkey) -> None:
    """All pools of a task, those of a link alone, and one that has more than its max after a top-up."""
    opened = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 <= opened:
        pass
    ledger = RedisLedger(kept.url, "acme", timeout_s=30)
    assert isinstance(drawn(ledger, 4_500_000, opened), Taken)
    assert drawn(ledger, 750_000, opened) == Short(0, 500_000)
    shown = {pool["id"]: pool for pool in ok(up, "budget", "show", TASK)["pools"]}
    assert {name: (pool["used"], pool["remaining"], pool["max"]) for name, pool in shown.items()} == {
        OWN: ("4.5", "0.5", "5"),
        SUB: ("4.5", "4.5", "9"),
    }
    assert [pool["id"] for pool in ok(up, "budget", "show", LINK)["pools"]] == [SUB]
    assert [pool["id"] for pool in ok(up, "budget", "show", OWN)["pools"]] == [OWN]
    none = ran(up, "budget", "show", "t-ponmlkjihgfedcba")  # perhaps a typing error
    assert (none.json["pools"], "`arx task list` has the ids of tasks" in none.err) == ([], True)
    assert ok(up, "budget", "list", "--unit", "usd")["pools"] == []  # those of tasks that the mint does not know
    words = ("budget", "top-up", OWN)
    reason = ("--reason", "a larger order", "--yes")
    assert ok(up, *words, "0.25", "usd", *reason)["remaining"] == "0.75"
    assert isinstance(drawn(ledger, 750_000, opened), Taken)
    for wrong, code in (
        (("refund", "1", "usd"), "pool"),
        ((OWN, "1", "eur"), "malformed_request"),
        ((OWN, "0", "usd"), "malformed_request"),
        ((OWN, "1e3", "usd"), "malformed_request"),
        ((OWN, "1000000000", "usd"), "conflict"),
        ((OWN.replace("refund", "other"), "1", "usd"), "not_found"),
    ):
        answer = ran(up, "budget", "top-up", *wrong, *reason)
        assert (answer.exit_code != exit_codes.OK, answer.json.get("code")) == (True, code), (wrong, answer)
    topped_up = {pool["id"]: pool["topped_up"] for pool in ok(up, "budget", "show", TASK)["pools"]}
    assert topped_up == {OWN: "0.25", SUB: "0"}
    events = events_of(up.folder, "budget.topped_up")
    assert [(event["pool"], event["amount"]) for event in events] == [(OWN, "0.25")]
    ledger.close()


@pytest.mark.slow
@pytest.mark.spec("CONTROL 3.2")
def test_every_service_file_names_the_ledger(up: Live, kept: EmbeddedValkey, tmp_path: Path) -> None:
    """Enrolled, also by an invitation; a file that named another one names this one after the next refresh."""
    ok(up, "service", "enrol", "orders", "--out", tmp_path / "orders.json")
    assert json.loads((tmp_path / "orders.json").read_text())["ledger"] == kept.url
    ok(up, "service", "invite", "payments", "--out", tmp_path / "invite")
    file = tmp_path / "payments.json"
    ok(up, "service", "enrol", "--invitation", tmp_path / "invite", "--out", file)
    joined = json.loads(file.read_text())
    assert joined["ledger"] == kept.url
    file.write_text(json.dumps(joined | {"ledger": "redis://127.0.0.1:1"}))
    ok(up, "ship", file, "--once")
    assert json.loads(file.read_text()) == joined


@pytest.mark.spec("CONTROL 2.12")
def test_an_operator_sees_and_lifts_a_mark(up: Live, kept: EmbeddedValkey, tmp_path: Path) -> None:
    """In words and as JSON; one that is not set is no error, and a name that is none is."""
    key, file = tmp_path / "reader.json", tmp_path / "session.json"
    ok(up, "agent", "enrol", "acme/reader", "--key-out", key)
    session = ok(up, "session", "open", "--key", key, "--out", file)["session"]
    with closing(RedisLedger(kept.url, "acme", timeout_s=30)) as ledger:
        question = MarkQuestion(
            session["id"], session["opened_at"], 0, "web.get web", sets=("w:s:untrusted", "p:t/t-one:saved")
        )
        assert isinstance(ledger.take("draw", "", (), None, question), Taken)
    shown = arx("marks", "show", session["id"], env={"ARX_HOME": str(up.folder)})
    assert [line.split()[:3] for line in shown.out.splitlines()[1:]] == [
        ["saved", "proof", "task"],
        ["untrusted", "warning", "session"],
    ]
    lift = ("marks", "lift", session["id"])
    reason = ("--reason", "our own page", "--yes")
    assert [each["mark"] for each in ok(up, *lift, "untrusted", *reason)["lifted"]] == ["untrusted"]
    again = ran(up, *lift, "untrusted", *reason)
    assert (again.exit_code, again.json["lifted"]) == (exit_codes.OK, [])
    assert "nothing was lifted: untrusted is not set in" in again.err
    assert [each["mark"] for each in ok(up, "marks", "show", session["id"])["marks"]] == ["saved"]
    [event] = events_of(up.folder, "mark.lifted")
    assert (event["session"], event["mark"], event["reason"]) == (session["id"], "untrusted", "our own page")
    assert ran(up, *lift, "no name", *reason).json["code"] == "malformed_request"
    assert ran(up, "marks", "show", "s-abcdefghijklmnop").json["code"] == "not_found"
