# SPDX-License-Identifier: Apache-2.0
"""A token or an answer of another issuer, client or login must not connect an account.

An attacker who has people log in elsewhere could have an agent act with the attacker's account (RFC 9700 4.4, 4.5).
"""

from typing import Any

import pytest

from arx_caps.mint.connections import connect
from arx_caps.mint.connections.account_issuer import IssuedTokens, issuer_of
from arx_caps.mint.login.issuer_client import derived
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError
from tests.advisories.test_account_left_open_upstream import PAGE, hold
from tests.gateway.people import CLIENT
from tests.mint.issuer import segment
from tests.mint.test_connections import Accounts, accounts

__all__ = ["accounts"]
pytestmark = [pytest.mark.spec("CONTROL 9.2"), pytest.mark.sqlite]
SECRET = b"s" * 32


def account(accounts: Accounts, **claims: Any) -> tuple[str, str]:
    """Return the account that an ID token with these claims is of."""
    issuer = issuer_of(accounts.mint, "tracker")
    about = {"iss": issuer.issuer, "aud": CLIENT, "exp": now_ms() // 1000 + 60, "sub": "ann-t"}
    about |= {"nonce": derived(SECRET, "nonce"), **claims}
    return issuer.account(SECRET, IssuedTokens("access", "Bearer", id_token=f"{segment({})}.{segment(about)}.x"))


def test_an_id_token_is_of_this_issuer_client_and_login(accounts: Accounts) -> None:
    """And has not expired; one that is right names the account."""
    assert account(accounts, azp=CLIENT) == account(accounts, aud=["other", CLIENT]) == ("ann-t", "ann-t")
    for claims, says in (
        ({"iss": "https://other.example"}, "of another issuer, or for another client"),
        ({"aud": "other"}, "of another issuer, or for another client"),
        ({"aud": ["other"]}, "of another issuer, or for another client"),
        ({"azp": "other"}, "of another login"),
        ({"nonce": derived(b"t" * 32, "nonce")}, "of another login"),
        ({"nonce": None}, "of another login"),
        ({"exp": now_ms() // 1000 - 1}, "has expired"),
        ({"exp": None}, "has expired"),
    ):
        with pytest.raises(GrantError, match=says):
            account(accounts, **claims)


def test_userinfo_is_of_the_account_of_the_id_token(accounts: Accounts) -> None:
    """An access token that was put in the place of the person's own has another owner."""
    accounts.tracker.tokens["access"] = ("mallory-t", "repo.read", 2.0**62)
    with pytest.raises(GrantError, match="of another account than the ID token"):
        account(accounts)


def test_an_answer_comes_to_its_own_connection(accounts: Accounts) -> None:
    """A code of one issuer is not redeemed at another one, whose redirect URI is another."""
    hold(accounts, "ann-t")
    with pytest.raises(GrantError, match="for another connection"):
        connect.take_answer(accounts.mint, PAGE, "other", {"code": "c", "state": derived(PAGE, "state")})


def test_an_answer_for_another_attempt_costs_no_request(accounts: Accounts) -> None:
    """It is refused before the issuer is asked for its metadata."""
    accounts.tracker.metadata = {"issuer": "https://other.example"}
    with pytest.raises(GrantError, match="for another attempt"):
        issuer_of(accounts.mint, "tracker").read_answer(SECRET, {"code": "c", "state": derived(b"t" * 32, "state")})
