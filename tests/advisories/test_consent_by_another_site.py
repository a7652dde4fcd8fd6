# SPDX-License-Identifier: Apache-2.0
"""An attacker's site must not give consent, by a form of its own, a frame or text that runs in the page."""

import re

import pytest

from tests.mint.harness import AGENT
from tests.mint.login import Flow, Issuer, claims_of
from tests.mint.oauth import RESOURCE


def test_the_page_names_all_and_runs_nothing(flow: Flow, idp: Issuer) -> None:
    """Agent, client, task, tool, arguments, duration, person; strict headers; no script, and nothing unescaped."""
    idp.person = {"sub": '<script>"&\u00e4nn'}
    page = flow.page(authorization_details='[{"type":"arx_task","params":{"order_id":"<b>o</b>"}}]')
    for text in (AGENT, flow.client.id, "lookup", "orders.get", RESOURCE, "1h", idp.url, "http://127.0.0.1:53211"):
        assert text in page.text
    assert "&lt;b&gt;o&lt;/b&gt;" in page.text
    assert "<b>" not in page.text
    assert "<script" not in page.text
    assert page.text.isascii()
    rules = dict(rule.strip().split(" ", 1) for rule in page.headers["content-security-policy"].split(";"))
    assert (rules["default-src"], rules["frame-ancestors"], rules["base-uri"]) == ("'none'", "'none'", "'none'")
    assert rules["form-action"].startswith("'self' ")
    assert (page.headers["x-frame-options"], page.headers["cache-control"]) == ("DENY", "no-store")
    token = flow.redeem(flow.answer_of(flow.answer(page))["code"]).json()["access_token"]
    task = flow.harness.mint.db.tasks.find(claims_of(flow.harness, token).tid)
    assert task is not None
    assert task.params == {"order_id": "<b>o</b>"}


@pytest.mark.sqlite
def test_no_other_site_gives_consent(flow: Flow) -> None:
    """Without the page's token, with that of a page of another browser, or from another origin."""
    first = flow.page()
    flow.browser.cookies.clear()
    page = flow.page()
    assert flow.answer(first, order_id="o-1").status_code == 400
    token = re.search(r'name="token" value="([^"]*)"', page.text)
    assert token is not None
    form = {"answer": "allow", "param.order_id": "o-1"}
    assert flow.browser.post("/oauth/consent", data=form).status_code == 400
    form["token"] = token[1]
    evil = flow.browser.post("/oauth/consent", data=form, headers={"Origin": "https://evil.example"})
    assert evil.status_code == 400
    flow.answer_of(flow.answer(page, order_id="o-1"))


@pytest.mark.sqlite
def test_cookies_are_of_the_mint_alone(flow: Flow) -> None:
    """No script reads them; at an https: mint they have the prefix that no other host can set."""
    cookie = flow.begin().headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
