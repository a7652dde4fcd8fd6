# SPDX-License-Identifier: Apache-2.0
"""An account that was replaced, abandoned or erased stayed open at its issuer, whose tokens the mint had forgotten."""

import os
from typing import Any

import msgspec
import pytest

from arx_caps.mint.connections import connect
from arx_caps.mint.connections.account_issuer import IssuedTokens, issuer_of
from arx_caps.mint.connections.end import drop_abandoned, end_accounts
from arx_caps.mint.connections.vault import HeldTokens, TokenSeal, new_key, open_tokens
from arx_caps.mint.db.tables import LinkRow
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError, SettingsError, UnavailableError
from tests.mint.test_connections import ANN, Accounts, accounts, link_row, live_accounts
from tests.servers import until

__all__ = ["accounts", "live_accounts"]
pytestmark = pytest.mark.spec("CONTROL 9.2", "CONTROL 9.4")
PAGE = b"p" * 32
REFRESH = "canary-refresh-of-a-page"


def hold(accounts: Accounts, account: str, until_ms: int = 60_000, **about: Any) -> LinkRow:
    """Have an account wait for the word of Ann, and return its link's row."""
    born = accounts.mint.kills.born()
    terms = {"scopes": ("repo.read",), "until": now_ms() + until_ms, "cookie": connect.digest_of(PAGE)}
    link = link_row(connect.digest_of(os.urandom(32)), ANN, born, **terms)
    db = accounts.mint.db.connections
    db.add_link(link, new_key(accounts.mint, ANN, now_ms())[1])
    accounts.tracker.grants[REFRESH] = (account, "repo.read")
    held = HeldTokens(refresh=REFRESH, account=account, shown=account)
    granted = {"scopes": ["repo.read"], "issuer": accounts.tracker.url, **about}
    waits = msgspec.structs.replace(link, account=account, granted=granted)
    assert db.hold(waits, TokenSeal(accounts.mint, waits, held))
    found = db.link(link.digest)
    assert found is not None
    return found


@pytest.mark.servers
def test_an_account_that_another_one_replaces_is_revoked(live_accounts: Accounts) -> None:
    """The same account is not: an issuer may end all grants of one account, and so the new one."""
    accounts, tracker = live_accounts, live_accounts.tracker
    accounts.add(ANN, "ann-old")
    hold(accounts, "ann-new")
    connect.connect(accounts.mint, PAGE)
    assert "canary-refresh-1" not in tracker.grants
    tracker.grants["canary-refresh-9"] = ("ann-new", "repo.read")
    hold(accounts, "ann-new")
    connect.connect(accounts.mint, PAGE)
    assert "canary-refresh-9" in tracker.grants


def test_an_account_of_an_issuer_that_the_settings_named_before_is_not_stored(accounts: Accounts) -> None:
    """Nor do its tokens go to the issuer that they name now."""
    hold(accounts, "ann-t", issuer="https://before.example")
    with pytest.raises(GrantError, match="have changed"):
        connect.connect(accounts.mint, PAGE)
    connect.decline(accounts.mint, PAGE)
    assert REFRESH in accounts.tracker.grants


def test_a_page_without_an_answer_is_revoked(accounts: Accounts) -> None:
    """Once its link is over; a link that is not, stays."""
    row = hold(accounts, "ann-t", -1)
    drop_abandoned(accounts.mint)
    assert accounts.mint.db.connections.link(row.digest) is None
    until(lambda: REFRESH not in accounts.tracker.grants)
    accounts.mint.db.connections._swept_ms = 0
    hold(accounts, "ann-t")
    drop_abandoned(accounts.mint)
    assert connect.find_held(accounts.mint, PAGE)[1].shown == "ann-t"


def test_a_page_is_over_before_the_issuer_answers(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the issuer then gives is revoked: no row has it."""
    row = hold(accounts, "ann-t")
    issuer = issuer_of(accounts.mint, "tracker")
    tokens = IssuedTokens("canary-access", "Bearer", REFRESH)
    accounts.tracker.tokens["canary-access"] = ("ann-t", "repo.read", 2.0**62)
    monkeypatch.setattr(issuer, "read_answer", lambda *_: ("c", ""))
    monkeypatch.setattr(issuer, "redeem", lambda *_: tokens)
    assert REFRESH in accounts.tracker.grants
    with pytest.raises(GrantError, match="begun no connection"):
        connect.take_answer(accounts.mint, PAGE, row.name, {"code": "c"})
    assert REFRESH not in accounts.tracker.grants


@pytest.mark.spec("LOG 1.9")
def test_an_erasure_revokes_what_waits_and_what_comes_meanwhile(accounts: Accounts) -> None:
    """The page of before connects nothing, and a refresh that ends later is revoked and brings no key back."""
    row = accounts.add(ANN, "ann-t")
    waiting = hold(accounts, "ann-waiting")
    issue = accounts.tracker.issue

    def erased_meanwhile(form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        answer = issue(form)
        end_accounts(accounts.mint, ANN, "operator:test", "a request")
        return answer

    accounts.tracker.issue = erased_meanwhile  # type: ignore[method-assign]
    with pytest.raises(UnavailableError, match="changed meanwhile"):
        accounts.token(row)
    db = accounts.mint.db.connections
    assert (db.find(row.id), db.person_key(ANN), db.link(waiting.digest)) == (None, None, None)
    assert not any(accounts.tracker.grants.values())
    with pytest.raises(ArxError):
        connect.connect(accounts.mint, PAGE)
    with pytest.raises(SettingsError, match="key is gone"):
        accounts.mint.db.connections.refreshed(row, "x", TokenSeal(accounts.mint, row, HeldTokens(refresh="x")))


def test_ended_connections_are_forgotten_in_time(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who connects each day would fill the database; an open connection stays."""
    ended, kept = accounts.add(ANN, "ann-old"), accounts.add(ANN, "ann-new")
    monkeypatch.setattr("arx_caps.mint.db.repositories.oauth.connections.KEPT_MS", -1000)
    drop_abandoned(accounts.mint)
    assert accounts.mint.db.connections.find(ended.id) is None
    assert open_tokens(accounts.mint, accounts.row(kept.id)).refresh == "canary-refresh-2"
