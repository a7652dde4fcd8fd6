# SPDX-License-Identifier: Apache-2.0
"""Budgets in the console: what is left of each pool of a session, on a real ledger."""

import re
from collections.abc import Iterator
from contextlib import closing

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.ledger import RedisLedger
from arx_verifier.token import KeyRing
from arx_verifier.verification import Verifier
from tests.console.harness import Browser, operator_with, sign_in
from tests.console.html import require_well_formed
from tests.mint.harness import Harness
from tests.mint.test_session_tree import Work

pytestmark = [pytest.mark.realm(log=True), pytest.mark.servers, pytest.mark.sqlite, pytest.mark.spec("CONTROL 2.11")]


@pytest.fixture
def kept(unit: Harness, own_valkey: EmbeddedValkey) -> Iterator[Harness]:
    """A realm with a ledger, whose lookups have a budget."""
    text = unit.realm.policy_path.read_text()
    unit.use(text.replace("[task.lookup]\n", '[task.lookup]\nbudget = { usd = "4", calls = 100 }\ndepth = 2\n'))
    with closing(RedisLedger(own_valkey.url, unit.realm.name, timeout_s=30)) as ledger:
        ledger.start()
        unit.mint.ledger = ledger
        yield unit


class Spender(Work):
    """A session with a task whose calls cost what the argument says."""

    def __init__(self, unit: Harness) -> None:
        super().__init__(unit)
        assert unit.mint.ledger is not None
        kid, key = unit.mint.key_schedule.audience_key("orders")
        keys = KeyRing({kid: key}, realm=unit.realm.name)
        costs = {"orders.get": {"usd": "1.5"}}
        self.verifier = Verifier(
            audience="orders",
            keys=keys,
            epochs=unit.epochs,
            decisions=self.sink,
            ledger=unit.mint.ledger,
            costs=costs,
        )
        self.home = f"/console/sessions/{self.session['id']}"

    def codes(self) -> list[str]:
        """What became of its calls."""
        return [decision.code for decision in self.sink.decisions]


def page(browser: Browser, path: str, status: int = 200) -> str:
    """Open a page, and check its form."""
    text = browser.get(path)
    assert browser.status == status, text
    require_well_formed(text)
    return text


def budgets_of(text: str) -> list[list[str]]:
    """The cells of each row of the table of budgets, without markup."""
    found = re.search(r'<table class="table budgets">(.*?)</table>', text, re.S)
    rows = re.findall(r"<tr>(.*?)</tr>", found[1], re.S)[1:] if found else []
    return [
        [" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in re.findall("<td.*?</td>", row, re.S)]
        for row in rows
    ]


def test_a_session_shows_what_is_left(kept: Harness) -> None:
    """Before the first call, after some, of a delegation, and once nothing is left; the emptiest pool is first."""
    work = Spender(kept)
    browser = sign_in(kept)
    rows = budgets_of(page(browser, work.home))
    assert [(row[0], row[2], row[3]) for row in rows] == [
        ("calls lookup, per task", "not drawn on", "100 100 %"),
        ("usd lookup, per task", "not drawn on", "4 100 %"),
    ]
    worker = work.task.delegate("acme/support/worker", budget={"usd": "2.5"})
    work.call(worker)
    work.call(worker)
    work.call(work.task)
    assert work.codes() == ["ok", "insufficient_budget", "ok"]
    work.ship()
    text = page(browser, work.home)
    assert [row[:8] for row in budgets_of(text)] == [
        ["usd lookup, per task", "task lookup", "open", "1 25 %", "3", "0", "0", "4"],
        ["usd worker, per task", "acme/support/worker", "open", "1 40 %", "1.5", "0", "0", "2.5"],
        ["calls lookup, per task", "task lookup", "open", "98 98 %", "2", "0", "0", "100"],
    ]
    assert '<rect class="used" width="75.0"' in text
    link = re.search(r"node=([\w-]{22})#holder", text)
    assert link
    holder = page(browser, f"{work.home}?node={link[1]}").partition('id="holder"')[2]
    assert "1 of 2.5 usd left per task" in holder.partition("</dl>")[0]


def test_a_pool_without_rest_is_marked(kept: Harness) -> None:
    """By a word and a tone: exhausted, almost empty, and one that the ledger may have lost."""
    text = kept.realm.policy_path.read_text()
    kept.use(text.replace('usd = "4", calls = 100', 'usd = "1.5", calls = "1.05"'))
    work = Spender(kept)
    work.call(work.task)
    browser = sign_in(kept)
    shown = page(browser, work.home)
    assert [row[2:4] for row in budgets_of(shown)] == [["exhausted", "0 0 %"], ["low", "0.05 5 %"]]
    assert '<span class="badge bad">exhausted</span>' in shown
    ledger = kept.mint.ledger
    assert ledger is not None
    ledger._redis.hset(ledger._keys[0], "run", "another server")
    assert [row[2] for row in budgets_of(page(browser, work.home))] == ["lost", "lost"]


def test_a_session_is_shown_without_the_ledger(kept: Harness) -> None:
    """If it does not answer, the page says so and has all else; a realm without one says that."""
    kept.use(re.sub("\nbudget = .*", "", kept.realm.policy_path.read_text()))
    work, browser = Spender(kept), sign_in(kept)
    assert "No task of this session has a budget" in page(browser, work.home)
    kept.mint.ledger = RedisLedger(f"unix://{kept.realm.folder}/absent.sock", kept.realm.name)
    text = page(browser, work.home)
    assert "The ledger does not answer" in text
    assert work.row["id"] in text
    kept.mint.ledger = None
    assert "has no ledger" in page(browser, work.home)


def test_a_stream_shows_what_is_left(kept: Harness) -> None:
    """A call changes the open page."""
    work = Spender(kept)
    work.call(work.task)
    work.ship()
    browser, seen, event = sign_in(kept), list[str](), list[str]()
    with browser.client.stream("GET", f"{work.home}/live") as answer:
        for line in answer.iter_lines():
            event.append(line.removeprefix("data: "))
            if line:
                continue
            text, event = "\n".join(event), []
            seen += [row[3] for row in budgets_of(text) if row[0].startswith("usd")]
            if seen == ["2.5 62 %"]:
                work.call(work.task)
                seen.append("called")
            elif "1 25 %" in seen:
                browser.stop_streams()
    assert seen[:3] == ["2.5 62 %", "called", "1 25 %"]


def test_who_may_not_read_tasks_sees_no_budget(kept: Harness) -> None:
    """A role without tasks has a session's page, without budgets."""
    work = Spender(kept)
    name = operator_with(kept, "reader", "read-only")
    assert "Budgets</h2>" in page(sign_in(kept, name), work.home)
    answer = kept.operator().call(
        "PATCH", "/v1/operators/reader", {"rules": [{"tool": "arx.sessions.read"}, {"tool": "arx.console.open"}]}
    )
    assert answer.status_code == 200, answer.text
    assert "Budgets</h2>" not in page(sign_in(kept, name), work.home)
