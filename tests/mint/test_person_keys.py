# SPDX-License-Identifier: Apache-2.0
"""People's keys are rotated: every account goes on, with refreshes, links and deaths between; old seals open none."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from arx_caps.mint.connections.connect import digest_of
from arx_caps.mint.connections.vault import (
    HeldTokens,
    PersonKey,
    TokenSeal,
    new_key,
    open_key,
    open_tokens,
    rotate_key,
)
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.oauth.connections import ACCOUNTS_LOCK, MOST_LINKS
from arx_verifier.clock import now_ms
from arx_verifier.errors import SettingsError
from tests.cli.test_doctor_connections import found
from tests.gateway.people import SECRET
from tests.mint.dying import SHORT_LEASE, Crasher, at_every_step, count, crasher
from tests.mint.harness import Harness
from tests.mint.test_connections import ANN, BOB, Accounts, accounts, connection_row, link_row

__all__ = ["accounts", "crasher"]
pytestmark = pytest.mark.spec("CONTROL 9.1")


def key_of(accounts: Accounts, subject: str) -> PersonKey:
    return open_key(accounts.mint, accounts.mint.db.connections.person_key(subject))


def test_a_rotation_seals_all_that_a_person_has(accounts: Accounts) -> None:
    """Connections and an account that waits for the person; the key before opens none of them."""
    row, other = accounts.add(ANN, "ann-t"), accounts.add(BOB, "bob-t")
    link = link_row("d" * 64, ANN, cookie=digest_of(b"page"))
    db = accounts.mint.db.connections
    db.add_link(link, new_key(accounts.mint, ANN, now_ms())[1])
    waits = msgspec.structs.replace(link, account="new", granted={})
    assert db.hold(waits, TokenSeal(accounts.mint, waits, HeldTokens(refresh="waits")))
    before = key_of(accounts, ANN)
    assert rotate_key(accounts.mint, ANN, "operator:test")
    assert key_of(accounts, ANN).secret != before.secret
    again, held = accounts.row(row.id), db.link(link.digest)
    assert held is not None
    for sealed, refresh in ((again, "canary-refresh-1"), (held, "waits")):
        assert open_tokens(accounts.mint, sealed).refresh == refresh
        with pytest.raises(SettingsError, match="do not open"):
            open_tokens(accounts.mint, sealed, before)
    assert accounts.row(other.id).sealed == other.sealed
    assert not rotate_key(accounts.mint, "subject:unknown", "operator:test")


def during_refreshes(accounts: Accounts, act: Callable[[], Any]) -> None:
    """Have something happen after the issuer has answered, and before the mint stores the answer."""
    issue = accounts.tracker.issue

    def issued(form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        answer = issue(form)
        act()
        return answer

    accounts.tracker.issue = issued  # type: ignore[method-assign]


def test_a_rotation_waits_for_a_refresh(accounts: Accounts) -> None:
    """What the refresh gave is sealed with the key of before; of a mint that died, the rotation waits for no answer."""
    row, db, rotations = accounts.add(ANN, "ann-t"), accounts.mint.db.connections, list[Future[bool]]()
    with ThreadPoolExecutor(1) as pool:
        rotate = (rotate_key, accounts.mint, ANN, "operator:test")
        during_refreshes(accounts, lambda: rotations.append(pool.submit(*rotate)))
        for scopes in ("repo.read", "repo.write"):
            assert accounts.token(accounts.row(row.id), scopes) is not None
        assert all(each.result(60) for each in rotations)
    assert db.lock(row.id, "dead", now_ms() - 1)
    assert rotate_key(accounts.mint, ANN, "operator:test")
    assert len(rotations) == 2
    assert accounts.tracker.refreshes == 2
    assert open_tokens(accounts.mint, accounts.row(row.id)).refresh in accounts.tracker.grants


def test_calls_go_on_while_keys_are_rotated(accounts: Accounts) -> None:
    """Each call reads a row and a key, and a rotation may come between; none is refused, and no token is lost."""
    row = accounts.add(ANN, "ann-t")
    assert rotate_key(accounts.mint, ANN, "operator:test")
    assert accounts.token(row) is not None  # the row of before the rotation

    def ask(_: int) -> None:
        found = accounts.token(accounts.row(row.id))
        assert found is not None
        assert found.token in accounts.tracker.tokens

    with ThreadPoolExecutor(5) as pool:
        rotations = [pool.submit(rotate_key, accounts.mint, ANN, "operator:test") for _ in range(20)]
        list(pool.map(ask, range(40)))
        assert all(each.result() for each in rotations)
    assert accounts.tracker.refreshes == 1


def test_a_link_of_a_person_with_a_key_waits_for_no_other_person(accounts: Accounts) -> None:
    """The lock of first links and erasures is held meanwhile; of unused links, the newest stay."""
    accounts.add(ANN, "ann-t")
    db, key = accounts.mint.db, new_key(accounts.mint, ANN, now_ms())[1]
    links = [link_row(f"{n:064}", ANN, until=now_ms() + 60_000 + n) for n in range(MOST_LINKS + 1)]
    before = db.connections.person_key(ANN)
    with db.alone(ACCOUNTS_LOCK):
        for link in links:
            db.connections.add_link(link, key)
    assert [db.connections.link(link.digest) for link in links] == [None, *links[1:]]
    assert db.connections.person_key(ANN) == before


def test_an_erasure_while_a_refresh_runs_stores_nothing(accounts: Accounts) -> None:
    """The key of before is not used without that of the database."""
    row = accounts.add(ANN, "ann-t")
    seal = TokenSeal(accounts.mint, row, HeldTokens(refresh="x"), key_of(accounts, ANN))
    accounts.mint.db.erasures.take_accounts(ANN, "operator:test", "a request", str)
    with pytest.raises(SettingsError, match="key is gone"):
        accounts.mint.db.connections.refreshed(row, "own", seal)


def test_the_next_secret_is_tried_if_the_first_is_refused(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The issuer has one secret alone: around its change no call is refused, and no refresh token is used up."""
    terms = msgspec.structs.replace(
        accounts.mint.realm.connection["tracker"],
        client_secret="env:ARX_TEST_OLD_SECRET",
        client_secret_next="env:ARX_TEST_TRACKER_SECRET",
    )
    monkeypatch.setenv("ARX_TEST_OLD_SECRET", "of-before")
    accounts.mint.realm = replace(accounts.mint.realm, connection={"tracker": terms})
    row = accounts.add(ANN, "ann-t")
    assert accounts.token(row) is not None
    monkeypatch.setenv("ARX_TEST_OLD_SECRET", SECRET)
    assert accounts.token(accounts.row(row.id), "repo.write") is not None
    assert accounts.tracker.refreshes == 2
    terms = msgspec.structs.replace(terms, client_secret_next="file:next.secret")
    accounts.mint.realm = replace(accounts.mint.realm, connection={"tracker": terms})
    [(ok, text, _)] = found(accounts)
    assert (ok, "next.secret" in text) == (False, True)


