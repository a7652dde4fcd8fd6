# SPDX-License-Identifier: Apache-2.0
"""`arx key reseal` while a refresh ran: the mint could not seal what the issuer gave, revoked it, and lost the account.

A mint has the seals of its start: it opened the person's key before the refresh, and again after it.
"""

import pytest

from arx_caps.mint.connections.vault import open_tokens
from arx_caps.mint.keys.reseal import reseal
from arx_caps.mint.keys.root_keys import RootKeys
from tests.mint.test_connections import ANN, Accounts, accounts
from tests.mint.test_person_keys import during_refreshes

__all__ = ["accounts"]
pytestmark = pytest.mark.spec("CONTROL 9.1", "CONTROL 9.3")


def test_a_reseal_while_a_refresh_runs_loses_no_account(accounts: Accounts) -> None:
    """The mint that starts after it opens the tokens that the issuer gave meanwhile."""
    row, realm, tracker = accounts.add(ANN, "ann-t"), accounts.mint.realm, accounts.tracker
    during_refreshes(accounts, lambda: reseal(realm, passphrase=None, new_passphrase=None))
    assert accounts.token(row) is not None
    accounts.mint.root_keys = RootKeys.load(
        realm.root_path, realm=realm.name, passphrase=None, key_path=realm.root_key_path
    )
    again = accounts.row(row["id"])
    assert again["refresher"] is None
    assert tracker.grants[str(open_tokens(accounts.mint, again).refresh)] is not None
