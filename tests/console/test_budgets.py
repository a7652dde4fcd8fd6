# SPDX-License-Identifier: Apache-2.0
"""Budgets in the console: what is left of each pool, and the form that tops one up, on a real ledger."""

import re
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.text.record_text import shorten_middle
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.token.keyring import KeyRing
from arx_verifier.verification.verifier import Verifier
from tests.console.harness import Browser, operator_with, sign_in
from tests.console.html import require_well_formed
from tests.ledgers import new_ledger, only_bucket
from tests.mint.harness import AGENT, Harness
from tests.mint.test_session_tree import Work

HOME = "/console/budgets"
pytestmark = [pytest.mark.realm(log=True), pytest.mark.servers, pytest.mark.sqlite, pytest.mark.spec("CONTROL 2.11")]


@pytest.fixture
def kept(unit: Harness, own_valkey: EmbeddedValkey) -> Iterator[Harness]:
    """A realm with a ledger, whose lookups have a budget."""
    text = unit.realm.policy_path.read_text()
    unit.use(text.replace("[task.lookup]\n", '[task.lookup]\nbudget = { usd = "4", calls = 100 }\ndepth = 2\n'))
    with closing(new_ledger(own_valkey.url, unit.realm.name)) as ledger:
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

    def pools(self) -> dict[str, str]:
        """Its pools by unit."""
        return {unit: f"{self.row['id']}/-/lookup/{unit}/task" for unit in ("usd", "calls")}

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
    text = re.sub('<span class="hidden">.*?</span>', "", text)
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
        ("lookup calls per task", "not drawn on", "100 100 %"),
        ("lookup usd per task", "not drawn on", "4 100 %"),
    ]
    worker = work.task.delegate("acme/support/worker", budget={"usd": "2.5"})
    work.call(worker)
    work.call(worker)
    work.call(work.task)
    assert work.codes() == ["ok", "insufficient_budget", "ok"]
    work.ship()
    text = page(browser, work.home)
    assert [row[:8] for row in budgets_of(text)] == [
        ["lookup usd per task", "task lookup", "open", "1 25 %", "3", "0", "0", "4"],
        ["worker usd per task", "acme/support/worker", "open", "1 40 %", "1.5", "0", "0", "2.5"],
        ["lookup calls per task", "task lookup", "open", "98 98 %", "2", "0", "0", "100"],
    ]
    assert '<rect class="used" width="75.0"' in text
    link = re.search(r"node=([\w-]{22})#holder", text)
    assert link
    holder = page(browser, f"{work.home}?node={link[1]}").partition('id="holder"')[2]
    assert "1 of 2.5 usd left per task" in holder.partition("</dl>")[0]
    assert "1 of 2.5 usd left</span>" in page(browser, f"{work.home}?list=1")


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
    ledger._client.redis.hset(only_bucket(ledger).keys[0], "run", "another server")
    assert [row[2] for row in budgets_of(page(browser, work.home))] == ["lost", "lost"]


def test_a_session_is_shown_without_the_ledger(kept: Harness) -> None:
    """If it does not answer, the page reports that and has all else; so does the page of a realm without one."""
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
    browser, seen, event, until = sign_in(kept), list[str](), list[str](), time.monotonic() + 60
    with browser.client.stream("GET", f"{work.home}/live") as answer:
        for line in answer.iter_lines():
            event.append(line.removeprefix("data: "))
            if line:
                continue
            text, event = "\n".join(event), []
            seen += [row[3] for row in budgets_of(text) if row[0] == "lookup usd per task"]
            if seen == ["2.5 62 %"]:
                work.call(work.task)
                seen.append("called")
            elif "1 25 %" in seen or time.monotonic() > until:
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


