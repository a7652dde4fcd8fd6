# SPDX-License-Identifier: Apache-2.0
"""An attacker who copies a refresh token must not go on with a person's session beside the client (RFC 9700 4.14)."""

from pathlib import Path

import pytest

from tests.mint.harness import open_live
from tests.mint.login import POLICY, Flow, Issuer, settings


@pytest.mark.slow
@pytest.mark.servers
def test_a_refresh_token_that_comes_again_ends_the_session(
    idp: Issuer, tmp_path: Path, valkey: object, realm_name: str, database: str | None
) -> None:
    """After the second use, by the client or the thief, neither has an access token any more."""
    url, policy = str(valkey.url), POLICY.format(issuer=idp.url)  # type: ignore[attr-defined]
    with open_live(
        tmp_path / "realm", url, name=realm_name, database=database, policy=policy, settings=settings(idp.url)
    ) as live:
        live.enrol()
        flow = Flow(live)
        first = flow.token()["refresh_token"]
        second = flow.refresh(first).json()
        third = flow.refresh(second["refresh_token"]).json()
        assert flow.client.active(third["access_token"])
        assert flow.refresh(first).json()["error"] == "invalid_grant"
        assert not flow.client.active(third["access_token"])
        assert flow.refresh(third["refresh_token"]).json()["error"] == "invalid_grant"
        # A repeat of the last use, as after a lost answer: what the first answer gave is ended at once, and when its
        # holder goes on, so is the rest.
        last = flow.token()["refresh_token"]
        one, other = (flow.refresh(last).json() for _ in range(2))
        assert not flow.client.active(one["access_token"])
        assert flow.refresh(one["refresh_token"]).json()["error"] == "invalid_grant"
        assert not flow.client.active(other["access_token"])
        assert flow.refresh(other["refresh_token"]).json()["error"] == "invalid_grant"
        # The client ends a session by the refresh token as well.
        third = flow.token()
        assert flow.client.post("/oauth/revoke", token=third["refresh_token"]).json() == {}
        assert not flow.client.active(third["access_token"])
        assert flow.refresh(third["refresh_token"]).json()["error"] == "invalid_grant"
