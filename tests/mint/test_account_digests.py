# SPDX-License-Identifier: Apache-2.0
"""Accounts as digests: neither database nor log has their names; the person's own pages have."""

import os
from dataclasses import replace

import msgspec
import pytest

from arx_caps.mint.api.routes.oauth.connect import _show_own
from arx_caps.mint.connections import connect
from arx_caps.mint.connections.account_issuer import IssuedTokens, issuer_of
from arx_caps.mint.connections.vault import new_key
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError
from tests.mint.test_connections import ANN, BOB, Accounts, accounts, link_row

__all__ = ["accounts"]
pytestmark = pytest.mark.spec("CONTROL 9.1", "CONTROL 9.2")
NAME = "canary-account"


def set_form(accounts: Accounts, form: str) -> None:
    """Have accounts written as ``name`` or ``digest`` from now on."""
    mint = accounts.mint
    terms = msgspec.structs.replace(mint.realm.connection["tracker"], account=form)
    mint.realm = replace(mint.realm, connection={"tracker": terms})
    mint.account_issuers.clear()


def wait(accounts: Accounts, subject: str, account: str = NAME) -> bytes:
    """Have an account that the issuer names wait for its person; return the secret of the browser."""
    mint, page, token = accounts.mint, os.urandom(32), f"access-{os.urandom(8).hex()}"
    born = mint.kills.born()
    digest, cookie = connect.digest_of(os.urandom(32)), connect.digest_of(page)
    link = link_row(digest, subject, born, scopes=("repo.read",), cookie=cookie)
    mint.db.connections.add_link(link, new_key(mint, subject, now_ms())[1])
    accounts.tracker.tokens[token] = (account, "repo.read", 2.0**62)
    accounts.tracker.grants[f"refresh-{token}"] = (account, "repo.read")
    row = connect._row_of(mint, page)
    assert connect._hold(mint, issuer_of(mint, "tracker"), row, page, IssuedTokens(token, "Bearer", f"refresh-{token}"))
    return page


def test_only_the_persons_pages_have_the_name(accounts: Accounts) -> None:
    """Also after a refresh, which seals the tokens anew, and in no row, event or file of the database."""
    set_form(accounts, "digest")
    mint, page = accounts.mint, wait(accounts, ANN)
    assert connect.find_held(mint, page)[1].account == NAME
    row = accounts.row(connect.connect(mint, page))
    assert row.account.startswith("account:")
    for scopes in ("repo.read", "repo.write"):
        accounts.tracker.grants = {
            each: found and (NAME, "repo.read repo.write") for each, found in accounts.tracker.grants.items()
        }
        assert accounts.token(accounts.row(row.id), scopes) is not None
        assert _show_own(mint, accounts.row(row.id)).account == NAME
    for file in mint.realm.folder.rglob("*.db*"):
        assert NAME.encode() not in file.read_bytes(), file
    mint.db.connections.end(row.id, "operator", connect.Event.of("connection.ended", "mint"))
    assert _show_own(mint, accounts.row(row.id)).account == row.account


@pytest.mark.parametrize(("before", "after"), [("digest", "digest"), ("name", "digest"), ("digest", "name")])
def test_an_account_has_one_person_in_both_forms(accounts: Accounts, before: str, after: str) -> None:
    """Also if the setting was changed between; the person's own account is connected again."""
    set_form(accounts, before)
    first = connect.connect(accounts.mint, wait(accounts, ANN))
    set_form(accounts, after)
    page = wait(accounts, BOB)
    with pytest.raises(GrantError, match="another person"):
        connect.connect(accounts.mint, page)
    assert accounts.row(first).status == "open"


def test_digests_differ_by_realm_and_issuer(accounts: Accounts) -> None:
    """So that records of two realms do not show that one person acts in both."""
    issuer, mint = accounts.tracker.url, accounts.mint
    digest = connect._digest_account(mint, issuer, NAME)
    assert len(digest) == len("account:") + 32
    assert digest != connect._digest_account(mint, f"{issuer}/", NAME)
    mint.realm = replace(mint.realm, name="other")
    assert digest != connect._digest_account(mint, issuer, NAME)
