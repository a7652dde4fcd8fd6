# SPDX-License-Identifier: Apache-2.0
"""The page of consent names the calls of its program that wait for an operator: at 403, stock clients open it."""

from html import unescape

import pytest

from arx_caps.service.access_tokens import ask_approval, open_access_token, take_approval
from arx_verifier.token.discharge import third_party_caveats
from tests.mint.login import REDIRECT, Flow, Issuer
from tests.mint.oauth import Client
from tests.mint.test_handles import mint_of
from tests.mint.test_services import invited, join

pytestmark = pytest.mark.spec("CONTROL 5.12")
WAITS = "It waits for these calls"
ARGS = {"to": '<b> "x" \u00fc'}


def test_the_page_names_what_waits(flow: Flow, idp: Issuer) -> None:
    """The arguments in full, until the call was made; of this program and person alone."""
    flow.client = Client(flow.harness, scopes=["pay"], redirects=[REDIRECT])
    service, _ = join(flow.harness, invited(flow.harness))
    mint = mint_of(flow.harness)
    assert WAITS not in flow.page(scope="pay").text
    token = flow.redeem(flow.answer_of(flow.answer(flow.page(scope="pay")))["code"]).json()["access_token"]
    [caveat] = third_party_caveats(open_access_token(mint, service.key, token).bundle.tokens["orders"])
    asked = ask_approval(mint, service.key, token, caveat.encode().decode(), "orders.pay", ARGS)
    page = flow.page(scope=f"pay approval:{asked.id}")
    for text in (WAITS, asked.id, "not approved yet", r'"<b> \"x\" \u00fc"'):
        assert text in unescape(page.text)
    assert "<b>" not in page.text
    body = {"approval": asked.id, "outcome": "approve", "why": "a test"}
    assert flow.harness.operator().call("POST", "/v1/approvals", body).status_code == 200
    assert "<strong><code>orders.pay</code></strong>: approved" in flow.page(scope="pay").text
    mine, flow.client = flow.client, Client(flow.harness, scopes=["pay"], redirects=[REDIRECT])
    assert WAITS not in flow.page(scope="pay").text
    flow.client = mine
    idp.person = {"sub": "bob"}
    assert WAITS not in flow.page(scope="pay").text
    idp.person = {"sub": "ann"}
    assert take_approval(mint, service.key, token, asked.id).discharge is not None
    assert WAITS not in flow.page(scope="pay").text
