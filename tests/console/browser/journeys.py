# SPDX-License-Identifier: Apache-2.0
"""What operators do in the console, in a browser, while agents are at work."""

import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, Final

from playwright.sync_api import Browser, Page, Route, expect

from arx_caps.agent import Task
from tests.console.browser.fixtures import Visitor
from tests.console.browser.realm import DemoRealm
from tests.console.browser.visit import SCROLLS, Visit
from tests.mint.events import events_of
from tests.realm_folder import ARX
from tests.servers import until

# How the focused control shows that, and its words or the name of its field.
FOCUSED: Final = """() => {
  const one = document.activeElement;
  const words = one.matches('textarea, input') ? one.name : one.innerText ?? one.textContent;
  return [getComputedStyle(one).outlineStyle, words];
}"""
# A browser without a window hides no page by itself.
SET_HIDDEN: Final = """hidden => {
  Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
  document.dispatchEvent(new Event('visibilitychange'));
}"""

# Sets `window.wasShown` once the notice of a page that is not live is shown.
NOTE_SHOWN: Final = """() => {
  const notice = document.querySelector('[data-stale]');
  new MutationObserver(() => { if (!notice.hidden) window.wasShown = true; }).observe(notice, {attributes: true});
}"""


def answer_late(route: Route) -> None:
    """Pass a request on half a second later."""
    time.sleep(0.5)
    route.continue_()


def test_now_follows_the_realm(visitor: Visitor) -> None:
    """The page changes by itself, also where a script comes late."""
    visit = visitor()
    visit.page.route("**/hx-sse.min.js", answer_late)
    page = visit.open("/console/now")
    expect(page.get_by_role("heading", name="Now")).to_be_visible()
    card = page.locator(".card", has=page.get_by_role("heading", name="Audit log")).locator(".figure")
    before = card.inner_text()
    expect(card).not_to_have_text(before)


def test_an_approval_lets_a_waiting_agent_go_on(visitor: Visitor, realm: DemoRealm) -> None:
    """A request appears by itself, with its arguments; once it is approved, the agent that waits makes its call."""
    page = visitor("ivan").open("/console/approvals")
    args = {"order_id": "o-7001", "amount": 777, "iban": "DE02120300000000202051"}
    with (
        realm.working("acme/billing/payouts", "payout", "one payment", order_id="o-7001") as (_, task),
        ThreadPoolExecutor() as threads,
    ):
        approval = task.ask_approval("payments.payout", args, why="the lamp came back")
        assert realm.call(task, "payments.payout", **args) == "missing_discharge"
        agent = threads.submit(lambda: realm.call(task, "payments.payout", approval.wait(60.0), **args))
        page.get_by_role("link", name=f"Decide {approval.id}").click()
        expect(page.get_by_role("main")).to_contain_text("DE02120300000000202051")
        page.get_by_label("Reason").fill("seen in the returns")
        page.get_by_role("button", name="Approve this call").click()
        expect(page.get_by_role("main")).to_contain_text("approved")
        assert agent.result(60.0) == "ok"
        assert realm.arx("approval", "show", approval.id)["approval"]["by"] == ["ivan"]


def test_a_link_signs_in_once(visitor: Visitor, realm: DemoRealm, browser: Browser) -> None:
    """The second browser with the same link gets a hint what to do, and sees no page."""
    link = realm.link("ada")
    first = Visit(browser, realm.mint, link)
    second = Visit(browser, realm.mint)
    second.expected = "401"
    expect(second.open(link).get_by_role("alert")).to_contain_text("arx console open")
    expect(second.open("/console/now").get_by_role("heading", level=1)).to_have_text("Sign in")
    assert first.close() + second.close() == []


def test_without_javascript(visitor: Visitor, realm: DemoRealm) -> None:
    """Pages are whole, and their forms work."""
    visit = visitor("ada", java_script_enabled=False)
    page = visit.open("/console/now")
    expect(page.get_by_role("row").filter(has_text="payments-")).to_contain_text("live")
    page.get_by_role("navigation").get_by_role("link", name="Approvals").click()
    expect(page.get_by_role("row").filter(has_text="payments.settle")).to_contain_text("1 of 2")


