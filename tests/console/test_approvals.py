# SPDX-License-Identifier: Apache-2.0
"""The inbox of approvals: what an operator reads, answers and withdraws there, and what is recorded."""

import re

import pytest

from tests.console.harness import Browser, sign_in
from tests.mint.approvals import TWO, Desk
from tests.mint.harness import Harness

pytestmark = pytest.mark.sqlite
HOME = "/console/approvals"


def test_an_operator_approves_and_the_agent_goes_on(desk: Desk) -> None:
    """The inbox has the call with its arguments; the answer lets the agent fetch its discharge."""
    asked = desk.ask(why="the order <b>never</b> came")
    browser = sign_in(desk.harness)
    inbox = browser.get(HOME)
    assert asked["id"] in inbox
    assert "payments.refund" in inbox
    page = browser.get(f"{HOME}/{asked['id']}")
    assert "the order &lt;b&gt;never&lt;/b&gt; came" in page
    assert re.search(r"amount</th><td><pre>50</pre>", page)
    page = browser.post(f"{HOME}/{asked['id']}", outcome="approve", why="seen the parcel")
    assert "seen the parcel" in page
    assert "Withdraw the approval" in page
    assert desk.fetch(asked).json()["discharge"]
    assert "Nothing waits for an approval" in browser.get(HOME)
    assert asked["id"] in browser.get(f"{HOME}?state=approved")


def test_an_answer_must_be_one_of_two_and_comes_once(desk: Desk) -> None:
    """A denial holds; an approval after it is refused, and nothing but the two answers is taken."""
    asked = desk.ask()
    browser = sign_in(desk.harness)
    browser.get(f"{HOME}/{asked['id']}")
    browser.post(f"{HOME}/{asked['id']}", outcome="perhaps")
    assert browser.status == 400
    browser.get(f"{HOME}/{asked['id']}")
    assert "denied" in browser.post(f"{HOME}/{asked['id']}", outcome="deny")
    browser.post(f"{HOME}/{asked['id']}", outcome="approve")
    assert browser.status == 409
    assert desk.fetch(asked).json()["code"] == "approval_denied"


def test_arguments_cannot_deceive(desk: Desk) -> None:
    """Letters that look like others are shown as their numbers; an argument's markup is text."""
    asked = desk.ask({"order_id": "o-1", "text": "pay \u0430dmin<script>"}, tool="payments.note")
    page = sign_in(desk.harness).get(f"{HOME}/{asked['id']}")
    assert r"pay \u0430dmin&lt;script&gt;" in page
    assert "\u0430" not in page


def test_a_reader_sees_no_buttons_and_may_not_answer(desk: Desk) -> None:
    """The role decides what is offered, and again what a form may do."""
    asked = desk.ask()
    reader: Browser = sign_in(desk.harness, desk.operator("nina", role="read-only"))
    page = reader.get(f"{HOME}/{asked['id']}")
    assert page.count("<button") == 1  # the sign-out
    page = reader.post(f"{HOME}/{asked['id']}", outcome="approve")
    assert reader.status == 403
    assert "tool_not_allowed" in page
    assert desk.fetch(asked).json()["approval"]["state"] == "waiting"


def test_an_unknown_approval_is_a_page_too(desk: Desk) -> None:
    """Its status is 404."""
    browser = sign_in(desk.harness)
    assert "no such approval" in browser.get(f"{HOME}/a-absent").lower()
    assert browser.status == 404


def test_the_inbox_is_sent_again_when_an_answer_counts(unit: Harness) -> None:
    """An open page shows the first of two answers, too."""
    unit.mint.log.start()
    desk = Desk(unit, TWO)
    asked = desk.ask()
    browser = sign_in(desk.harness)
    seen: list[str] = []
    with browser.client.stream("GET", f"{HOME}/live") as answer:
        for line in answer.iter_lines():
            seen += re.findall(r"(\d) of \d", line)
            if seen == ["0"]:
                assert desk.answer(unit.operator(), asked).status_code == 200
                seen.append("answered")
            elif "1" in seen:
                browser.stop_streams()
    assert seen == ["0", "answered", "1"]


@pytest.mark.servers
def test_an_approval_is_withdrawn(live: Harness) -> None:
    """Its discharge is revoked, and the page says that it was withdrawn."""
    desk = Desk(live)
    asked, _ = desk.approved()
    browser = sign_in(live)
    browser.get(f"{HOME}/{asked['id']}")
    assert "withdrawn" in browser.post(f"{HOME}/{asked['id']}/withdraw")
    assert desk.fetch(asked).json()["code"] == "approval_withdrawn"
