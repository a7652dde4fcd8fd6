# SPDX-License-Identifier: Apache-2.0
"""A stranger must not fill the mint's tables and its log by registering clients.

CONTROL 5.10: as many as the settings say, a few from one address, and those without a consent end after a day.
"""

import pytest

from arx_caps.mint.rate_limit import REGISTRATIONS, RateLimits
from arx_caps.settings.limits import Limits
from tests.mint.login import Flow
from tests.mint.test_registration import set_clients


@pytest.mark.sqlite
def test_one_address_registers_a_few(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is refused until an hour has passed, and another address is not."""
    mint, now = flow.harness.mint, [0.0]
    # The tests' own address is this machine's, which has no limit.
    mint.limits = RateLimits(Limits(), lambda: now[0])
    monkeypatch.setattr(mint.limits, "peer_of", lambda _peer, forwarded: forwarded[0])

    def attempt(address: str) -> int:
        body = {"redirect_uris": ["https://app.example/"]}
        answer = flow.harness.client.post("/oauth/register", json=body, headers={"X-Forwarded-For": address})
        return int(answer.status_code)

    assert {attempt("192.0.2.1") for _ in range(REGISTRATIONS)} == {201}
    assert attempt("192.0.2.1") == 429
    assert attempt("2001:db8:1::1") == 201
    now[0] += 3600 / REGISTRATIONS + 1
    assert attempt("192.0.2.1") == 201
    rows = [row for row in mint.db.oauth_clients.list() if row.by == "self"]
    assert len(rows) == REGISTRATIONS + 2


@pytest.mark.sqlite
def test_all_together_register_no_more_than_allowed(flow: Flow) -> None:
    """Neither a row nor an event is written for one more, and the operator registers on."""
    set_clients(flow.harness, most=3)
    db = flow.harness.mint.db
    body = {"redirect_uris": ["https://app.example/"]}
    statuses = [flow.harness.client.post("/oauth/register", json=body).status_code for _ in range(6)]
    assert statuses == [201, 201, 201, 503, 503, 503]
    assert len([row for row in db.oauth_clients.list() if row.by == "self"]) == 3
    assert len(db.outbox.since(0, ("client.registered",))) == 3
    Flow(flow.harness)


@pytest.mark.sqlite
def test_a_long_text_is_not_read(flow: Flow) -> None:
    """Nor is one with many redirects, a long name, or another type."""
    for content, kind, status in (
        (b'{"redirect_uris":["https://app.example/' + b"x" * 20_000 + b'"]}', "application/json", 400),
        (b"redirect_uris=https://app.example/", "application/x-www-form-urlencoded", 400),
        (b"[" * 15_000, "application/json", 400),
    ):
        answer = flow.harness.client.post("/oauth/register", content=content, headers={"Content-Type": kind})
        assert answer.status_code == status, answer.text
    assert all(row.by != "self" for row in flow.harness.mint.db.oauth_clients.list())