def call_until_refused(realm: DemoRealm, task: Task, tool: str, args: dict[str, Any], begun: Event) -> str:
    """Call a tool again and again, and return the code of the first refusal."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        code = realm.call(task, tool, **args)
        begun.set()
        if code != "ok":
            return code
    return "never refused"


def test_a_kill_ends_an_agent_at_work(visitor: Visitor, realm: DemoRealm) -> None:
    """From the session's page: reason, confirmations of every live verifier, and the agent's next call is refused."""
    with realm.working("acme/research/market", "survey", "to be killed", topic="x") as (session, task):
        begun = Event()
        with ThreadPoolExecutor() as threads:
            agent = threads.submit(call_until_refused, realm, task, "search.web", {"query": "kill"}, begun)
            assert begun.wait(60)
            page = visitor("grace").open(f"/console/sessions/{session.id}")
            page.get_by_role("main").get_by_role("link", name="Kill session").click()
            expect(page.get_by_label("Targets")).to_have_value(f"session:{session.id}")
            page.get_by_label("Reason").fill("a journey ends it")
            page.get_by_role("button", name="Kill now").click()
            expect(page.get_by_role("status").first).to_contain_text("5 of 5 verifiers confirmed")
            assert agent.result(60) == "revoked"
        expect(page.get_by_role("main")).to_contain_text("a journey ends it")
        kill = realm.arx("kills", "show", page.url.rpartition("/")[2])
        assert "a journey ends it" in json.dumps(kill)


def test_a_freeze_refuses_until_the_thaw(visitor: Visitor, realm: DemoRealm) -> None:
    """The same token works again after the thaw; between, it is in the list of what is frozen."""
    with realm.working("acme/research/market", "survey", "to be frozen", topic="x") as (session, task):
        assert realm.call(task, "search.web", query="before") == "ok"
        page = visitor("grace").open(f"/console/kill?target=session:{session.id}")
        page.get_by_label("Reason").fill("is this ours?")
        page.get_by_role("radio", name=re.compile("^Freeze")).check()  # the button then names it
        page.get_by_role("button", name="Freeze now").click()
        expect(page.get_by_role("status").first).to_contain_text("5 of 5 verifiers confirmed")
        assert realm.call(task, "search.web", query="frozen") == "frozen"
        page.goto("/console/frozen")
        row = page.get_by_role("row").filter(has_text=session.id)
        expect(row).to_contain_text("is this ours?")
        row.get_by_role("link", name="Thaw").click()
        page.get_by_label("Reason").fill("it is")
        page.get_by_role("button", name="Thaw now").click()
        expect(page.get_by_role("status").first).to_contain_text("5 of 5 verifiers confirmed")
        assert realm.call(task, "search.web", query="after") == "ok"


def test_a_kill_without_javascript(visitor: Visitor, realm: DemoRealm) -> None:
    """Plain forms: preview, kill, and the page of the kill, which is loaded again."""
    with realm.working("acme/research/market", "survey", "no script", topic="x") as (session, task):
        page = visitor("grace", java_script_enabled=False).open(f"/console/kill?target=session:{session.id}")
        expect(page.get_by_role("main")).to_contain_text("Who must confirm")
        page.get_by_label("Reason").fill("without scripts")
        page.get_by_role("button", name="Kill now").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Kill")
        deadline = time.monotonic() + 60
        while "5 of 5" not in page.get_by_role("status").first.inner_text() and time.monotonic() < deadline:
            page.reload()
        expect(page.get_by_role("status").first).to_contain_text("5 of 5 verifiers confirmed")
        assert realm.call(task, "search.web", query="after") == "revoked"


def test_a_kill_by_keyboard(visitor: Visitor, realm: DemoRealm) -> None:
    """Tab and Enter alone; each control shows that it has the focus."""
    with realm.working("acme/research/market", "survey", "by keyboard", topic="x") as (session, task):
        page = visitor("grace").open(f"/console/sessions/{session.id}")
        tab_to(page, f"Kill session session:{session.id}")
        page.keyboard.press("Enter")
        expect(page.get_by_label("Targets")).to_have_value(f"session:{session.id}")
        tab_to(page, "reason")
        page.keyboard.type("by keyboard")
        tab_to(page, "Kill now")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status").first).to_contain_text("5 of 5 verifiers confirmed")
        assert realm.call(task, "search.web", query="after") == "revoked"


def tab_to(page: Page, name: str) -> None:
    """Go to a control by its words or its field's name, and require that each control on the way shows its focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        shown, called = page.evaluate(FOCUSED)
        assert shown != "none", f"{called} does not show its focus"
        if " ".join(called.split()) == name:
            return
    raise AssertionError(f"{name} cannot be reached")


