# SPDX-License-Identifier: Apache-2.0
"""Another site must not frame the console, and a request must not make it name another host."""

import pytest

from tests.console.harness import sign_in
from tests.mint.harness import Harness

pytestmark = pytest.mark.sqlite


def test_pages_are_framed_by_none_and_name_no_host(unit: Harness) -> None:
    """Each page forbids frames; addresses in it, and redirects, have no host at all."""
    browser = sign_in(unit)
    answer = browser.client.get("/console/now", headers={"Host": "evil.example"}, follow_redirects=False)
    assert "evil.example" not in answer.text + str(answer.headers)
    answer = browser.client.get("/console", headers={"Host": "evil.example"}, follow_redirects=False)
    assert answer.headers["location"].startswith("/console/")
    for path in ("/console/now", "/console/sign-in", "/console/absent"):
        headers = browser.client.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
