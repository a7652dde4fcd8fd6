# SPDX-License-Identifier: Apache-2.0
"""`arx key reseal` while a refresh ran: the mint could not seal what the issuer gave, revoked it, and lost the account.

A mint has the seals of its start: it opened the person's key before the refresh, and again after it.  If another mint
was started again meanwhile and rotated the key, it could not open that one.
"""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from arx_caps.mint.connections import vault
from arx_caps.mint.connections.vault import open_tokens, rotate_key
from arx_caps.mint.keys.reseal import reseal
from arx_caps.mint.keys.root_keys import RootKeys
from tests.mint.harness import local_mint
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
    again = accounts.row(row.id)
    assert again.refresher is None
    assert tracker.grants[str(open_tokens(accounts.mint, again).refresh)] is not None


def test_a_rotation_after_a_reseal_waits_for_a_refresh(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a mint that was not started again: it seals with the person's key of before, and the rotation seals anew."""
    row, realm, rotations, goes_on = (
        accounts.add(ANN, "ann-t"),
        accounts.mint.realm,
        list[Future[bool]](),
        threading.Event(),
    )

    def sleep(seconds: float) -> None:
        goes_on.set()
        time.sleep(seconds)

    monkeypatch.setattr(vault, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))

    def reseal_and_rotate() -> None:
        reseal(realm, passphrase=None, new_passphrase=None)
        again.append(local_mint(realm))
        rotations.append(pool.submit(rotate_key, again[0], ANN, "operator:test"))
        rotations[0].add_done_callback(lambda _: goes_on.set())
        assert goes_on.wait(60)

    again = []
    with ThreadPoolExecutor(1) as pool:
        during_refreshes(accounts, reseal_and_rotate)
        assert accounts.token(row) is not None
        assert rotations[0].result(60)
    found = open_tokens(again[0], accounts.row(row.id))
    assert accounts.tracker.grants[str(found.refresh)] is not None
