# SPDX-License-Identifier: Apache-2.0
"""A mint that ran on after `arx key reseal` deleted tokens that it could not open, and their accounts stayed open."""

import msgspec
import pytest

from arx_caps.mint.connections import connect
from arx_caps.mint.connections.end import drop_abandoned, end_accounts, end_connection
from arx_caps.mint.connections.vault import new_key
from arx_caps.mint.keys.reseal import reseal
from arx_caps.mint.keys.root_keys import RootKeys
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError
from tests.advisories.test_account_left_open_upstream import PAGE, REFRESH, hold
from tests.mint.test_connections import ANN, Accounts, accounts, live_accounts
from tests.servers import until

__all__ = ["accounts", "live_accounts"]
pytestmark = pytest.mark.spec("CONTROL 9.1", "CONTROL 9.4")
REASON = ("operator:test", "a request")


def reseal_keys(accounts: Accounts) -> None:
    """Seal the root keys again, in another process than the mint's."""
    reseal(accounts.mint.realm, passphrase=None, new_passphrase=None)


def start_again(accounts: Accounts) -> None:
    """Have the mint read its keys as at a start."""
    realm = accounts.mint.realm
    accounts.mint.root_keys = RootKeys.load(
        realm.root_path, realm=realm.name, passphrase=None, key_path=realm.root_key_path
    )


@pytest.mark.servers
def test_an_end_kills_and_keeps_the_tokens_until_they_can_be_revoked(live_accounts: Accounts) -> None:
    """The same call ends the connection once the mint was started again."""
    accounts = live_accounts
    row = accounts.add(ANN, "ann-t")
    reseal_keys(accounts)
    with pytest.raises(GrantError, match="start it again"):
        end_connection(accounts.mint, row, *REASON)
    assert accounts.row(row.id).sealed == row.sealed
    assert accounts.mint.epochs.check(row.incarnation, row.born, (f"connection:{row.id}",)) is not None
    start_again(accounts)
    assert end_connection(accounts.mint, row, *REASON)[1]
    assert "canary-refresh-1" not in accounts.tracker.grants


def test_an_erasure_changes_nothing_until_it_can_revoke(accounts: Accounts) -> None:
    """Then it deletes and revokes all."""
    row = accounts.add(ANN, "ann-t")
    reseal_keys(accounts)
    with pytest.raises(GrantError, match="start it again"):
        end_accounts(accounts.mint, ANN, *REASON)
    assert accounts.row(row.id) == row
    start_again(accounts)
    end_accounts(accounts.mint, ANN, *REASON)
    assert accounts.mint.db.connections.find(row.id) is None
    assert "canary-refresh-1" not in accounts.tracker.grants


def test_an_account_that_waits_is_kept_until_it_can_be_revoked(accounts: Accounts) -> None:
    """By the person's no, and by the end of the link."""
    row, db = hold(accounts, "ann-t", 60_000), accounts.mint.db.connections
    reseal_keys(accounts)
    with pytest.raises(GrantError, match="start it again"):
        connect.decline(accounts.mint, PAGE)
    assert db.link(row.digest) == row
    with db._database.write() as c:
        c.exec_driver_sql("UPDATE connection_links SET until = 1")
    drop_abandoned(accounts.mint)
    kept = db.link(row.digest)
    assert kept is not None
    assert kept.sealed == row.sealed
    start_again(accounts)
    db._swept_ms = 0
    drop_abandoned(accounts.mint)
    assert db.link(row.digest) is None
    until(lambda: REFRESH not in accounts.tracker.grants)


def test_a_link_without_an_account_needs_no_key(accounts: Accounts) -> None:
    """No token waits at it: each mint deletes it once it is over."""
    waiting, db = hold(accounts, "ann-t", -1), accounts.mint.db.connections
    unused = msgspec.structs.replace(waiting, digest="unused", cookie=None, account=None, granted=None)
    db.add_link(msgspec.structs.replace(unused, nonce=None, sealed=None), new_key(accounts.mint, ANN, now_ms())[1])
    reseal_keys(accounts)
    drop_abandoned(accounts.mint)
    assert (db.link(unused.digest), db.link(waiting.digest)) == (None, waiting)