def test_a_top_up_lets_an_agent_go_on(visitor: Visitor, realm: DemoRealm) -> None:
    """Without scripts: an agent has spent its share, an administrator finds the pool, adds to it, and it goes on."""
    with realm.working("acme/research/market", "brief", "a share", topic="x") as (session, task):
        worker = task.delegate("acme/research/market/x", budget={"usd": "0.03"})
        url = "https://www.destatis.de/energy"
        codes = [realm.call(worker, "search.read", url=url) for _ in range(2)]
        assert codes == ["ok", "budget_exhausted"]
        page = visitor("ada", java_script_enabled=False).open(f"/console/budgets?session={session.id}")
        row = page.get_by_role("row").filter(has_text="exhausted")
        row.get_by_role("link", name=re.compile("^x ")).click()
        expect(page.get_by_role("main")).to_contain_text("0 usd left of 0.03")
        page.get_by_label("Amount").fill("0.05")
        page.get_by_label("Reason").fill("one more page")
        page.get_by_role("button", name="Add to the pool").click()
        expect(page.get_by_role("main")).to_contain_text("0.05 usd left of 0.03 + 0.05")
        assert realm.call(worker, "search.read", url=url) == "ok"
        event = events_of(Path(realm.facts["home"]), "budget.topped_up")[-1]
        assert (event["by"], event["amount"], event["reason"]) == ("operator:ada", "0.05", "one more page")