@pytest.mark.servers
@pytest.mark.slow
@SHORT_LEASE
def test_a_mint_that_dies_in_a_rotation_loses_nothing(live: Harness, crasher: Crasher) -> None:
    """Each person has the old key or the new one, with all seals; the same call goes on."""
    mint, rows = live.mint, []
    for number, subject in enumerate((ANN, BOB)):
        born = mint.kills.born()
        row = connection_row(f"c-{number}", subject, born, issuer="i", account=str(number), scopes=())
        link = link_row(f"d-{number}", subject, born, cookie=f"k-{number}")
        mint.db.connections.add_link(link, new_key(mint, subject, now_ms())[1])
        what = Event.of("connection.connected", "mint", connection=row.id)
        seal = TokenSeal(mint, row, HeldTokens(refresh=f"refresh-{number}"))
        mint.db.connections.add(f"k-{number}", row, seal, what, {row.account}, shared=False)
        rows.append(row.id)

    def act(step: int) -> dict[str, Any] | None:
        answered = crasher.ask(step, live.operator(), "POST", "/v1/connections/rotate", {})
        for number, which in enumerate(rows):
            found = mint.db.connections.find(which)
            assert found is not None
            assert open_tokens(mint, found).refresh == f"refresh-{number}"
        return answered

    assert at_every_step(live, act) > 4
    answer = live.operator().call("POST", "/v1/connections/rotate", {})
    assert answer.json() == {"rotated": 2}
    assert count(live, "connection.key_rotated") > 2
