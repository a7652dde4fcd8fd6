# SPDX-License-Identifier: Apache-2.0
"""Who is erased is erased in the mint's own database, too: its very bytes say nothing of them, and the log goes on."""

import re
from typing import Any

import pytest
from sqlalchemy import select, update

from arx_caps.audit.ingest.entries import is_event, read_event
from arx_caps.audit.store.tables import RECORD
from arx_caps.mint.api.idempotency import HEADER
from arx_caps.mint.audit.feeds import EventFeed
from arx_caps.mint.db.tables import METADATA, SESSIONS, TASKS
from arx_verifier.token.targets import subject_target
from tests.mint.harness import LOOKUP, Harness, Holder, now_ms
from tests.mint.login import Flow, Issuer

pytestmark = [pytest.mark.spec("LOG 1.9"), pytest.mark.realm(log=True)]

IDP = "https://idp.example"
ANN = subject_target(IDP, "ann-of-accounting")
MARKS = ("ann-of-accounting", "look after Ann", "o-of-ann", ANN.partition(":")[2])


def work_for_ann(harness: Harness) -> tuple[Holder, str]:
    """A session with a task on behalf of Ann, one call of which may be repeated."""
    with harness.mint.log._stepping:  # the log takes no event of the session before it has its subject
        return begin_work(harness)


def begin_work(harness: Harness) -> tuple[Holder, str]:
    """The same; the caller keeps the log from taking a step."""
    subject = {"subject_issuer": IDP, "subject": "ann-of-accounting", "subject_claims": "{}"}
    holder, session = harness.open_session(harness.enrol(), purpose="look after Ann")
    with harness.mint.db.write() as c:
        c.execute(update(SESSIONS).where(SESSIONS.c.id == session["id"]).values(**subject))
    body = LOOKUP | {"params": {"order_id": "o-of-ann"}}
    headers = holder.headers("POST", "/v1/tasks") | {HEADER: "once"}
    assert harness.client.post("/v1/tasks", json=body, headers=headers).status_code == 201
    return holder, str(session["id"])


def erase(harness: Harness, **body: Any) -> Any:
    return harness.operator().call("POST", "/v1/audit/erase", {"reason": "asked to"} | body)


def kept_anywhere(harness: Harness) -> set[str]:
    """Return the texts of Ann that any row of the mint's database or of the log has."""
    harness.mint.log.step()
    with harness.mint.db.read() as c:
        rows = [str(tuple(row)) for table in METADATA.sorted_tables for row in c.execute(select(table))]
    with harness.mint.log.store.reading() as c:
        rows += [str(tuple(row)) for row in c.execute(select(RECORD))]
    text = "\n".join(rows)
    return {mark for mark in MARKS if mark in text}


def killed(harness: Harness) -> None:
    epochs = harness.epochs
    epochs.kill(ANN)


def test_nothing_is_left_of_a_person(unit: Harness) -> None:
    """Names, purpose, parameters and the target are gone; that there was a session and a task is there."""
    _, session = work_for_ann(unit)
    other, _ = unit.open_session(unit.enrol("acme/support/other"), purpose="for Bob")
    unit.mint.log.step()
    assert kept_anywhere(unit) >= {"ann-of-accounting", "look after Ann", "o-of-ann"}
    killed(unit)
    answer = erase(unit, subject=ANN)
    assert answer.status_code == 200, answer.text
    reply = answer.json()
    assert (reply["sessions"], reply["events"] >= 2, reply["erased"] >= 2) == (1, True, True)
    assert kept_anywhere(unit) == set()
    shown = unit.operator().call("GET", f"/v1/sessions/{session}").json()
    assert (shown["session"]["subject"], shown["session"]["purpose"]) == (None, None)
    assert [(task["template"], task["params"]) for task in shown["tasks"]] == [("lookup", {})]
    task = shown["tasks"][0]["id"]
    assert unit.operator().call("GET", f"/v1/tasks/{task}").json()["grants"] == []
    events = {event["kind"]: event for event in unit.events() if event.get("session") == session}
    assert events["session.opened"]["agent"] == shown["session"]["agent"]
    assert events["session.opened"]["erased"] is True
    [done] = [event for event in unit.events() if event["kind"] == "mint.erased"]
    assert (done["by"], done["sessions"], done["reason"]) == ("operator:root", 1, "asked to")
    assert other.call("POST", "/v1/tasks", LOOKUP).status_code == 201  # another person's
    again = erase(unit, subject=ANN).json()
    assert again == {"erased": 0, "sessions": 0, "events": 0}


