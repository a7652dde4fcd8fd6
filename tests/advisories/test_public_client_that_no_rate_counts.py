# SPDX-License-Identifier: Apache-2.0
"""A public OAuth client with one consent could refresh as often as it liked, and fill the mint's tables and its log.

CONTROL 4.5: an agent that proves itself is charged for each call.  A public client proves nothing, so its refresh
tokens are charged, by session: another person's session of the same client or agent is not slower.
"""

import pytest

from arx_caps.limits import Limits
from arx_caps.mint.rate_limit import RateLimits
from tests.mint.login import Flow
from tests.mint.test_registration import SelfRegistered


@pytest.mark.sqlite
def test_a_session_refreshes_as_often_as_an_agent_calls(flow: Flow) -> None:
    """Then it waits, with its refresh token unused; another session does not."""
    mint, now = flow.harness.mint, [0.0]
    flow.client = SelfRegistered(flow.harness)
    token, other = (flow.token()["refresh_token"] for _ in range(2))
    mint.limits = RateLimits(Limits(agent_rate=1, agent_burst=3), lambda: now[0])
    for _ in range(3):
        token = flow.refresh(token).json()["refresh_token"]
    refused = flow.refresh(token)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert flow.refresh(other).status_code == 200
    now[0] += 1
    assert flow.refresh(token).status_code == 200
