# SPDX-License-Identifier: Apache-2.0
"""People's accounts in the mint's database: sealed for one person and account, refreshed once at a time, erased."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from arx_caps.mint.connections import connect, lend
from arx_caps.mint.connections.account_issuer import RefreshRefusedError, issuer_of
from arx_caps.mint.connections.connect import open_page, start_page
from arx_caps.mint.connections.end import end_accounts
from arx_caps.mint.connections.vault import HeldAccess, HeldTokens, TokenSeal, new_key, open_key, open_tokens
from arx_caps.mint.context import Born
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.oauth.connections import account_lock
from arx_caps.mint.db.tables import ConnectionRow, LinkRow
from arx_caps.mint.identity.issuer_token import IssuerToken
from arx_caps.mint.login.issuer_client import IssuerBusyError
from arx_caps.mint.policy.issuers import Issuer
from arx_caps.mint.tasks.erase import erase_person
from arx_caps.settings.connections import ConnectionTerms
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError, SettingsError, UnavailableError
from arx_verifier.token.targets import subject_target
from tests.gateway.people import CLIENT, SECRET, Tracker
from tests.mint.harness import Harness, open_unit
from tests.mint.issuer import served

pytestmark = pytest.mark.spec("CONTROL 9.1", "CONTROL 9.3")
ANN, BOB = (subject_target("https://login.example", name) for name in ("ann", "bob"))


def link_row(digest: str, subject: str, born: Born | None = None, **fields: Any) -> LinkRow:
    """Return a link of a person to the tracker, which lives for a minute."""
    at = {"incarnation": born.incarnation, "born": born.seq} if born else {"incarnation": "i", "born": 0}
    usual = {"name": "tracker", "person": "p", "scopes": (), "until": now_ms() + 60_000}
    return LinkRow(**{"digest": digest, "subject": subject} | at | usual | fields)


def connection_row(which: str, subject: str, born: Born, **fields: Any) -> ConnectionRow:
    """Return an open account of a person at the tracker."""
    usual = {
        "name": "tracker",
        "person": "p",
        "status": "open",
        "created_at": now_ms(),
        "incarnation": born.incarnation,
    }
    return ConnectionRow(**{"id": which, "subject": subject, "born": born.seq} | usual | fields)


class Accounts:
    """A mint with a connection, and its issuer."""

    def __init__(self, harness: Harness, tracker: Tracker) -> None:
        self.mint, self.tracker, self.made = harness.mint, tracker, 0
        terms = ConnectionTerms(
            issuer=tracker.url,
            client_id=CLIENT,
            client_secret="env:ARX_TEST_TRACKER_SECRET",
            scopes=("repo.read", "repo.write"),
            audiences=("orders",),
        )
        self.mint.realm = replace(self.mint.realm, connection={"tracker": terms})

    def add(self, subject: str, account: str, *, shared: bool = False) -> ConnectionRow:
        """Store a connection of a person whose refresh token is live, and return its row."""
        self.made += 1
        which, cookie = "c-" + chr(ord("`") + self.made) * 16, f"cookie-{self.made}"
        refresh = f"canary-refresh-{self.made}"
        self.tracker.grants[refresh] = (account, "repo.read repo.write")
        link = link_row(cookie, subject, cookie=cookie)
        self.mint.db.connections.add_link(link, new_key(self.mint, subject, now_ms())[1])
        account_of = {"issuer": self.tracker.url, "account": account, "scopes": ("repo.read", "repo.write")}
        row = connection_row(which, subject, self.mint.kills.born(), **account_of)
        seal = TokenSeal(self.mint, row, HeldTokens(refresh=refresh))
        what = Event.of("connection.connected", "mint", connection=which, subject=subject, account=account)
        self.mint.db.connections.add(cookie, row, seal, what, {account}, shared=shared)
        return self.row(which)

    def row(self, which: str) -> ConnectionRow:
        found = self.mint.db.connections.find(which)
        assert found is not None
        return found

    def token(self, row: ConnectionRow, scopes: str = "repo.read") -> HeldAccess | None:
        """Return what is lent for some scopes; None while others refresh."""
        with contextlib.suppress(IssuerBusyError):
            return lend._token_of(self.mint, issuer_of(self.mint, "tracker"), row, scopes, "")
        return None


@pytest.fixture
def accounts(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database: str | None,
    realm_template: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Accounts]:
    """A mint on each of both databases, with the issuer that the module has as ``TRACKER``."""
    monkeypatch.setenv("ARX_TEST_TRACKER_SECRET", SECRET)
    tracker = getattr(request.module, "TRACKER", Tracker)()
    with (
        served(tracker.server),
        open_unit(tmp_path / "realm", database=database, template=realm_template, log=True) as harness,
    ):
        yield Accounts(harness, tracker)


@pytest.fixture
def live_accounts(live: Harness, monkeypatch: pytest.MonkeyPatch) -> Iterator[Accounts]:
    """A mint with its store, so that it kills, and the issuer."""
    monkeypatch.setenv("ARX_TEST_TRACKER_SECRET", SECRET)
    tracker = Tracker()
    with served(tracker.server):
        yield Accounts(live, tracker)


@pytest.mark.parametrize(
    "changed", [{"subject": BOB}, {"account": "bob-t"}, {"name": "other"}, {"id": "c-9"}, {"issuer": "i"}]
)
def test_a_row_that_was_moved_does_not_open(accounts: Accounts, changed: dict[str, str]) -> None:
    """To another person, account, connection, id or issuer: write access to the database opens no other token."""
    row = accounts.add(ANN, "ann-t")
    accounts.add(BOB, "bob-t")  # has a key of its own
    assert open_tokens(accounts.mint, row).refresh == "canary-refresh-1"
    moved = msgspec.structs.replace(row, **changed)
    own_key = open_key(accounts.mint, accounts.mint.db.connections.person_key(ANN))
    for key in (None, own_key):
        with pytest.raises(SettingsError, match="do not open"):
            open_tokens(accounts.mint, moved, key)


def test_many_callers_refresh_once(accounts: Accounts) -> None:
    """The mint asks all others to try again, and they get what the first got; the issuer sees the token once."""
    row, ready = accounts.add(ANN, "ann-t"), threading.Barrier(16)

    def ask(_: int) -> tuple[str, int] | None:
        ready.wait()
        return accounts.token(accounts.row(row.id))

    with ThreadPoolExecutor(16) as pool:
        given = {found for found in pool.map(ask, range(16)) if found is not None}
    assert len(given) == 1
    assert accounts.tracker.refreshes == 1
    assert accounts.token(accounts.row(row.id)) in given
    assert accounts.token(accounts.row(row.id), "repo.read repo.write") not in given
    assert accounts.tracker.refreshes == 2


def test_a_kept_token_is_not_lent_near_its_end_or_once_refused(accounts: Accounts) -> None:
    """Nor to a call of other scopes, fewer or more; each of them is refreshed."""
    row, issuer = accounts.add(ANN, "ann-t"), issuer_of(accounts.mint, "tracker")
    first = accounts.token(row)
    assert accounts.token(accounts.row(row.id)) == first
    digest = sha256(str(first.token if first else "").encode()).hexdigest()
    second = lend._token_of(accounts.mint, issuer, accounts.row(row.id), "repo.read", digest)
    assert second not in (None, first)
    assert lend._token_of(accounts.mint, issuer, accounts.row(row.id), "repo.read", digest) == second
    accounts.tracker.lives_s = lend.EARLY_MS / 1000 - 1
    late = accounts.token(accounts.row(row.id), "repo.read repo.write")
    assert accounts.token(accounts.row(row.id), "repo.read repo.write") not in (None, late)
    assert accounts.token(accounts.row(row.id)) == second
    assert accounts.tracker.refreshes == 4


def test_the_latest_connection_is_of_the_person_and_the_name(accounts: Accounts) -> None:
    """Whatever others have connected since."""
    own, db = accounts.add(ANN, "ann-t"), accounts.mint.db.connections
    accounts.add(BOB, "bob-t")
    assert db.latest(ANN, "tracker") == own
    assert db.latest(ANN, "other") is None
    assert db.latest(subject_target("https://other.example", "ann"), "tracker") is None


@pytest.mark.parametrize("target", ["realm", ANN, "connection:"])
def test_a_connection_lends_nothing_after_a_kill_of_each_of_its_targets(accounts: Accounts, target: str) -> None:
    """Nor while one is frozen, nor for another issuer that the settings name since."""
    row, issuer, epochs = accounts.add(ANN, "ann-t"), issuer_of(accounts.mint, "tracker"), accounts.mint.epochs
    target += row.id if target.endswith(":") else ""
    assert lend._refusal_of(accounts.mint, issuer, row) is None
    assert (
        lend._refusal_of(accounts.mint, issuer, msgspec.structs.replace(row, issuer="https://other.example"))
        == "connection_ended"
    )
    epochs.freeze(target)
    assert lend._refusal_of(accounts.mint, issuer, row) == "connection_unavailable"
    epochs.thaw(target)
    epochs.kill(target)
    assert lend._refusal_of(accounts.mint, issuer, row) == "connection_ended"


def test_a_lost_answer_is_tried_once_more(accounts: Accounts) -> None:
    """The connection is unclear until then; a refusal of the issuer is for good."""
    row = accounts.add(ANN, "ann-t")
    accounts.tracker.silent = True
    with pytest.raises(UnavailableError):
        accounts.token(row)
    assert accounts.row(row.id).refresher is not None
    accounts.tracker.silent = False
    assert accounts.token(accounts.row(row.id)) is not None
    assert accounts.row(row.id).refresher is None
    accounts.tracker.end()
    with pytest.raises(RefreshRefusedError):
        accounts.token(accounts.row(row.id), "repo.write")


def test_a_refresh_without_the_clients_secret_is_clear(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was sent: no operator reads that an answer was lost."""
    row = accounts.add(ANN, "ann-t")
    with monkeypatch.context() as without:
        without.delenv("ARX_TEST_TRACKER_SECRET")
        with pytest.raises(SettingsError, match="ARX_TEST_TRACKER_SECRET"):
            accounts.token(row)
    assert (accounts.tracker.refreshes, accounts.row(row.id).refresher) == (0, None)
    assert accounts.token(accounts.row(row.id)) is not None


