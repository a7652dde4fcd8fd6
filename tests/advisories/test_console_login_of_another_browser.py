# SPDX-License-Identifier: Apache-2.0
"""An attacker must not sign an operator in under the attacker's name, with the attacker's answer of the issuer."""

import httpx
import pytest

from tests.console.harness import Browser
from tests.console.test_login import Realm, realm  # noqa: F401 - a fixture
from tests.mint.harness import ISSUER
from tests.mint.login import idp  # noqa: F401 - a fixture

pytestmark = pytest.mark.sqlite


def test_the_answer_is_for_the_browser_that_began(realm: Realm) -> None:  # noqa: F811
    """Another browser gets no cookie for it, whether it has begun a login of its own or none."""
    attacker, victim = Browser(realm.harness), Browser(realm.harness)
    back = httpx.get(realm.begin(attacker)).headers["location"].removeprefix(ISSUER)
    victim.get(back)
    assert "arx-console" not in victim.client.cookies
    realm.begin(victim)
    victim.get(back)
    assert victim.status == 401
    assert "arx-console" not in victim.client.cookies
