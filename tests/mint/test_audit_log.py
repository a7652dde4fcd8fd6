# SPDX-License-Identifier: Apache-2.0
"""The audit log at the mint: what services send is taken and signed, and so is what the mint says itself."""

import sqlite3
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from arx_caps.audit.ingest.entries import is_event, read_event
from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.tiles import TileReader, fetch_from
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.shipping.batch import HEADER, MAX_BYTES, MEDIA_TYPE, PATH, SEEN_HEADER, Batch, sign_batch
from arx_caps.audit.store.tables import RECORD
from arx_caps.credentials.jose import SigningKey, make_dpop
from arx_caps.mint.audit import log
from arx_caps.mint.db.repositories.identity.holder_keys import add_key
from arx_caps.mint.keys.log_key import read_log_key
from arx_verifier.journal.decision import Decision, InMemoryDecisions, unpack_record
from tests.audit.batches import BOOT, batch_of, decision, facts
from tests.mint.harness import AGENT, ISSUER, LOOKUP, Harness, local_mint, now_ms, open_unit
from tests.servers import until

pytestmark = pytest.mark.realm(log=True)


@pytest.fixture
def key(unit: Harness) -> SigningKey:
    """The enrolled key of the service orders."""
    made = SigningKey.generate()
    with unit.mint.db.write() as c:
        add_key(c, "service:orders", made.public)
    return made


def send(harness: Harness, key: SigningKey, batch: Batch, **changes: Any) -> httpx2.Response:
    """Post a batch as a service does."""
    body = changes.pop("body", batch.encode())
    signed = changes.pop("signed", batch)
    statement = sign_batch(key, signed, signed.encode(), realm="acme", issuer=ISSUER, now=now_ms())
    proof = make_dpop(changes.pop("prover", key), method="POST", url=ISSUER + PATH, now=now_ms())
    headers = {"Content-Type": MEDIA_TYPE, "DPoP": proof, HEADER: statement} | changes
    return harness.client.post(PATH, content=body, headers=headers)


def entries(harness: Harness) -> list[bytes]:
    """The log's records as its files have them, all of them verified."""
    harness.mint.log.step()
    assert harness.mint.log.failing is None or "store" in harness.mint.log.failing
    folder = harness.realm.log_dir
    checked = verify(folder, Trust(read_log_key(harness.realm.log_key_path)))
    reader = TileReader(fetch_from(folder), checked.checkpoint.size)
    return [reader.record(index) or b"" for index in range(checked.checkpoint.size)]


def decisions_in(harness: Harness) -> list[Decision]:
    return [unpack_record(kept, None) for kept in entries(harness) if not is_event(kept)]


@pytest.mark.spec("LOG 2.1")
def test_what_a_service_sends_is_in_the_signed_log(unit: Harness, key: SigningKey) -> None:
    """Its records stand there once, in order, however often they were sent, and the mark says how far it is."""
    made = [decision(n, facts()) for n in range(1, 6)]
    for _ in range(2):
        answer = send(unit, key, batch_of(made))
        assert (answer.status_code, answer.json()) == (200, {"verifier": "orders-1", "boot": BOOT, "high_water": 5})
    assert [each.sequence for each in decisions_in(unit)] == [1, 2, 3, 4, 5]


