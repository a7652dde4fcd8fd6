# SPDX-License-Identifier: Apache-2.0
"""A stranger must not try links of a sign-in without end, nor use one that was used."""

from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.testclient import TestClient

from arx_caps.mint.rate_limit import RateLimits
from arx_caps.settings.limits import Limits
from tests.console.harness import Browser, link_of
from tests.mint.harness import ISSUER, Harness

pytestmark = pytest.mark.sqlite


def test_links_are_counted_and_used_once(unit: Harness) -> None:
    """The second use is refused; after many tries the address has to wait."""
    secret = parse_qs(urlsplit(link_of(unit.operator())).query)["link"][0]
    first, second = Browser(unit), Browser(unit)
    first.post("/console/open", link=secret)
    assert first.status == 200
    second.post("/console/open", link=secret)
    assert second.status == 401
    # No bucket fills while a test runs.
    unit.mint.limits = RateLimits(Limits(address_burst=3), clock=lambda: 0.0)
    stranger = TestClient(second.client.app, base_url=ISSUER, client=("203.0.113.7", 50000))
    for status in (401, 401, 401, 429):
        answer = stranger.post("/console/open", data={"link": "A" * 43}, headers={"Origin": ISSUER})
        assert answer.status_code == status
