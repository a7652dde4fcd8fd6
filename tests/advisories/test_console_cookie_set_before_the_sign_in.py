# SPDX-License-Identifier: Apache-2.0
"""An attacker who sets a cookie in an operator's browser must not have the session that begins there."""

import pytest

from tests.console.harness import Browser
from tests.console.test_login import Realm, realm  # noqa: F401 - a fixture
from tests.mint.login import idp  # noqa: F401 - a fixture

pytestmark = pytest.mark.sqlite


def test_a_sign_in_has_a_secret_of_its_own(realm: Realm) -> None:  # noqa: F811
    """The browser's cookie from before is replaced, and opens nothing afterwards."""
    browser, attacker = Browser(realm.harness), Browser(realm.harness)
    fixed = "A" * 43
    for each in (browser, attacker):
        each.client.cookies.set("arx-console", fixed, domain="127.0.0.1", path="/")
    realm.log_in(browser)
    secrets = [cookie.value for cookie in browser.client.cookies.jar if cookie.name == "arx-console"]
    assert any(secret != fixed for secret in secrets)
    assert "Sign in at" in attacker.get("/console/now")
