# SPDX-License-Identifier: Apache-2.0
"""A login answer of another issuer, or of another browser's login, must not log a person in.

An attacker who mixes up issuers gets codes of one at another; one who sends a victim an own answer makes the victim
consent in the attacker's name (RFC 9207, RFC 9700 4.4 and 4.7).
"""

import httpx
import pytest

from tests.mint.login import Flow, Issuer


@pytest.mark.parametrize(
    ("metadata", "answer", "status"),
    [
        ({}, {"iss": "https://other.example"}, 400),
        ({"authorization_response_iss_parameter_supported": True}, {}, 400),
        ({}, {"state": "other"}, 400),
        ({}, {"state": ""}, 400),
    ],
)
@pytest.mark.sqlite
def test_an_answer_of_another_issuer_or_login_is_refused(
    flow: Flow, idp: Issuer, metadata: dict[str, object], answer: dict[str, str], status: int
) -> None:
    """RFC 9207, and the state."""
    idp.metadata, idp.answer = metadata, answer
    assert flow.log_in().status_code == status


@pytest.mark.sqlite
def test_a_login_is_of_one_browser_and_used_once(flow: Flow, idp: Issuer) -> None:
    """A callback in another browser, or again, is refused; a cancelled login goes back to the client."""
    url = httpx.get(flow.begin().headers["location"]).headers["location"]
    name, cookie = flow.cookie("login")
    flow.browser.cookies.clear()
    assert flow.visit(url).status_code == 400
    flow.browser.cookies.set(name, cookie, domain="127.0.0.1", path="/")
    assert flow.visit(url).status_code == 303
    flow.browser.cookies.set(name, cookie, domain="127.0.0.1", path="/")
    assert flow.visit(url).status_code == 400
    idp.answer = {"code": "", "error": "access_denied"}
    assert flow.answer_of(flow.log_in())["error"] == "access_denied"