def test_the_list_begins_with_the_emptiest(kept: Harness) -> None:
    """Pools of open tasks that calls have drawn on, by filters and in pages; the command line prints the same."""
    work = Spender(kept)
    browser = sign_in(kept)
    assert "No call has drawn on a budget" in page(browser, HOME)
    work.call(work.task)
    work.call(work.task)
    text = page(browser, HOME)
    assert [row[:4] for row in budgets_of(text)] == [
        ["lookup usd per task", f"{AGENT} {shorten_middle(work.session['id'], 14)}", "open", "1 25 %"],
        ["lookup calls per task", f"{AGENT} {shorten_middle(work.session['id'], 14)}", "open", "98 98 %"],
    ]
    assert f'href="{work.home}#budgets"' in text
    assert "2 pools of open tasks" in text
    for query, count in (
        ("unit=usd", 1),
        ("agent=acme/**", 2),
        (f"agent={AGENT}", 2),
        ("agent=acme/support", 0),
        (f"session={work.session['id']}&unit=calls", 1),
        ("session=s-aaaaaaaaaaaaaaaa", 0),
    ):
        text = page(browser, f"{HOME}?{query}")
        assert len(budgets_of(text)) == count, query
        assert count or "No pool matches" in text
    assert "arx budget list --agent &#39;acme/**&#39; --unit usd" in browser.get(f"{HOME}?agent=acme/**&unit=usd")
    assert page(browser, f"{HOME}?agent=nonsense%20", 200)
    page(browser, f"{HOME}?agent=%2F%2F", 400)
    kept.epochs.kill(f"task:{work.row['id']}")
    assert "No call has drawn on a budget" in page(browser, HOME)
    assert len(budgets_of(page(browser, f"{HOME}?session={work.session['id']}"))) == 2


