# SPDX-License-Identifier: Apache-2.0
"""An erased person stayed in records of kills and taints, and in notifications, forms and consents."""

import msgspec
import pytest
from sqlalchemy import select, update

from arx_caps.audit.store.tables import RECORD
from arx_caps.mint.db.tables import CONSOLE_SESSIONS, METADATA, NOTIFICATIONS, OPERATORS
from arx_caps.revocation.store import RevocationStore
from arx_verifier.token.targets import subject_target
from tests.console.harness import operator_with
from tests.mint.harness import Harness
from tests.mint.login import Flow, Issuer
from tests.servers import until

IDP, PERSON, REASON = "https://idp.example", "ann-of-accounting", "Ann has left us"
ANN = subject_target(IDP, PERSON)
MARKS = (PERSON, REASON, ANN.partition(":")[2])

pytestmark = pytest.mark.spec("LOG 1.9")


def tables_that_name(harness: Harness, marks: tuple[str, ...] = MARKS) -> set[str]:
    """Return the tables of the mint's database and of the log that have one of these texts anywhere."""
    with harness.mint.db.read() as c:
        rows = {table.name: [str(tuple(row)) for row in c.execute(select(table))] for table in METADATA.sorted_tables}
    with harness.mint.log.store.reading() as c:
        rows["log_record"] = [str(tuple(row)) for row in c.execute(select(RECORD))]
    return {name for name, texts in rows.items() if any(mark in text for text in texts for mark in marks)}


def mention(harness: Harness) -> None:
    """Kill, freeze and thaw the person, and name them wherever an operator can."""
    operator = harness.operator()
    add = {"url": "http://127.0.0.1:9/alerts"}  # no receiver listens there
    assert operator.call("POST", "/v1/webhooks", add).status_code == 201
    for path, targets in (
        ("kills", [ANN]),
        ("freezes", [ANN, "agent:acme/x"]),
        ("freezes", [f"memory:{ANN}@AAAAAAAA.AAAAAAAB"]),
        ("freezes/thaw", [ANN, "agent:acme/x", f"memory:{ANN}@AAAAAAAA.AAAAAAAB"]),
    ):
        body = {"targets": targets, "reason": REASON, "wait": False}
        assert operator.call("POST", f"/v1/{path}", body).status_code == 200
    assert operator.call("POST", "/v1/console/links").status_code == 200
    operator_with(harness, "former", "read-only")
    draft = msgspec.json.encode({"path": "/console/frozen", "fields": {"targets": ANN, "reason": REASON}}).decode()
    person = {"issuer": IDP, "subject": PERSON, "claims": "{}", "status": "removed"}
    with harness.mint.db.write() as c:
        c.execute(update(CONSOLE_SESSIONS).values(draft=draft))
        c.execute(update(OPERATORS).where(OPERATORS.c.id == "former").values(**person))


@pytest.mark.servers
@pytest.mark.realm(settings='webhook_hosts = ["127.0.0.1:9"]\n')
def test_what_names_a_person_without_a_session_is_erased(live: Harness) -> None:
    """Facts of kills, freezes and taints, and what else an operator wrote; that there was a kill stays."""
    mention(live)
    until(lambda: len(live.mint.db.kills.list()) >= 4)
    live.mint.log.step()
    in_force = "epoch_freezes"  # the kill tainted what the person wrote into memories
    named = {"console_sessions", "epoch_kills", "log_record", "notifications", "operators", "outbox"}
    assert tables_that_name(live) == named | {in_force}
    answer = live.operator().call("POST", "/v1/audit/erase", {"subject": ANN, "reason": "asked to"})
    assert answer.status_code == 200, answer.text
    live.mint.log.step()
    assert (tables_that_name(live), tables_that_name(live, (PERSON, REASON))) == ({in_force}, set())
    records = live.operator().call("GET", "/v1/audit/records", tool="targets.killed").json()["records"]
    assert len(records) == 1
    with live.mint.db.read() as c:
        waiting = [msgspec.json.decode(text) for text in c.execute(select(NOTIFICATIONS.c.facts)).scalars()]
    waiting = [facts for facts in waiting if "targets" in facts]
    assert {tuple(sorted(facts)) for facts in waiting} == {("by", "count", "seq", "targets")}
    assert {name for facts in waiting for name in facts["targets"]} == {"subject", "agent:acme/x", "memory"}


@pytest.mark.servers
def test_a_kill_that_no_mint_has_recorded_yet(live: Harness) -> None:
    """Another mint's, or one from before a database could write again: it is recorded first, and then erased."""
    operator, persons = live.operator(), [subject_target(IDP, f"person-{n}") for n in range(4)]
    with RevocationStore(live.mint.store_url, live.realm.name) as store:
        for person in persons:
            store.kill_by_kind([person], REASON, "operator:root", event="targets.killed")
            answer = operator.call("POST", "/v1/audit/erase", {"subject": person, "reason": "asked to"})
            assert answer.status_code == 200, answer.text
        last = store.header().seq
    until(lambda: live.mint.freezes.followed.seq >= last)
    live.mint.log.step()
    marks = tuple(person.partition(":")[2] for person in persons)
    assert (tables_that_name(live, marks), tables_that_name(live, (REASON,))) == ({"epoch_freezes"}, set())
    assert [event["kind"] for event in live.events()].count("targets.killed") == len(persons)


def test_a_consent_that_led_to_no_session_is_erased(flow: Flow, idp: Issuer) -> None:
    """Also one that is not over yet; the person of another consent keeps theirs."""
    flow.harness.mint.log.start()
    idp.person = {"sub": "bob"}
    code = flow.answer_of(flow.answer(flow.page(), order_id="o-1"))["code"]
    idp.person = {"sub": PERSON}
    flow.answer_of(flow.answer(flow.page(), order_id="o-1"))
    assert "oauth_consents" in tables_that_name(flow.harness)
    target = subject_target(idp.url, PERSON)
    answer = flow.harness.operator().call("POST", "/v1/audit/erase", {"subject": target, "reason": "asked to"})
    assert answer.status_code == 200, answer.text
    assert tables_that_name(flow.harness) == set()
    assert flow.redeem(code).status_code == 200
