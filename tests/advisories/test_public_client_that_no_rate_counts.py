# SPDX-License-Identifier: Apache-2.0
"""A public OAuth client with one consent could refresh as often as it liked, and fill the mint's tables and its log.

CONTROL 4.5: an agent that proves itself is charged for each call.  A public client proves nothing, so the person whose
refresh token it has is charged: an attacker has one more client at will, but not one more person.
"""

import pytest

from arx_caps.mint.rate_limit import RateLimits
from arx_caps.settings.limits import Limits
from tests.mint.login import Flow, Issuer
from tests.mint.test_registration import SelfRegistered


@pytest.mark.sqlite
def test_a_person_refreshes_as_often_as_an_agent_calls(flow: Flow, idp: Issuer) -> None:
    """Then all clients of the person wait, with their refresh tokens unused; those of another person do not."""
    flows = [Flow(flow.harness, SelfRegistered(flow.harness)) for _ in range(3)]
    tokens = []
    for each, person in zip(flows, ("ann", "ann", "bob"), strict=True):
        idp.person["sub"] = person
        tokens.append(each.token()["refresh_token"])
    now = [0.0]
    flow.harness.mint.limits = RateLimits(Limits(agent_rate=1, agent_burst=3), lambda: now[0])
    for _ in range(3):
        tokens[0] = flows[0].refresh(tokens[0]).json()["refresh_token"]
    answers = [each.refresh(token) for each, token in zip(flows, tokens, strict=True)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "1"
    now[0] += 1
    assert flows[1].refresh(tokens[1]).status_code == 200
