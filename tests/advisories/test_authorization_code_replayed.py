# SPDX-License-Identifier: Apache-2.0
"""An attacker who reads an authorization code must not redeem it, nor keep what it gave.

RFC 6749 4.1.2: the mint cannot know which of two holders is the client, so what the code gave is ended.
"""

from pathlib import Path

import pytest

from tests.mint.harness import open_live
from tests.mint.login import POLICY, Flow, Issuer, settings


@pytest.mark.servers
def test_a_replayed_code_ends_what_it_gave(
    idp: Issuer, tmp_path: Path, valkey: object, realm_name: str, database: str | None
) -> None:
    """The thief or the client: the mint cannot know who came second."""
    policy = POLICY.format(issuer=idp.url)
    url = str(valkey.url)  # type: ignore[attr-defined]
    with open_live(
        tmp_path / "realm", url, name=realm_name, database=database, policy=policy, settings=settings(idp.url)
    ) as live:
        live.enrol()
        flow = Flow(live)
        code = flow.code()
        token = flow.redeem(code).json()["access_token"]
        assert flow.client.active(token)
        assert flow.redeem(code).json()["error"] == "invalid_grant"
        assert not flow.client.active(token)
