# SPDX-License-Identifier: Apache-2.0
"""An attacker in the mint's database could send a refresh token to an issuer that `realm.toml` names since."""

from dataclasses import replace

import msgspec
import pytest
from sqlalchemy import update

from arx_caps.mint.connections.account_issuer import issuer_of
from arx_caps.mint.connections.end import end_connection
from arx_caps.mint.connections.lend import _token_of
from arx_caps.mint.db.tables import CONNECTIONS
from arx_verifier.errors import SettingsError
from tests.gateway.people import Tracker
from tests.mint.issuer import served
from tests.mint.test_connections import ANN, Accounts, live_accounts

__all__ = ["live_accounts"]
pytestmark = pytest.mark.spec("CONTROL 9.1")


@pytest.mark.servers
def test_a_row_with_another_issuer_opens_no_token(live_accounts: Accounts) -> None:
    """Neither for a refresh nor to be revoked: the other issuer gets none."""
    accounts = live_accounts
    row, other = accounts.add(ANN, "ann-t"), Tracker()
    revoked: list[str] = []
    other.revoke = revoked.append  # type: ignore[method-assign]
    with served(other.server):
        terms = msgspec.structs.replace(accounts.mint.realm.connection["tracker"], issuer=other.url)
        accounts.mint.realm = replace(accounts.mint.realm, connection={"tracker": terms})
        with accounts.mint.db.connections._database.write() as c:
            c.execute(update(CONNECTIONS).where(CONNECTIONS.c.id == row.id).values(issuer=other.url))
        moved, issuer = accounts.row(row.id), issuer_of(accounts.mint, "tracker")
        assert (moved.issuer, issuer.read_metadata().issuer) == (other.url, other.url)
        with pytest.raises(SettingsError, match="do not open"):
            _token_of(accounts.mint, issuer, moved, "repo.read", "")
        assert not end_connection(accounts.mint, moved, "operator:test", "a request")[1]
    assert (other.refreshes, revoked) == (0, [])
