# SPDX-License-Identifier: Apache-2.0
"""A person's connection ended, or was unclear, where the issuer did nothing wrong, or nothing was sent to it.

Three kinds were: an issuer without refresh tokens, an answer whose time cannot be read, and a place that was not free.
"""

import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from arx_caps.mint.connections.account_issuer import AccountIssuer, IssuedTokens, issuer_of
from arx_caps.mint.connections.vault import HeldAccess, HeldTokens, TokenSeal
from arx_caps.mint.login.issuer_client import MOST_WAITING, IssuerBusyError
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError, UnavailableError
from tests.mint.issuer import segment
from tests.mint.test_connections import ANN, Accounts, accounts

__all__ = ["accounts"]
pytestmark = pytest.mark.spec("CONTROL 9.2", "CONTROL 9.3")
SECRET = b"s" * 32


def test_an_issuer_without_refresh_tokens_lends_the_token_that_it_gave(accounts: Accounts) -> None:
    """For each of its scopes, since nothing lowers them; what is lent has the scopes that it has."""
    row, both = accounts.add(ANN, "ann-t"), ("repo.read", "repo.write")
    given = HeldAccess("canary-access", now_ms() + 300_000, both)
    held = HeldTokens(access={" ".join(both): given})
    seal = TokenSeal(accounts.mint, row, held)(accounts.mint.db.connections.person_key(ANN))
    assert accounts.token(msgspec.structs.replace(row, **seal)) == given
    assert accounts.token(msgspec.structs.replace(row, **seal), "repo.write") == given


@pytest.mark.parametrize("lasts", ["inf", "nan", None, [], -5, "1e400"])
def test_a_time_that_cannot_be_read_loses_no_refresh_token(accounts: Accounts, lasts: Any) -> None:
    """The one before is used up: the new one is stored, whatever else the answer has."""
    row, tracker = accounts.add(ANN, "ann-t"), accounts.tracker
    issue = tracker.issue
    tracker.issue = lambda form: (200, {**issue(form)[1], "expires_in": lasts, "id_token": 5})  # type: ignore[method-assign]
    assert accounts.token(row) is not None
    tracker.issue = issue  # type: ignore[method-assign]
    assert accounts.token(accounts.row(row.id), "repo.write") is not None
    assert (tracker.refreshes, accounts.row(row.id).refresher) == (2, None)


def test_a_call_without_a_place_waits_and_leaves_the_connection_clear(accounts: Accounts) -> None:
    """With eight calls at the issuer the ninth is asked to come again; nothing was sent for it."""
    row, issuer = accounts.add(ANN, "ann-t"), issuer_of(accounts.mint, "tracker")
    ready, over = threading.Barrier(MOST_WAITING + 1), threading.Event()

    def hold() -> None:
        with issuer.place():
            ready.wait()
            over.wait()

    several = [threading.Thread(target=hold) for _ in range(MOST_WAITING)]
    for each in several:
        each.start()
    try:
        ready.wait()
        assert accounts.token(row) is None
        with pytest.raises(IssuerBusyError), issuer.place():
            pass
    finally:
        over.set()
        for each in several:
            each.join()
    assert (accounts.tracker.refreshes, accounts.row(row.id).refresher) == (0, None)
    assert accounts.token(accounts.row(row.id)) is not None


def test_metadata_that_cannot_be_read_leave_the_connection_clear(accounts: Accounts) -> None:
    """They are read before the refresh begins, so that the time of its lock is the refresh's own."""
    row = accounts.add(ANN, "ann-t")
    accounts.tracker.metadata = {"issuer": "https://other.example"}
    with pytest.raises(UnavailableError, match="name another issuer"):
        accounts.token(row)
    assert (accounts.tracker.refreshes, accounts.row(row.id).refresher) == (0, None)


def test_what_the_issuer_gives_is_what_is_recorded(accounts: Accounts) -> None:
    """A token of more scopes than were asked for is not kept as one of these alone, nor one of fewer as one of all."""
    row, tracker = accounts.add(ANN, "ann-t"), accounts.tracker
    issue = tracker.issue
    for scope, scopes in (("admin repo.read", ("admin", "repo.read")), ("", ())):
        tracker.issue = lambda form, scope=scope: (200, {**issue(form)[1], "scope": scope})  # type: ignore[misc]
        found = accounts.token(accounts.row(row.id), "repo.read" if scope else "repo.write")
        assert found is not None
        assert found.scopes == scopes


@pytest.mark.parametrize("claims", [{}, {"sub": None}, {"sub": 5}])
def test_an_id_token_without_an_account_is_refused(accounts: Accounts, tmp_path: Path, claims: dict[str, Any]) -> None:
    """It was an error of the mint, which has no answer for the person's browser."""
    terms = accounts.mint.realm.connection["tracker"]
    issuer = AccountIssuer(accounts.mint.realm, "tracker", terms)
    about = {"iss": terms.issuer, "aud": terms.client_id, "exp": now_ms() // 1000 + 60, **claims}
    tokens = IssuedTokens("canary-access", "Bearer", id_token=f"{segment({})}.{segment(about)}.x")
    with pytest.raises(GrantError, match="names no account"):
        issuer.account(SECRET, tokens)