def test_what_oauth_keeps_of_a_person_is_erased(flow: Flow, idp: Issuer) -> None:
    """Parameters in what access and refresh tokens stand for, and in a consent; those of other people stay."""
    flow.harness.mint.log.start()
    other = flow.token()
    idp.person = {"sub": "ann-of-accounting"}
    target = subject_target(idp.url, "ann-of-accounting")
    code = flow.answer_of(flow.answer(flow.page(), order_id="o-of-ann"))["code"]
    assert flow.refresh(flow.redeem(code).json()["refresh_token"]).status_code == 200
    assert kept_anywhere(flow.harness) >= {"ann-of-accounting", "o-of-ann"}
    flow.harness.epochs.kill(target)
    answer = erase(flow.harness, subject=target)
    assert answer.status_code == 200, answer.text
    assert kept_anywhere(flow.harness) == set()
    assert flow.client.active(other["access_token"])


@pytest.mark.sqlite
def test_the_files_have_no_byte_of_it(unit: Harness) -> None:
    """A SQLite keeps what it deletes until it is written over: here it is, in the file and in its write-ahead log."""
    work_for_ann(unit)
    killed(unit)
    assert erase(unit, subject=ANN).status_code == 200
    names = [
        path for path in unit.realm.folder.glob("*.db*") if re.search(rb"ann-of|look after|o-of-ann", path.read_bytes())
    ]
    assert names == []


def test_what_runs_is_ended_first(unit: Harness) -> None:
    """While a session of theirs runs, or is frozen, nothing is erased: the answer says how to end it."""
    _, session = work_for_ann(unit)
    for _ in range(2):
        answer = erase(unit, subject=ANN)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert f"arx kill {ANN}" in answer.json()["detail"]
        assert session in answer.json()["detail"]
        epochs = unit.epochs
        epochs.freeze(ANN)
    assert "ann-of-accounting" in kept_anywhere(unit)


def test_old_records_go_for_every_person(unit: Harness) -> None:
    """Sessions that were over before a time, and events from before it; what is newer or runs stays."""
    _, session = work_for_ann(unit)
    with unit.mint.db.write() as c:
        c.execute(update(SESSIONS).values(status="ended", ended_at=now_ms() - 10))
        c.execute(update(TASKS).values(status="ended", ended_at=now_ms() - 10))
    unit.mint.log.step()
    _, running = unit.open_session(unit.enrol("acme/support/other"), purpose="runs")
    with unit.mint.db.read() as c:
        before = c.execute(select(SESSIONS.c.opened_at).where(SESSIONS.c.id == running["id"])).scalar_one()
    answer = erase(unit, before=before)
    assert answer.status_code == 200, answer.text
    assert answer.json()["sessions"] == 1
    assert kept_anywhere(unit) == set()
    operator = unit.operator()
    assert operator.call("GET", f"/v1/sessions/{running['id']}").json()["session"]["purpose"] == "runs"
    assert operator.call("GET", f"/v1/sessions/{session}").json()["session"]["purpose"] is None


def test_what_was_read_before_comes_into_the_log_erased(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that was on its way into the log when it was erased stands there once, and erased."""
    work_for_ann(unit)
    killed(unit)
    db = unit.mint.db
    stale, real = db.outbox.after(unit.mint.log.store.high_water("mint", db.outbox.run())), db.outbox.after
    assert stale
    assert erase(unit, subject=ANN).status_code == 200
    pages = iter([stale])
    monkeypatch.setattr(db.outbox, "after", lambda number, limit=1000: next(pages, None) or real(number, limit))
    EventFeed(db)(unit.mint.log.store)
    assert kept_anywhere(unit) == set()
    with unit.mint.log.store.reading() as c:
        kept = [bytes(row) for row in c.execute(select(RECORD.c.kept)).scalars()]
    numbers = [read_event(each, None).number for each in kept if is_event(each)]
    assert len(numbers) == len(set(numbers))
