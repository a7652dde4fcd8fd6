# SPDX-License-Identifier: Apache-2.0
"""The field that finds the page of any id or name, for what an operator may read."""

from urllib.parse import quote

import pytest

from arx_verifier.errors import StoreError
from tests.audit.batches import batch_of, decision, facts
from tests.console.harness import Browser, operator_with, sign_in
from tests.mint.approvals import Desk
from tests.mint.harness import AGENT, Harness

FREEZE = {"targets": ["agent:acme/x"], "reason": "r", "wait": False}
pytestmark = pytest.mark.sqlite


def find(browser: Browser, text: str) -> str:
    """Type a text into the field, and return the address of the page that it leads to; empty without a page."""
    browser.page = browser.client.get(f"/console/find?id={quote(text)}", follow_redirects=False)
    return browser.page.headers.get("location", "")


def test_an_id_leads_to_its_page(desk: Desk) -> None:
    """Every kind of id has its page, with or without the name of the kind."""
    unit, session = desk.harness, desk.session["id"]
    asked = desk.ask()
    operator_with(unit, "nina", "read-only")
    unit.operator().call("PUT", "/v1/services/orders")
    link = "07QS26dbsDU4nqkwbnm9SQ"
    made = decision(1, facts("s-1", "t-1", "acme/a", links=(link,)))
    unit.mint.log.store.take(batch_of([made]), None)
    browser = sign_in(unit)
    holder = f"/console/sessions/{session}?node={desk.id}#holder"
    digest = unit.mint.policies.loaded.digest
    for text, path in {
        session: f"/console/sessions/{session}",
        f"  session:{session} ": f"/console/sessions/{session}",
        session[:10]: f"/console/sessions/{session}",
        desk.id: holder,
        f"task:{desk.id}": holder,
        asked["id"]: f"/console/approvals/{asked['id']}",
        f"task:{asked['id']}": f"/console/approvals/{asked['id']}",
        link: f"/console/sessions/s-1?node={link}#holder",
        AGENT: f"/console/agents/{AGENT}",
        "operator:nina": "/console/search?agent=operator%3Anina",
        "nina": "/console/search?agent=operator%3Anina",
        "orders": "/console/verifiers",
        digest: f"/console/policy/{digest}",
        "record:0": "/console/decisions/0",
        "subject:abc": "/console/search?person=subject%3Aabc",
        "https://idp.example ada": "/console/search?person=https%3A%2F%2Fidp.example+ada",
    }.items():
        assert find(browser, text) == path, text
        browser.get(path.partition("#")[0])
        assert browser.status == (404 if "s-1" in path else 200), path
    above = AGENT.partition("/")[0]
    page = browser.get(f"/console/find?id={above}")
    assert f"/console/agents?under={above}" in page
    assert f"/console/sessions/{session}" in page


@pytest.mark.servers
def test_a_number_may_be_a_record_and_a_kill(live: Harness) -> None:
    """Both have a link; the page reports an unknown id, and no text leads elsewhere."""
    kill = live.operator().call("POST", "/v1/freezes", FREEZE).json()["seq"]
    live.mint.log.store.take(batch_of([decision(n, facts("s-1", "t-1")) for n in range(1, 9)], 1), None)
    browser = sign_in(live)
    assert find(browser, f"kill:{kill}") == f"/console/kills/{kill}"
    page = browser.get(f"/console/find?id=%23{kill}")
    assert f"/console/decisions/{kill}" in page
    assert f"/console/kills/{kill}" in page
    for text in (
        "s-aaaaaaaaaaaaaaaa",
        "t-aaaaaaaaaaaaaaaa",
        "999999",
        "a" * 22,
        "<b>",
        "//evil.example",
        "operator:no",
    ):
        page = browser.get(f"/console/find?id={quote(text)}")
        assert browser.status == 404, text
        assert "Nothing that you may read" in page
    assert "<b>" not in browser.get("/console/find?id=<b>")
    assert "Nothing that you may read" not in browser.get("/console/find?id=%20")
    assert browser.status == 200
    browser.get(f"/console/find?id={'x' * 513}")
    assert browser.status == 400
    assert 'name="id"' in browser.get("/console/now")


def test_what_a_role_may_not_read_is_not_found(desk: Desk) -> None:
    """The field asks only what the role may read, so that no refusal is recorded, and says nothing of the rest."""
    asked = desk.ask()
    reader = sign_in(desk.harness, operator_with(desk.harness, "kim", "kill-only"))
    for text in (desk.session["id"], desk.id, asked["id"], "operator:root"):
        assert find(reader, text) == "", text
        assert reader.status == 404


def test_an_outage_hides_no_id(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the log a session is found; what cannot be looked up is not said to be unknown."""
    browser = sign_in(desk.harness)

    def fail(*_: object, **__: object) -> None:
        raise StoreError("the log does not answer")

    monkeypatch.setattr(desk.harness.mint.log.store, "reading", fail)
    assert find(browser, desk.session["id"]) == f"/console/sessions/{desk.session['id']}"
    assert find(browser, "a" * 22) == ""
    assert browser.status == 503
