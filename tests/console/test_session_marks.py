# SPDX-License-Identifier: Apache-2.0
"""Marks on the page of a session, beside the decisions that set them, and the form that lifts one."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from arx_caps.audit.query.ocsf import to_ocsf
from arx_caps.embedded import EmbeddedValkey
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.metrics.counted_decisions import CountedDecisions
from arx_verifier.token.keyring import KeyRing
from arx_verifier.verification.verifier import Verifier
from tests.console.harness import operator_with, sign_in
from tests.console.test_budgets import decided, form_of, page
from tests.ledgers import new_ledger
from tests.mint.harness import Harness
from tests.mint.test_session_tree import Work

pytestmark = [pytest.mark.realm(log=True), pytest.mark.servers, pytest.mark.sqlite, pytest.mark.spec("CONTROL 2.12")]

ROWS = """[task.lookup]
marks = [{ tools = ["orders.get"], set = "private" }]
after = [{ mark = "private", tools = ["orders.list"] }]
"""


@pytest.fixture
def kept(unit: Harness, own_valkey: EmbeddedValkey) -> Iterator[Harness]:
    """A realm with a ledger, whose lookups set a mark."""
    text = unit.realm.policy_path.read_text().replace("[task.lookup]\n", ROWS)
    unit.use(text.replace('{ tool = "orders.get"', '{ tool = "orders.list", any = true },\n  { tool = "orders.get"', 1))
    with closing(new_ledger(own_valkey.url, unit.realm.name)) as ledger:
        ledger.start()
        unit.mint.ledger = ledger
        yield unit


class Reader(Work):
    """A session whose calls of orders.get set a mark."""

    def __init__(self, unit: Harness) -> None:
        super().__init__(unit)
        kid, key = unit.mint.key_schedule.audience_key("orders")
        keys = KeyRing({kid: key}, realm=unit.realm.name)
        self.counted = CountedDecisions(self.sink)
        self.verifier = Verifier(
            audience="orders", keys=keys, epochs=unit.epochs, decisions=self.counted, ledger=unit.mint.ledger
        )
        self.home = f"/console/sessions/{self.session['id']}"

    def codes(self) -> list[str]:
        """What became of its calls."""
        return [decision.code for decision in self.sink.decisions]


def test_a_session_shows_its_marks_and_an_administrator_lifts_one(kept: Harness) -> None:
    """The mark leads to the call that set it, and a run of calls shows it once; then the agent goes on."""
    work, browser = Reader(kept), sign_in(kept)
    assert "No mark is set in this session" in page(browser, work.home)
    for tool in ("orders.get", *["orders.get"] * 5, "orders.list"):
        work.call(work.task, tool=tool)
    assert work.codes() == ["ok"] * 6 + ["after_mark"]
    work.ship()
    text = page(browser, work.home)
    for shown in ("<strong>private</strong>", "orders.get x6", "sets</span> private", "Lift a mark", "after_mark"):
        assert shown in text, shown
    found = kept.operator().call("GET", f"/v1/sessions/{work.session['id']}/marks").json()["marks"]
    assert f'<a href="/console/decisions/{found[0]["record"]}">' in text
    text = browser.post(f"{work.home}/marks", **form_of(text), mark="private", reason="a <b>test</b>")
    assert "No mark is set in this session" in text
    work.call(work.task, tool="orders.list")
    assert work.codes()[-1] == "ok"
    [event] = [event for event in kept.events() if event["kind"] == "mark.lifted"]
    assert (event["by"], event["mark"], event["reason"]) == ("operator:root", "private", "a <b>test</b>")
    assert ("arx.marks.write", "ok") in decided(kept)


def test_who_sees_the_form(kept: Harness) -> None:
    """No reader; and what a reader, another site or an empty reason sends lifts nothing."""
    work = Reader(kept)
    work.call(work.task)
    reader = sign_in(kept, operator_with(kept, "reader", "read-only"))
    text = page(reader, work.home)
    assert "<strong>private</strong>" in text
    assert "Lift a mark" not in text
    assert "tool_not_allowed" in reader.post(f"{work.home}/marks", mark="private", reason="x")
    browser = sign_in(kept)
    form = form_of(page(browser, work.home)) | {"mark": "private"}
    browser.post(f"{work.home}/marks", **form, reason="")
    assert browser.status == 400
    browser.get(work.home)
    browser.post(f"{work.home}/marks", headers={"Origin": "https://evil.example"}, **form, reason="x")
    assert browser.status == 403
    assert [event for event in kept.events() if event["kind"] == "mark.lifted"] == []


def test_a_session_without_its_ledger(kept: Harness) -> None:
    """The page is whole, and says what is not known; without a ledger it has no marks."""
    work, browser = Reader(kept), sign_in(kept)
    with closing(RedisLedger("redis://127.0.0.1:1", kept.realm.name)) as silent:
        kept.mint.ledger = silent
        assert "services refuse every call that a rule about marks names" in page(browser, work.home)
    kept.mint.ledger = None
    assert 'id="marks"' not in page(browser, work.home)


def test_a_refusal_by_a_mark_can_be_counted_and_exported(kept: Harness) -> None:
    """Metrics count it by its code; the log and its export as OCSF have the mark and the call that set it."""
    work = Reader(kept)
    work.call(work.task)
    work.call(work.task, tool="orders.list")
    work.ship()
    assert work.counted.counts == {("allow", "ok"): 1, ("deny", "after_mark"): 1}
    records = kept.operator().call("GET", "/v1/audit/records").json()["records"]
    [record] = [each for each in records if each.get("code") == "after_mark"]
    exported = to_ocsf(record, origin="acme", version="0")
    assert (exported["status"], exported["status_code"]) == ("Failure", "after_mark")
    assert "the session must not have private, got private by orders.get at orders, 20" in exported["status_detail"]
