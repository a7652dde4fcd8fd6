# SPDX-License-Identifier: Apache-2.0
"""A person at an absent operator's screen must not approve calls, lift freezes or load policies."""

import pytest

from tests.console.test_login import Realm, old_sign_in, realm  # noqa: F401 - a fixture
from tests.mint.login import idp  # noqa: F401 - a fixture
from tests.mint.test_operators import decided

pytestmark = pytest.mark.sqlite


def test_an_old_sign_in_grants_nothing(realm: Realm) -> None:  # noqa: F811
    """Each such act asks to sign in again, whichever page its form is on."""
    browser = old_sign_in(realm)
    browser.get("/console/now")
    page = browser.post("/console/approvals/a-0123456789abcdef", outcome="approve")
    assert "needs a recent sign-in" in page
    assert decided(realm.harness, "corp.ann")[-1].code == "sign_in_again"