def test_a_reader_sees_no_button(visitor: Visitor, realm: DemoRealm) -> None:
    """A read-only operator may look, and a form that is sent all the same is refused."""
    visit = visitor("nina")
    visit.expected = "403"
    for path in (
        f"/console/sessions/{realm.facts['tree_small']}",
        "/console/frozen",
        "/console/kills",
        "/console/policy",
        f"/console/budgets/{realm.facts['pool']}",
    ):
        page = visit.open(path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        for word in ("Kill", "Freeze", "Thaw", "Keep", "Remove", "Add"):
            expect(page.get_by_role("main").get_by_role("button", name=re.compile(f"^{word}"))).to_have_count(0)
            expect(page.get_by_role("main").get_by_role("link", name=re.compile(f"^{word}"))).to_have_count(0)
    page = visit.open(f"/console/approvals/{realm.facts['half']}")
    expect(page.get_by_role("button", name="Approve")).to_have_count(0)
    token = page.locator("[name=token]").first.get_attribute("value") or ""
    fields = {
        "token": token,
        "what": "kill",
        "do": "go",
        "form": "1",
        "reason": "x",
        "targets": "agent:acme/research/lead",
    }
    answer = page.request.post("/console/kill", form=fields, headers={"Origin": realm.mint})
    assert (answer.status, "tool_not_allowed" in answer.text()) == (403, True)


def test_decisions_come_by_themselves(visitor: Visitor, realm: DemoRealm) -> None:
    """A refusal appears in the open list, and its page says which condition failed."""
    page = visitor("nina").open("/console/decisions")
    with realm.working("acme/research/market", "survey", "too long a query", topic="x") as (session, task):
        assert realm.call(task, "search.web", query="q" * 130) == "argument_not_allowed"
        row = page.get_by_role("row").filter(has_text=session.id[:8]).filter(has_text="search.web")
        row.get_by_role("link").first.click()
    expect(page.get_by_role("main")).to_contain_text("argument_not_allowed")
    expect(page.get_by_role("row").filter(has_text="failed")).to_contain_text("query")


def test_a_hidden_page_holds_no_stream(visitor: Visitor, realm: DemoRealm) -> None:
    """Its stream ends, and what came meanwhile is there when the page is shown again."""
    page = visitor("nina").open("/console/decisions")
    state = page.locator("[data-state]")
    expect(state).to_have_text("live")
    page.evaluate(SET_HIDDEN, True)
    expect(state).to_have_text("not live")
    with realm.working("acme/research/market", "survey", "unseen", topic="x") as (session, task):
        assert realm.call(task, "search.web", query="unseen") == "ok"
        row = page.get_by_role("row").filter(has_text=session.id[:8]).filter(has_text="search.web")
        page.evaluate(SET_HIDDEN, False)
        expect(row).to_have_count(1)
    expect(state).to_have_text("live")


def test_seven_windows_leave_the_page_kill_free(visitor: Visitor) -> None:
    """A browser has six connections: the oldest pages pause and say so, Kill opens, and a click goes on."""
    visit = visitor()
    paths = ("decisions", "now", "sessions", "verifiers", "decisions", "approvals", "now")
    pages = [visit.open("/console/decisions")]
    live = pages[0].locator("[data-state]")
    expect(live).to_have_text("live")
    for path in paths[1:]:
        pages.append(visit.context.new_page())
        pages[-1].goto(f"/console/{path}")
        expect(pages[-1].get_by_role("heading", level=1)).to_be_visible()
    expect(pages[0].locator("[data-problem]")).to_contain_text("paused")
    expect(pages[1].locator("[data-stale]")).to_contain_text("paused")
    expect(pages[-1].locator("[data-stale]")).to_be_hidden()
    kill = visit.context.new_page()
    kill.goto("/console/kill", timeout=10_000)
    expect(kill.get_by_label("Targets")).to_be_visible()
    for page in pages[:2]:
        page.get_by_role("heading", level=1).click()
    expect(live).to_have_text("live")
    expect(pages[0].locator("[data-problem]")).to_be_hidden()
    expect(pages[1].locator("[data-stale]")).to_be_hidden()
    card = pages[1].locator(".card", has=pages[1].get_by_role("heading", name="Audit log")).locator(".figure")
    before = card.inner_text()
    expect(card).not_to_have_text(before)


def test_a_proof_is_verified_offline(visitor: Visitor, realm: DemoRealm, tmp_path: Path) -> None:
    """The downloaded file is verified with the log's key alone, and refused once a byte of it is changed."""
    page = visitor("nina").open("/console/decisions/20")
    with page.expect_download() as download:
        page.get_by_role("link", name="Inclusion proof").click()
    file = tmp_path / "proof"
    download.value.save_as(file)
    key = subprocess.run([*ARX, "audit", "key"], env=realm.environment, capture_output=True, text=True, check=True)
    offline = {name: value for name, value in realm.environment.items() if name != "ARX_HOME"}
    command = [*ARX, "audit", "verify", str(file), "--key", key.stdout.strip()]
    done = subprocess.run(command, env=offline, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.partition("\n")[0]) == (0, "HOLDS")
    file.write_bytes(file.read_bytes().replace(b"acme", b"acmf").replace(b"index 20", b"index 21"))
    done = subprocess.run(command, env=offline, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout


def test_many_rows_have_pages(visitor: Visitor, realm: DemoRealm) -> None:
    """A thousand records: each page has its part, and the next one goes on where it ended."""
    until(lambda: realm.arx("status")["log"]["size"] >= 1200, 120.0)  # it grows while agents are at work
    page = visitor("nina").open("/console/search?since=30d")
    seen: list[str] = []
    while True:
        seen += page.locator("table tbody tr td:first-child").all_inner_texts()
        older = page.get_by_role("link", name="Older")
        if len(seen) >= 1000 or not older.count():
            break
        older.click()
        page.wait_for_load_state()
    assert len(seen) == len(set(seen)) >= 1000


def test_a_mint_that_restarts(visitor: Visitor, realm: DemoRealm) -> None:
    """The page says that it is not live while the mint is away, and goes on by itself when it is back."""
    visit = visitor()
    visit.expected = r"ERR_|Failed to (load|fetch)|htmx"
    page = visit.open("/console/now")
    notice = page.locator("[data-stale]")
    card = page.locator(".card", has=page.get_by_role("heading", name="Audit log")).locator(".figure")
    expect(card).not_to_have_text(card.inner_text())  # a page whose stream has not begun loses none
    expect(notice).to_be_hidden()
    page.evaluate(NOTE_SHOWN)  # a mint that is back soon hides the notice between two looks of `expect`
    os.kill(realm.process("arx_caps.console.serve"), signal.SIGKILL)
    until(lambda: page.evaluate("() => window.wasShown === true"))
    expect(notice).to_be_hidden()
    expect(card).not_to_have_text(card.inner_text())


def test_a_store_that_stands_still(visitor: Visitor, realm: DemoRealm) -> None:
    """The page says that nothing is granted and why; then the realm goes on."""
    visit = visitor()
    visit.expected = r"50[03]|ERR_|htmx"
    page = visit.open("/console/now")
    store = realm.process(f"valkey-server unixsocket:{realm.facts['home']}/valkey/")
    os.kill(store, signal.SIGSTOP)
    try:
        expect(page.get_by_role("alert")).to_contain_text("grants nothing now")
        expect(page.get_by_role("alert")).to_contain_text("store")
    finally:
        os.kill(store, signal.SIGCONT)
    expect(page.get_by_text("This mint grants.")).to_be_visible()


def test_any_id_is_found_from_every_page(visitor: Visitor, realm: DemoRealm) -> None:
    """The key / leads to the field, but not out of another one; an id leads to its page, with and without scripts."""
    page = visitor().open("/console/decisions")
    field = page.get_by_role("searchbox", name="Find an id or a name")
    page.get_by_label("Tool").press_sequentially("a/b")
    expect(page.get_by_label("Tool")).to_have_value("a/b")
    page.get_by_role("heading", level=1).click()
    page.keyboard.press("/")
    expect(field).to_be_focused()
    page.keyboard.type(realm.facts["tree_small"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Session {realm.facts['tree_small']}")
    plain = visitor(java_script_enabled=False).open("/console/keys")
    plain.get_by_role("searchbox").fill(realm.facts["half"])
    plain.keyboard.press("Enter")
    expect(plain.get_by_role("main")).to_contain_text("payments.settle")


def test_a_chosen_time_stays_without_scripts(visitor: Visitor) -> None:
    """A click on *Now* is the time of *Top* and of the search; the curve has its counts in words."""
    page = visitor(java_script_enabled=False).open("/console/now")
    expect(page.get_by_role("img", name="Decisions and refusals over time")).to_be_visible()
    page.get_by_role("group", name="Time").get_by_role("link", name="7d").click()
    menu = page.get_by_role("navigation", name="Pages")
    menu.get_by_role("link", name="Top").click()
    expect(page.get_by_label("Over the last")).to_have_value("7d")
    menu.get_by_role("link", name="Audit search").click()
    expect(page.get_by_label("Since")).to_have_value("7d")
    page.get_by_role("link", name="Clear").click()
    menu.get_by_role("link", name="Top").click()
    expect(page.get_by_label("Over the last")).to_have_value("1h")


def test_a_live_curve_goes_on(visitor: Visitor, realm: DemoRealm) -> None:
    """The page draws later decisions by itself, over the time that was chosen."""
    page = visitor().open("/console/now?since=15m")
    words = page.locator("#curve-words")
    before = words.text_content() or ""
    assert "decisions" in before
    expect(words).not_to_have_text(before, timeout=150_000)
    expect(page.get_by_role("group", name="Time").get_by_role("link", name="15m")).to_have_attribute(
        "aria-current", "true"
    )


def test_a_touch_screen_shows_exact_times(visitor: Visitor) -> None:
    """A finger cannot hover: the exact time is beside the relative one; with a pointer it is not."""
    shown = "getComputedStyle(document.querySelector('td time.ago'), '::after').content"
    for view, exact in (({"has_touch": True, "is_mobile": True}, True), ({}, False)):
        page = visitor(viewport={"width": 390, "height": 844}, **view).open("/console/keys")
        assert (re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", page.evaluate(shown)) is not None) == exact
        assert page.evaluate(SCROLLS) is False


def test_a_lifted_mark_lets_an_agent_go_on(visitor: Visitor, realm: DemoRealm) -> None:
    """A sub-agent has read a page, so its parent writes no note; an administrator sees the call, and lifts it."""
    with realm.working("acme/research/market", "brief", "a page", topic="x") as (session, task):
        note = {"text": "what the page says"}
        assert realm.call(task, "search.note", **note) == "ok"
        helper = task.delegate("acme/research/market/x")
        assert realm.call(helper, "search.read", url="https://www.destatis.de/energy") == "ok"
        assert realm.call(task, "search.note", **note) == "after_mark"
        page = visitor("ada", java_script_enabled=False).open(f"/console/sessions/{session.id}")
        marks = page.get_by_role("region", name="Marks")
        expect(marks.get_by_role("row").filter(has_text="untrusted")).to_contain_text("search.read")
        marks.get_by_label("Reason").fill("our own page")
        marks.get_by_role("button", name="Lift the mark").click()
        expect(page.get_by_role("region", name="Marks")).to_contain_text("No mark is set in this session")
        assert realm.call(task, "search.note", **note) == "ok"
        event = events_of(Path(realm.facts["home"]), "mark.lifted")[-1]
        assert (event["by"], event["mark"], event["reason"]) == ("operator:ada", "untrusted", "our own page")