def test_a_refresh_of_a_mint_that_died_holds_others_for_its_time_alone(accounts: Accounts) -> None:
    """While it may still run, no other one begins; afterwards the next one does, and the first one stores nothing."""
    row, db = accounts.add(ANN, "ann-t"), accounts.mint.db.connections
    assert db.lock(row.id, "dead", now_ms() + 60_000)
    assert accounts.token(accounts.row(row.id)) is None
    db.unlock(row.id, "dead", is_clear=False)
    assert db.lock(row.id, "dead", now_ms() - 1)
    assert accounts.token(accounts.row(row.id)) is not None
    assert not db.refreshed(row, "dead", TokenSeal(accounts.mint, row, HeldTokens(refresh="x")))
    assert accounts.tracker.refreshes == 1


def test_another_account_is_connected_while_one_is(accounts: Accounts) -> None:
    """People who connect accounts at the same time wait for each other only if it is one account."""
    db = accounts.mint.db
    with db.alone(account_lock("tracker", "ann-t")), ThreadPoolExecutor(1) as pool:
        assert pool.submit(accounts.add, BOB, "bob-t").result(60).status == "open"
    assert account_lock("tracker", "ann-t") != account_lock("other", "ann-t")


def test_an_account_has_one_person_unless_it_is_shared(accounts: Accounts) -> None:
    """A person's later connection replaces the one before."""
    first = accounts.add(ANN, "ann-t")
    with pytest.raises(GrantError, match="another person"):
        accounts.add(BOB, "ann-t")
    assert accounts.add(BOB, "ann-t", shared=True).status == "open"
    accounts.add(ANN, "other")
    former = accounts.row(first.id)
    assert (former.status, former.ended_why, former.sealed) == ("ended", "replaced", None)


