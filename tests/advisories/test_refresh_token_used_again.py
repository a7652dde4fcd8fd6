# SPDX-License-Identifier: Apache-2.0
"""An attacker who copies a refresh token must not go on with a person's session beside the client (RFC 9700 4.14)."""

from pathlib import Path

import pytest

from tests.mint.harness import open_live
from tests.mint.login import POLICY, Flow, Issuer, settings


@pytest.mark.servers
def test_a_refresh_token_that_comes_again_ends_the_session(
    idp: Issuer, tmp_path: Path, valkey: object, realm_name: str, database: str | None
) -> None:
    """Whoever comes second, the client or the thief: neither has an access token any more."""
    url, policy = str(valkey.url), POLICY.format(issuer=idp.url)  # type: ignore[attr-defined]
    with open_live(
        tmp_path / "realm", url, name=realm_name, database=database, policy=policy, settings=settings(idp.url)
    ) as live:
        live.enrol()
        flow = Flow(live)
        first = flow.token()["refresh_token"]
        second = flow.refresh(first).json()
        assert flow.client.active(second["access_token"])
        assert flow.refresh(first).json()["error"] == "invalid_grant"
        assert not flow.client.active(second["access_token"])
        assert flow.refresh(second["refresh_token"]).json()["error"] == "invalid_grant"
        # The client ends a session by the refresh token as well.
        third = flow.token()
        assert flow.client.post("/oauth/revoke", token=third["refresh_token"]).json() == {}
        assert not flow.client.active(third["access_token"])
        assert flow.refresh(third["refresh_token"]).json()["error"] == "invalid_grant"
