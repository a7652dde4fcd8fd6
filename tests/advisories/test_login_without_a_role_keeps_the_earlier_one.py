# SPDX-License-Identifier: Apache-2.0
"""A person who has left the groups must not keep the rights of an earlier login once a later one has shown it.

The later login was refused, and the claims of the earlier one stayed.
"""

import pytest

from arx_caps.credentials.jose import SigningKey
from tests.mint.harness import Holder
from tests.mint.login import idp  # noqa: F401 - a fixture
from tests.mint.test_operator_login import People, people  # noqa: F401 - a fixture

pytestmark = pytest.mark.sqlite


def test_a_refused_login_takes_the_role_of_the_earlier_one(people: People) -> None:  # noqa: F811
    """The claims of the last login count, also if they give no role."""
    ann = people.log_in("ann", "sre")
    people.issuer.person = {"sub": "ann", "groups": []}
    refused = people.post(Holder(people.harness, SigningKey.generate(), None), people.issuer.id_token())
    assert refused.json()["code"] == "no_role"
    assert ann.call("GET", "/v1/agents").json()["code"] == "no_role"
