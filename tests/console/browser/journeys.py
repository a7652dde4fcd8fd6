# SPDX-License-Identifier: Apache-2.0
"""What operators do in the console, in a browser, while agents are at work."""

import time
from concurrent.futures import ThreadPoolExecutor

from playwright.sync_api import Browser, Route, expect

from tests.console.browser.fixtures import Visitor
from tests.console.browser.realm import DemoRealm
from tests.console.browser.visit import Visit


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
    """The second browser with the same link is told what to do, and sees no page."""
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
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_role("link", name="Approvals").click()
    expect(page.get_by_role("row").filter(has_text="payments.settle")).to_contain_text("1 of 2")