def test_a_list_has_pages(kept: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pool is on one of them."""
    work = Spender(kept)
    work.call(work.task)
    monkeypatch.setattr("arx_caps.console.pages.budgets.SHOWN", 1)
    browser = sign_in(kept)
    text = page(browser, HOME)
    following = re.search(r'href="([^"]+)">Next<', text)
    assert following
    second = page(browser, following[1].replace("&amp;", "&"))
    assert [row[3] for each in (text, second) for row in budgets_of(each)] == ["2.5 62 %", "99 99 %"]
    assert ">Next<" not in second


def test_an_administrator_tops_up(kept: Harness) -> None:
    """The agent goes on; amount, unit and reason are in the event, and the form is a decision of the mint."""
    work = Spender(kept)
    for _ in range(3):
        work.call(work.task)
    pool = work.pools()["usd"]
    browser = sign_in(kept)
    text = page(browser, f"{HOME}/{pool}")
    assert "1<small> usd left of 4" in text
    assert f"arx budget top-up {pool} AMOUNT usd --reason …" in text
    text = browser.post(f"{HOME}/{pool}", **form_of(text), amount="0.5", reason="a <b>larger</b> order")
    assert "1.5<small> usd left of 4" in text
    assert "+ 0.5" in text
    work.call(work.task)
    assert work.codes() == ["ok", "ok", "insufficient_budget", "ok"]
    (event,) = [event for event in kept.events() if event["kind"] == "budget.topped_up"]
    assert (event["by"], event["pool"], event["amount"], event["unit"], event["reason"]) == (
        "operator:root",
        pool,
        "0.5",
        "usd",
        "a <b>larger</b> order",
    )
    assert ("arx.budgets.write", "ok") in decided(kept)


def test_a_form_sent_twice_adds_once(kept: Harness) -> None:
    """Two clicks are one top-up; a new form is another."""
    work = Spender(kept)
    work.call(work.task)
    pool, browser = work.pools()["usd"], sign_in(kept)
    form = form_of(page(browser, f"{HOME}/{pool}"))
    for _ in range(2):
        browser.post(f"{HOME}/{pool}", **form, amount="1", reason="twice")
    assert "3.5<small> usd left" in browser.get(f"{HOME}/{pool}")
    browser.post(f"{HOME}/{pool}", **form_of(browser.get(f"{HOME}/{pool}")), amount="1", reason="twice")
    assert "4.5<small> usd left" in browser.get(f"{HOME}/{pool}")


def test_a_wrong_form_adds_nothing(kept: Harness) -> None:
    """An amount that is none, no reason, another unit, another site's form, a pool that was not drawn on."""
    work = Spender(kept)
    work.call(work.task)
    pool, browser = work.pools()["usd"], sign_in(kept)
    for amount, reason, unit in (
        ("1e3", "x", "usd"),
        ("-1", "x", "usd"),
        ("0", "x", "usd"),
        ("1", "", "usd"),
        ("1", "x", "eur"),
    ):
        text = page(browser, f"{HOME}/{pool}")
        text = browser.post(f"{HOME}/{pool}", **form_of(text) | {"unit": unit}, amount=amount, reason=reason)
        assert (browser.status, 'role="alert"' in text) == (400, True), (amount, reason, unit)
        require_well_formed(text)
        assert f'value="{amount}"' in text  # as it was typed
    form = form_of(page(browser, f"{HOME}/{pool}")) | {"amount": "1", "reason": "x"}
    browser.post(f"{HOME}/{pool}", headers={"Origin": "https://evil.example"}, **form)
    assert browser.status == 403
    browser.get(f"{HOME}/{pool}")
    browser.post(f"{HOME}/{pool}", **form | {"token": "forged"})
    assert browser.status == 403
    absent = f"{work.row['id']}/-/other/usd/task"
    assert "not_found" in page(browser, f"{HOME}/{absent}", 404)
    browser.get(f"{HOME}/{pool}")
    browser.post(f"{HOME}/{absent}", **form)
    assert browser.status == 404
    page(browser, f"{HOME}/nonsense", 400)
    assert [event for event in kept.events() if event["kind"] == "budget.topped_up"] == []


def test_a_top_up_needs_an_administrator_who_signed_in_just_now(kept: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader sees no form, and one that is sent is refused and recorded; an old sign-in goes on after a new one."""
    work = Spender(kept)
    work.call(work.task)
    pool = f"{HOME}/{work.pools()['usd']}"
    reader = sign_in(kept, operator_with(kept, "reader", "read-only"))
    text = page(reader, pool)
    assert "Your role may not add to a pool" in text
    assert 'name="amount"' not in text
    assert "tool_not_allowed" in reader.post(pool, amount="1", unit="usd", reason="x", form="1")
    assert reader.status == 403
    assert ("arx.budgets.write", "tool_not_allowed") in decided(kept)
    browser = sign_in(kept)
    form = form_of(page(browser, pool))
    monkeypatch.setattr("arx_caps.mint.identity.console_session.ConsoleSession.fresh", False)
    text = browser.post(pool, **form, amount="1", reason="x")
    assert "needs a recent sign-in" in text
    assert [event for event in kept.events() if event["kind"] == "budget.topped_up"] == []


def test_budgets_without_a_ledger(kept: Harness) -> None:
    """The list names what is missing; a top-up whose outcome is unknown reports that, and what to do."""
    work = Spender(kept)
    work.call(work.task)
    pool, browser = f"{HOME}/{work.pools()['usd']}", sign_in(kept)
    form = form_of(page(browser, pool))
    kept.mint.ledger = RedisLedger(f"unix://{kept.realm.folder}/absent.sock", kept.realm.name)
    assert "The ledger does not answer" in page(browser, HOME)
    page(browser, pool, 503)
    browser.get(HOME)
    text = browser.post(pool, token=form["token"], form=form["form"], unit="usd", amount="1", reason="x")
    assert (browser.status, "Whether the amount was added is unknown" in text) == (503, True)
    require_well_formed(text)
    kept.mint.ledger = None
    assert "This realm has no ledger" in page(browser, HOME)
    page(browser, pool, 404)


def form_of(text: str) -> dict[str, str]:
    """The hidden fields of the form that tops up."""
    return dict(re.findall(r'type="hidden" name="(token|form|unit)" value="([^"]+)"', text))


def decided(kept: Harness) -> list[tuple[str, str]]:
    """What the mint decided of calls of operators."""
    sink = kept.mint.decisions
    assert isinstance(sink, InMemoryDecisions)
    return [(decision.tool, decision.code) for decision in sink.decisions]
