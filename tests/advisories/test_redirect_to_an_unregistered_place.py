# SPDX-License-Identifier: Apache-2.0
"""The mint must not send a browser, or a code, to a place that no operator has registered.

Nor did a person decide on those that strangers registered themselves: each error sent browsers there.
Sources: RFC 9700 4.1 and 4.11.2, RFC 8252 7.3.
"""

import re
from html import unescape

import pytest

from tests.mint.harness import AGENT
from tests.mint.login import REDIRECT, Flow, Issuer
from tests.mint.test_registration import SelfRegistered

ELSEWHERE = [
    None,
    "",
    "https://evil.example/callback",
    "http://127.0.0.1:53211/other",
    "http://127.0.0.1:53211/callback?more=1",
    "http://127.0.0.1:53211/callback#part",
    "http://127.0.0.1:53211@evil.example/callback",
    "http://127.0.0.1.evil.example/callback",
    "http://localhost:53211/callback",
    "https://127.0.0.1:53211/callback",
    "http://127.0.0.1:/callback",
    "http://127.0.0.1:99999/callback",
    "http://127.0.0.1:53211\\@evil.example/callback",
    "HTTP://127.0.0.1:53211/callback",
    "http://127.0.0.1:53211/callback\n",
    "//evil.example/callback",
    "javascript:alert(1)",
]
REDIRECTS = [
    ("https://app.example/cb", "https://app.example/cb", True),
    ("https://app.example/cb", "https://app.example:8443/cb", False),
    ("https://app.example/cb", "https://app.example/cb/", False),
    ("http://127.0.0.1:1/cb", "http://127.0.0.1:2/cb", True),
    ("http://[::1]/cb", "http://[::1]:5000/cb", True),
    ("http://localhost/cb", "http://localhost:5000/cb", True),
    ("com.example.app:/cb", "com.example.app:/cb", True),
]
NO_CLIENTS: list[dict[str, object]] = [
    {"redirects": ["http://app.example/cb"]},
    {"redirects": ["https://app.example/cb#part"]},
    {"redirects": ["https://user@app.example/cb"]},
    {"redirects": ["javascript:alert(1)"]},
    {"redirects": ["myapp:/cb"]},
    {"redirects": [], "public": True},
    {"redirects": [REDIRECT], "public": True, "introspects": ["orders"]},
    {"redirects": [REDIRECT], "scopes": [], "introspects": ["orders"]},
]


@pytest.mark.sqlite
def test_no_browser_is_sent_to_an_unregistered_place(flow: Flow) -> None:
    """The person sees a page, and no redirect follows."""
    for redirect in ELSEWHERE:
        answer = flow.begin(redirect_uri=redirect)
        assert (answer.status_code, "location" in answer.headers) == (400, False), redirect
    assert flow.begin(client_id="c-none").status_code == 400


@pytest.mark.sqlite
def test_nor_for_a_client_that_registered_itself(flow: Flow) -> None:
    """It could name any place, but it can name none after the person has begun."""
    stranger = Flow(flow.harness, SelfRegistered(flow.harness, redirect_uris=[REDIRECT]))
    assert stranger.begin().status_code == 303
    for redirect in ELSEWHERE:
        answer = stranger.begin(redirect_uri=redirect)
        assert (answer.status_code, "location" in answer.headers) == (400, False), redirect


@pytest.mark.sqlite
def test_the_port_of_a_loopback_address_alone_may_differ(flow: Flow) -> None:
    """RFC 8252 7.3."""
    for registered, asked, fits in REDIRECTS:
        other = Flow(flow.harness, redirects=[registered])
        assert (other.begin(redirect_uri=asked).status_code == 303) is fits, asked


@pytest.mark.sqlite
def test_what_may_not_be_registered(flow: Flow) -> None:
    """A place that an attacker could have; a public client that could ask; a redirect without a task."""
    for about in NO_CLIENTS:
        body = {"agent": AGENT, "scopes": ["lookup"]} | about
        assert flow.harness.operator().call("POST", "/v1/clients", body).status_code == 400, about


@pytest.mark.sqlite
def test_no_link_leads_on_to_a_place_that_a_stranger_registered(flow: Flow, idp: Issuer) -> None:
    """An error is a page, from which the person may go on; the page of consent is a decision (RFC 9700 4.11.2)."""
    place = "https://evil.example/login?a=1&b='"
    flow.client, flow.redirect = SelfRegistered(flow.harness, redirect_uris=[place]), place
    for refused in (flow.begin(scope="other"), flow.begin(response_type="token"), flow.begin(code_challenge="x")):
        assert (refused.status_code, "location" in refused.headers) == (400, False)
        found = re.search('<a href="([^"]*)">', refused.text)
        assert found is not None
        assert unescape(found[1]).startswith(f"{place}&error=")
    idp.answer = {"code": "", "error": "access_denied"}
    refused = flow.log_in()
    assert (refused.status_code, "location" in refused.headers) == (400, False)
    assert "Max-Age=0" in refused.headers["set-cookie"]
    idp.answer = {}
    page = flow.page()
    assert flow.answer(page, "deny").headers["location"].startswith(f"{place}&state=")
    assert "location" not in flow.begin(redirect_uri="https://other.example/").headers
    # A program on the machine of the browser waits there for an answer.
    flow.redirect = "http://127.0.0.1:53211/callback"
    flow.client = SelfRegistered(flow.harness)
    assert flow.begin(scope="other").headers["location"].startswith(flow.redirect)