@pytest.mark.spec("LOG 1.8")
def test_many_records_are_signed_before_the_clock_says(
    tmp_path: Path, database: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy sender does not wait for the signature; the log signs committed records while they are in memory."""
    monkeypatch.setattr(log, "SIGN_S", 3600.0)
    monkeypatch.setattr(log, "SIGN_RECORDS", 20)
    with open_unit(tmp_path / "realm", database=database, log=True) as unit:
        for at in range(1, 41, 10):
            unit.mint.log.take(batch_of([decision(n, facts()) for n in range(10)], at), "statement")
        until(lambda: (head := unit.mint.log.publisher.published()) is not None and head.size >= 40)


@pytest.mark.spec("LOG 2.2")
def test_only_the_service_itself_writes_its_records(unit: Harness, key: SigningKey) -> None:
    """A stranger's key, another service's name, another body, proof or realm: refused, and nothing is in the log."""
    made = batch_of([decision(1, facts())])
    other = SigningKey.generate()
    for answer in (
        send(unit, other, made),
        send(unit, key, made._replace(audience="payments")),
        send(unit, key, made, signed=made._replace(first=2)),
        send(unit, key, made, body=batch_of([decision(2, facts())]).encode()),
        send(unit, key, made, **{HEADER: ""}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "bad_batch")
    assert send(unit, key, made, prover=other).json()["code"] == "bad_proof"
    assert send(unit, key, made, **{"Content-Type": "application/json"}).status_code == 415
    assert send(unit, key, made, body=b"\x00" * 100).status_code in (400, 403)
    assert decisions_in(unit) == []
    sink = unit.mint.decisions
    assert isinstance(sink, InMemoryDecisions)
    sink.close()
    # A refusal of a proven caller is recorded; refusals of strangers are counted.
    refused = [(each.agent, each.tool, each.code) for each in sink.decisions if each.agent]
    assert {each[:2] for each in refused} == {("service:orders", "arx.decisions.write")}
    assert [each[2] for each in refused].count("bad_batch") == 2
    assert {each.code for decision in sink.decisions for each in decision.counts} == {"bad_batch", "bad_proof"}


@pytest.mark.spec("LOG 2.2")
def test_a_proof_goes_with_one_attempt(unit: Harness, key: SigningKey) -> None:
    """A batch may come again, its proof may not."""
    made = batch_of([decision(1, facts())])
    proof = make_dpop(key, method="POST", url=ISSUER + PATH, now=now_ms())
    assert send(unit, key, made, DPoP=proof).json()["high_water"] == 1
    assert send(unit, key, made, DPoP=proof).json()["code"] == "replayed"
    assert send(unit, key, made).json()["high_water"] == 1


@pytest.mark.spec("CONTROL 4.5")
def test_a_batch_may_be_larger_than_other_bodies(unit: Harness, key: SigningKey) -> None:
    """Up to the batch's own limit; what is longer is refused before it is taken in."""
    made = batch_of([decision(n, facts(meta=(("k", "x" * 2000),))) for n in range(1, 501)])
    assert len(made.encode()) > 1_000_000
    assert send(unit, key, made).json()["high_water"] == 500
    assert send(unit, key, made, body=b"\0" * (MAX_BYTES + 1)).json()["code"] == "too_large"


def test_a_log_that_cannot_store_reports_it(unit: Harness, key: SigningKey) -> None:
    """The sender gets a 503 and keeps its records; later it gets on where it was."""
    made = batch_of([decision(1, facts())])
    with unit.mint.log.store.writing() as log:
        log.connection.exec_driver_sql("ALTER TABLE log_record RENAME TO elsewhere")
    answer = send(unit, key, made)
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    with unit.mint.log.store.writing() as log:
        log.connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO log_record")
    assert send(unit, key, made).json()["high_water"] == 1
    assert len(decisions_in(unit)) == 1


@pytest.mark.spec("LOG 1.7")
def test_what_the_mint_does_is_in_the_same_log(unit: Harness) -> None:
    """Its events stand there in their order, once, and are found by session, agent and subject."""
    holder, session = unit.session()
    task = holder.call("POST", "/v1/tasks", LOOKUP).json()["task"]
    entries(unit)
    events = [read_event(kept, None) for kept in entries(unit) if is_event(kept)]
    recorded = unit.mint.db.outbox.after(0)
    assert [(each.number, each.kind) for each in events] == [(each.id, each.kind) for each in recorded]
    store = unit.mint.log.store
    assert [node.agent for node in store.node("session", session["id"])] == [AGENT]
    assert [node.session for node in store.node("task", task["id"])] == [session["id"]]
    assert store.high_water("mint", unit.mint.db.outbox.run()) == recorded[-1].id


@pytest.mark.spec("LOG 1.7")
def test_an_event_says_nothing_of_a_person_in_what_stays(unit: Harness) -> None:
    """The texts of callers and the subject are in the body, which can be erased."""
    holder, _ = unit.open_session(unit.enrol(owner="ada@example.com"), purpose="look after Ada")
    asked = {"template": "lookup", "params": {"order_id": "order-of-ada"}}
    assert holder.call("POST", "/v1/tasks", asked).status_code == 201
    for kept in entries(unit):  # long texts: random bytes and names spell a short one now and then
        assert b"ada@example" not in kept
        assert b"look after" not in kept
        assert b"order-of" not in kept
    with unit.mint.log.store.reading() as c:
        rows = c.execute(select(RECORD.c.kept, RECORD.c.body)).all()
    values = {event.kind: event.facts for event in (read_event(row.kept, row.body) for row in rows)}
    assert values["session.opened"]["purpose"] == "look after Ada"
    assert values["task.started"]["params"] == asked["params"]


@pytest.mark.spec("LOG 1.7")
def test_a_database_that_was_put_back_loses_no_event(tmp_path: Path) -> None:
    """An older mint.db repeats numbers; the log records that, has each event that comes, and none twice."""
    with open_unit(tmp_path / "realm", log=True) as first:
        first.enrol("acme/a")
        with sqlite3.connect(first.realm.database_path) as kept, sqlite3.connect(tmp_path / "backup") as backup:
            kept.backup(backup)
        backup.close()
        kept.close()
        first.enrol("acme/b")
        entries(first)
    (tmp_path / "backup").replace(first.realm.database_path)
    mint = local_mint(first.realm)
    second = Harness(mint)
    mint.log.start()
    second.enrol("acme/c")
    values = [read_event(kept, None) for kept in entries(second) if is_event(kept)]
    enrolled = [each.named["agent"] for each in values if each.kind == "agent.enrolled"]
    assert enrolled == ["acme/a", "acme/b", "acme/c"]
    assert [each.kind for each in values].count("mint.database_restored") == 1
    mint.close()


@pytest.mark.spec("LOG 1.8")
def test_the_files_are_served_to_who_may_read_them(unit: Harness, key: SigningKey) -> None:
    """Over HTTP an operator gets a log that verifies as the folder does; what is no file of a log is not found."""
    send(unit, key, batch_of([decision(n, facts()) for n in range(1, 301)]))
    unit.mint.log.step()
    operator = unit.operator()

    def fetch(path: str) -> bytes | None:
        answer = operator.call("GET", f"/v1/audit/log/{path}")
        return answer.content if answer.status_code == 200 else None

    head = open_checkpoint(fetch("checkpoint") or b"", read_log_key(unit.realm.log_key_path)).checkpoint
    reader = TileReader(fetch, head.size)
    assert reader.root() == head.root
    last = unit.mint.log.store.find(BOOT, 300)[0]
    assert unpack_record(reader.record(last) or b"", None).sequence == 300
    for path in ("tile/0/x", "tile/0/../../../mint.db", "tile/0/999", "tile/entries/000.p/300"):
        assert fetch(path) is None


@pytest.mark.spec("LOG 1.8")
@pytest.mark.parametrize("form", ["{boot}-{sequence}", "{verifier}/{boot}/{sequence}", "{index}"])
def test_a_record_can_be_proven_to_any_reader(unit: Harness, key: SigningKey, tmp_path: Path, form: str) -> None:
    """By its id or index one gets a file that verifies offline, also for a record that came a moment ago."""
    made = [decision(n, facts()) for n in range(1, 4)]
    send(unit, key, batch_of(made))
    index = unit.mint.log.store.find(BOOT, 2)[0]
    name = form.format(boot=BOOT, sequence=2, verifier="orders-1", index=index)
    answer = unit.operator().call("GET", f"/v1/audit/proofs/{name}")
    file = tmp_path / "proof"
    file.write_bytes(answer.content)
    checked = verify(file, Trust(read_log_key(unit.realm.log_key_path)))
    assert checked.proof is not None
    shown = unpack_record(checked.proof.kept, checked.proof.body)
    assert (shown.sequence, shown.peer) == (2, "10.0.0.1")
    for unknown in ("99999", f"{BOOT}-9", "x/y/z", "-", "1" * 30, "orders-2/" + BOOT + "/2"):
        assert unit.operator().call("GET", f"/v1/audit/proofs/{unknown}").json()["code"] == "not_found"


@pytest.mark.spec("LOG 2.5")
def test_a_sender_that_asks_learns_the_size_of_the_log(unit: Harness, key: SigningKey) -> None:
    """With the size that it saw last it gets the checkpoint and the proof between the two; else nothing of it."""
    made, own = batch_of([decision(n, facts()) for n in range(1, 10)]), read_log_key(unit.realm.log_key_path)
    assert "log" not in send(unit, key, made).json()
    unit.mint.log.step()
    answer = send(unit, key, made, **{SEEN_HEADER: "0"}).json()["log"]
    assert open_checkpoint(answer["checkpoint"].encode(), own).checkpoint.size >= 9
    assert answer["key"] == str(own)
    assert len(send(unit, key, made, **{SEEN_HEADER: "3"}).json()["log"]["consistency"]) > 1
    assert "log" not in send(unit, key, made, **{SEEN_HEADER: "-1"}).json()