@pytest.mark.spec("LOG 1.9")
def test_an_erasure_deletes_the_key_and_revokes_upstream(accounts: Accounts) -> None:
    """No byte of the person's accounts is left in SQLite's file; another person's stay."""
    row = accounts.add(ANN, "canary-account-of-ann")
    kept = accounts.add(BOB, "bob-t")
    sealed = str(row.sealed)
    by, reason = "operator:test", "a request"
    erase_person(
        accounts.mint, ANN, by=by, reason=reason, end_accounts=lambda: end_accounts(accounts.mint, ANN, by, reason)
    )
    db = accounts.mint.db.connections
    assert (db.find(row.id), db.person_key(ANN)) == (None, None)
    assert accounts.tracker.grants.get("canary-refresh-1") is None
    assert open_tokens(accounts.mint, kept).refresh == "canary-refresh-2"
    for file in accounts.mint.realm.folder.glob("mint.db*"):
        content = file.read_bytes()
        assert not [text for text in ("canary-account-of-ann", sealed) if text.encode() in content], file


def test_the_login_of_a_persons_page_ends(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten minutes, at each mint of the realm; a seal of another secret of the database is none."""
    url, mint = "https://login.example", accounts.mint
    issuer = Issuer(name="corp", url=url, jwks=f"{url}/keys", audience=("x",), algorithms=("ES256",))
    cookie = start_page(mint, mint.kills.born(), IssuerToken(issuer, "ann", {}, now_ms() + 60_000))
    page = open_page(mint, cookie)
    assert page is not None
    assert page.target == ANN
    accounts.add(ANN, "ann-t")
    key = mint.db.connections.person_key(ANN)
    assert key is not None
    assert open_page(mint, f"{key.nonce}.{key.sealed}") is None
    monkeypatch.setattr(connect, "now_ms", lambda: page.until)
    assert open_page(mint, cookie) is None
