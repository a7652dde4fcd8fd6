# SPDX-License-Identifier: Apache-2.0
"""A link to the console's login must not lead an operator to an attacker's page after the login."""

import pytest

from tests.console.harness import Browser
from tests.console.test_login import Realm, realm  # noqa: F401 - a fixture
from tests.mint.login import idp  # noqa: F401 - a fixture

pytestmark = pytest.mark.sqlite


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "https://evil.example/",
        "/\\evil.example",
        "/console/\\..",
        "/console/a\nb",
        "javascript:x",
        "/v1",
    ],
)
def test_the_login_leads_to_a_page_of_the_console(realm: Realm, path: str) -> None:  # noqa: F811
    """Any other address becomes the first page."""
    assert 'content="0; url=/console/home"' in realm.log_in(Browser(realm.harness), next=path)
