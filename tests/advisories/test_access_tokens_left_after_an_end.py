# SPDX-License-Identifier: Apache-2.0
"""Access tokens of an account that was ended lived on at an issuer that ends a grant's refresh token alone."""

import pytest

from arx_caps.mint.connections.end import end_connection
from tests.gateway.people import CLIENT, SECRET
from tests.mint.test_connections import ANN, Accounts, live_accounts

__all__ = ["live_accounts"]
pytestmark = pytest.mark.spec("CONTROL 9.4")


@pytest.mark.servers
def test_the_end_of_an_account_revokes_each_token_that_the_mint_has(
    live_accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 7009 2.1 lets an issuer keep the access tokens; a refusal to revoke one is no refusal of the rest."""
    accounts = live_accounts
    row, tracker = accounts.add(ANN, "ann-t"), accounts.tracker
    assert accounts.token(row) is not None
    assert accounts.token(accounts.row(row.id), "repo.read repo.write") is not None
    live = set(tracker.tokens)
    revoked: list[str] = []
    monkeypatch.setattr(tracker, "revoke", revoked.append)  # and no other one
    assert end_connection(accounts.mint, accounts.row(row.id), "operator:test", "a request")[1]
    [refresh] = [token for token, grant in tracker.grants.items() if grant is not None]
    assert revoked[0] == refresh
    assert set(revoked[1:]) == live
    assert (len(live), CLIENT in revoked, SECRET in revoked) == (2, False, False)
