# SPDX-License-Identifier: Apache-2.0
"""Heartbeats: a receiver outside gets one at each interval from any of the mints, and none once all are dead."""

import itertools
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from arx_caps.cli.commands.doctor.notifications import SLACK_MS, check_notifications
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.api.routes.events import webhooks
from arx_caps.mint.context import VERSION
from arx_caps.mint.notifications import sender
from tests.mint.harness import Harness, open_live
from tests.mint.receiver import Received, ReceiverProcess
from tests.mint.test_two_mints import running as two_mints
from tests.postgres import Postgres
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 7.5")]
EACH_MS = 1000


@pytest.fixture
def running(
    tmp_path: Path, realm_name: str, valkey: EmbeddedValkey, receiver: ReceiverProcess, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Harness]:
    """A realm with a store whose mint runs and looks often."""
    receiver.got.clear()
    monkeypatch.setattr(sender, "LOOK_S", 0.02)
    settings = f'webhook_hosts = ["{receiver.netloc}"]\n'
    with open_live(tmp_path / "realm", valkey.url, name=realm_name, settings=settings) as harness:
        yield harness


def add(harness: Harness, url: str, **about: Any) -> dict[str, Any]:
    body = {"url": url, "heartbeat_ms": EACH_MS, **about}
    answer = harness.operator().call("POST", "/v1/webhooks", body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def beats(receiver: ReceiverProcess, path: str = "/200") -> list[Received]:
    return [one for one in receiver.at(path) if one.method == "GET" or one.body["type"] == "heartbeat"]


def test_a_signed_heartbeat_at_each_interval(running: Harness, receiver: ReceiverProcess) -> None:
    """With version, size of the log and readiness; no event comes, no row is left, and lists show the last one."""
    made = add(running, receiver.url())
    until(lambda: len(beats(receiver)) >= 3)
    got = beats(receiver)[:3]
    assert len({one.id for one in got}) == 3
    for one in got:
        body = Webhook(made["secret"]).verify(one.raw, one.headers)
        facts = body["data"]
        assert (facts["ready"], facts["reasons"], facts["version"], facts["interval_ms"]) == (
            True,
            [],
            VERSION,
            EACH_MS,
        )
        assert facts["log_size"] >= facts["log_signed"] >= 0
        assert (body["realm"], body["command"]) == (running.realm.name, "arx doctor")
    sent = [datetime.fromisoformat(one.body["timestamp"]) for one in got]  # a busy machine moves the arrivals
    assert all(later - earlier >= timedelta(milliseconds=EACH_MS / 2) for earlier, later in itertools.pairwise(sent))
    body = {"targets": ["agent:acme/a"], "reason": "a test", "wait": False}
    running.operator().call("POST", "/v1/kills", body)
    until(lambda: len(beats(receiver)) >= 4)
    assert {one.body["type"] for one in receiver.at("/200")} == {"heartbeat"}
    assert running.mint.db.notifications.page() == []
    (shown,) = running.operator().call("GET", "/v1/webhooks").json()["webhooks"]
    assert (shown["heartbeat_ms"], shown["events"], shown["error"]) == (EACH_MS, ["heartbeat"], None)
    (check,) = check_notifications(running.realm)
    assert (check.ok, "last heartbeat was taken" in check.found) == (True, True)


def test_a_get_comes_while_a_mint_is_ready(running: Harness, receiver: ReceiverProcess) -> None:
    """A GET cannot contain that the mint is not ready, so none comes then; a POST says why."""
    add(running, receiver.url("/200?uuid=secret"), format="get")
    until(lambda: len(beats(receiver, "/200?uuid=secret")) >= 2)
    first = beats(receiver, "/200?uuid=secret")[0]
    assert (first.method, first.raw) == ("GET", "")
    running.mint.log.publisher.halt(ValueError("another root"))
    add(running, receiver.url("/201"))
    until(lambda: beats(receiver, "/201"))
    count = len(beats(receiver, "/200?uuid=secret"))
    until(lambda: len(beats(receiver, "/201")) >= 3)
    assert len(beats(receiver, "/200?uuid=secret")) <= count + 1  # one may have been under way
    data = beats(receiver, "/201")[-1].body["data"]
    assert (data["ready"], "halted" in data["reasons"][0]) == (False, True)


def test_a_receiver_that_takes_none(
    running: Harness, receiver: ReceiverProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts that fail leave no rows, and delay no other receiver; one that is gone gets no more."""
    monkeypatch.setattr("arx_caps.mint.notifications.receivers.TOTAL_S", 1.0)
    for path in ("/hang", "/500", "/410", "/200"):
        add(running, receiver.url(path))
    until(lambda: min(len(receiver.at(path)) for path in ("/500", "/200")) >= 3)
    shown = {row["id"]: row for row in running.operator().call("GET", "/v1/webhooks").json()["webhooks"]}
    assert "answered 500" in {row["error"] for row in shown.values()}
    assert [row["state"] for row in shown.values()].count("gone") == 1
    assert len(receiver.at("/410")) == 1
    assert running.mint.db.notifications.page() == []


def test_what_a_heartbeat_is_not_for(running: Harness, receiver: ReceiverProcess) -> None:
    """Neither for Slack nor beside events, nor too often; and GET is for a heartbeat alone."""
    call = running.operator().call
    for about in (
        {"heartbeat_ms": EACH_MS, "format": "slack"},
        {"heartbeat_ms": EACH_MS, "events": ["log.halted"]},
        {"heartbeat_ms": webhooks.HEARTBEAT_MS[0] - 1},
        {"format": "get"},
    ):
        answer = call("POST", "/v1/webhooks", {"url": receiver.url(), **about})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request"), about


@pytest.mark.slow
def test_it_stops_when_all_mints_are_dead(
    tmp_path: Path, realm_name: str, postgres: Postgres, valkey: EmbeddedValkey, receiver: ReceiverProcess
) -> None:
    """One of two mints sends each; it goes on without one of them; the doctor shows the last one of dead mints."""
    receiver.got.clear()
    settings = f'webhook_hosts = ["{receiver.netloc}"]\n'
    with two_mints(tmp_path / "realm", realm_name, postgres, valkey.url, settings) as pair:
        body = {"url": receiver.url(), "heartbeat_ms": EACH_MS}
        assert pair.operator.ask(0, "POST", "/v1/webhooks", body)["status_code"] == 201
        until(lambda: len(beats(receiver)) >= 4)
        got = beats(receiver)
        assert all(later.at - earlier.at >= 0.5 * EACH_MS / 1000 for earlier, later in itertools.pairwise(got))
        pair.mints[0].kill()
        count = len(beats(receiver))
        until(lambda: len(beats(receiver)) >= count + 3)
        pair.mints[1].kill()
        (row,) = [check for check in check_notifications(pair.realm) if check.ok]
        assert "last heartbeat was taken" in row.found
        count = len(beats(receiver))
        until(lambda: not next(iter(check_notifications(pair.realm))).ok, (2 * EACH_MS + SLACK_MS) / 1000 + 60)
        (late,) = check_notifications(pair.realm)
        assert ("one is due every 1s" in late.found, "start a mint" in late.mend) == (True, True)
        assert len(beats(receiver)) <= count + 1
        pair.mints[0].start()
        until(lambda: len(beats(receiver)) >= count + 3)
        assert next(iter(check_notifications(pair.realm))).ok
