# SPDX-License-Identifier: Apache-2.0
"""Sign in to the console by a link, what a browser may then do, and what ends it.  CONTROL 6."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from arx_caps.console.app import STATIC
from arx_caps.mint.api.app import ENDPOINTS
from arx_caps.mint.api.endpoint import call_endpoint
from arx_caps.mint.identity.authenticate import AuthenticatedCaller
from arx_caps.mint.identity.console_session import authorize_console_call, find_console_session
from arx_verifier.errors import GrantError
from arx_verifier.token import wire
from tests.console.harness import Browser, link_of, operator_with, sign_in
from tests.mint.harness import Harness

VENDORED = Path(__file__).resolve().parents[2] / "vendor" / "htmx"
pytestmark = pytest.mark.sqlite


@pytest.mark.spec("CONTROL 6.2")
def test_a_link_signs_in_once(unit: Harness) -> None:
    """A link shows whom it signs in without being used up, works once, and its secret opens nothing afterwards."""
    browser, link = Browser(unit), link_of(unit.operator())
    for _ in range(2):
        assert "Open the console as" in browser.get(link)
    secret = parse_qs(urlsplit(link).query)["link"][0]
    assert "<h1>Now</h1>" in browser.post("/console/open", link=secret)
    other = Browser(unit)
    other.get("/console/sign-in")
    assert "run `arx console open` again" in other.post("/console/open", link=secret)
    assert other.status == 401
    other.client.cookies.set("arx-console", secret)
    assert "arx console open" in other.get("/console/now")
    assert "/console/sign-in" in str(other.page.url if other.page else "")


def test_no_user_sees_a_page_without_a_sign_in(unit: Harness) -> None:
    """A page leads to the sign-in, and back to itself; another site's address does not."""
    browser = Browser(unit)
    browser.client.follow_redirects = False
    browser.get("/console/now?x=1")
    assert browser.page is not None
    assert browser.page.headers["location"] == "/console/sign-in?next=%2Fconsole%2Fnow%3Fx%3D1"
    signed = sign_in(unit)
    signed.client.follow_redirects = False
    for bad in ("//evil.example/", "https://evil.example/console/", "/console/\\evil.example", "javascript:alert(1)"):
        signed.get(f"/console/sign-in?next={bad}")
        assert signed.page is not None
        assert signed.page.headers["location"] == "/console/home"


@pytest.mark.spec("CONTROL 6.1")
def test_each_page_is_a_decision_and_a_role_limits(unit: Harness) -> None:
    """The record names operator, action and assurance; a role without the action is refused, also by address."""
    sign_in(unit).get("/console/now")
    rows = [one for one in unit.mint.decisions.decisions if one.tool == "arx.status.read"]  # type: ignore[attr-defined]
    assert {(one.facts.agent, one.facts.assurance, one.code) for one in rows} == {("operator:root", "console", "ok")}
    pager = sign_in(unit, operator_with(unit, "pager", "kill-only"))
    assert 'href="/console/now"' not in pager.get("/console/home")
    assert "tool_not_allowed" in pager.get("/console/now")
    assert pager.status == 403


@pytest.mark.spec("CONTROL 6.3")
def test_a_form_must_be_from_a_page_of_this_sign_in(unit: Harness) -> None:
    """No token, another sign-in's token and another site's origin are refused."""
    browser, other = sign_in(unit), sign_in(unit)
    for fields, headers in (
        ({"token": ""}, {}),
        ({"token": "x" * 43}, {}),
        ({}, {"Origin": "https://evil.example"}),
        ({}, {"Origin": "null"}),
        ({}, {"Sec-Fetch-Site": "cross-site"}),
    ):
        browser.get("/console/now")
        browser.post("/console/sign-out", headers=headers, **fields)
        assert browser.status == 403, (fields, headers)
    browser.page = other.client.get("/console/now")
    browser.post("/console/sign-out")
    assert browser.status == 403
    browser.get("/console/now")
    browser.post("/console/sign-out")
    browser.get("/console/now")
    assert "/console/sign-in" in str(browser.page.url)


@pytest.mark.spec("CONTROL 6.2")
@pytest.mark.servers
def test_removing_key_or_operator_ends_the_sign_in(live: Harness) -> None:
    """The next page is refused."""
    holder = operator_with(live, "ada", "responder")
    browser = sign_in(live, holder)
    assert live.operator().call("DELETE", "/v1/operators/ada").status_code == 200
    browser.get("/console/now")
    assert "/console/sign-in" in str(browser.page.url if browser.page else "")


def test_pages_take_nothing_from_elsewhere(unit: Harness) -> None:
    """No script or style in a page, no frame; static files are the vendored ones, by hash."""
    browser = sign_in(unit)
    html = browser.get("/console/now")
    assert browser.page is not None
    policy = browser.page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "style=" not in html
    assert "<script>" not in html
    sums = dict(reversed(line.split()) for line in (VENDORED / "SHA256SUMS").read_text().splitlines())
    assert {path.name for path in VENDORED.iterdir()} == {*sums, "SHA256SUMS"}
    for name in STATIC:
        answer = browser.client.get(f"/console/static/{name}")
        assert answer.status_code == 200
        assert name not in sums or hashlib.sha256(answer.content).hexdigest() == sums[name]
    absent = browser.get("/console/absent")
    assert browser.status == 404
    assert "check the address" in absent
    assert 'aria-label="Pages"' in absent  # the menu, as on each page of an operator who is signed in


@pytest.mark.spec("CONTROL 6.4")
def test_the_state_says_why_nothing_is_granted(unit: Harness) -> None:
    """Without a store the API and the page answer, and say that the store does not."""
    answer = unit.operator().call("GET", "/v1/status").json()
    assert answer["store"]["error"]
    assert answer["verifiers"] == []
    assert answer["sessions"] == 0
    assert "The revocation store" in sign_in(unit).get("/console/now")


@pytest.mark.spec("CONTROL 6.1")
def test_a_page_calls_nothing_that_is_for_services_alone(unit: Harness) -> None:
    """As over HTTP, an endpoint without operators among its callers refuses one."""
    browser = sign_in(unit)
    session = find_console_session(unit.mint, wire.bytes_of(browser.client.cookies["arx-console"]))
    assert session is not None
    keys = next(each for each in ENDPOINTS if each.action == "arx.keys.fetch")

    def authorize(action: str, args: Mapping[str, Any]) -> AuthenticatedCaller:
        return authorize_console_call(unit.mint, session, action, args, peer=None)

    with pytest.raises(GrantError) as refused:
        call_endpoint(keys, unit.mint, authorize, path={}, query={}, body={}, peer=None)
    assert refused.value.code == "wrong_caller"
