# SPDX-License-Identifier: Apache-2.0
"""A mint that runs: opened, started, kept in step with store and database, closed. SPEC 10.

Handlers get the ``MintContext`` alone.
"""

import contextlib
import logging
import os
import secrets
import threading
import time
from typing import Final, Self

from arx_caps.mint.connections.end import drop_abandoned
from arx_caps.mint.context import CATCH_UP_S, MINT, VERSION, MintContext
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.keys.log_key import open_log
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.policy.activation import read_policy
from arx_caps.revocation.failover import must_attest
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import Ahead, StoreHistoryError, VerifierSeen
from arx_caps.settings.realm import Realm
from arx_caps.settings.self_registration import DEFAULT_UNUSED_MS
from arx_verifier.errors import ArxError, GrantError, SettingsError
from arx_verifier.journal.writer import Journal
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.password import find_password
from arx_verifier.revocation.store_url import without_login
from arx_verifier.token.macaroon import MINT_AUDIENCE

KEEPER_S: Final = 1.0  # how often the mint reads the store itself
GLANCE_S: Final = 0.1  # how often it reads its own view: a kill of another process is in the database that soon
LEAVE_S: Final = 2.0  # the longest wait for the database to forget a mint that stops
SHOW_S: Final = 10.0  # how often it shows a sign of life in the database
ALIVE_MS: Final = 10_000  # a mint that has not asked the store for longer does not run
WRONG_ISSUER: Final = (
    "this mint's issuer is {own}, that of the realm's other mints is {known}: correct `issuer` in realm.toml; to change"
    " it, stop every mint of the realm first"
)
DOUBTED: Final = (
    "verifier {0.verifier} reports number {0.seq}, which the store does not have, and verifiers' reports have ended"
    " too many histories in this hour: check that process; if it is right, run `arx kill realm` and `arx thaw realm`"
)

_log = logging.getLogger(__name__)


class MintRuntime(MintContext):
    """A realm's mint with its background thread. Its arguments are those of ``MintContext``.

    ``open`` builds one; the application's lifespan calls ``start`` and ``close``.
    """

    _doubted: Ahead | None = None  # the last verifier's report that was not believed
    _keeper: threading.Thread | None = None
    _show_due = 0.0  # when the next sign of life is due
    _stop: threading.Event  # of the keeper

    @classmethod
    def open(cls, realm: Realm, *, store_url: str, passphrase: str | None = None) -> Self:
        """Return a realm's mint, not connected to anything yet.

        Args:
            realm: The realm.
            store_url: The revocation store's URL.
            passphrase: Opens the root keys, if a passphrase seals them.

        Raises:
            SettingsError: A key or a setting is missing or invalid.
        """
        roots = RootKeys.load(realm.root_path, realm=realm.name, passphrase=passphrase, key_path=realm.root_key_path)
        verifier_id = f"{MINT_AUDIENCE}-{os.getpid()}-{secrets.token_hex(3)}"
        password = find_password("ARX_STORE_PASSWORD")
        return cls(
            realm,
            db=MintDatabase(realm.database_url, writer=verifier_id),
            roots=roots,
            policy=read_policy(realm.policy_path),
            epochs=Follower(store_url, realm.name, verifier_id, password=password, ca=realm.ca, role="mint"),
            store=RevocationStore(store_url, realm.name, password=password, replicas=realm.replicas, ca=realm.ca),
            store_url=store_url,
            decisions=Journal(realm.journals_dir / MINT, verifier_id, MINT_AUDIENCE),
            log=open_log(realm, roots),
            ledger=_ledger(realm, store_url),
        )

    def start(self) -> None:
        """Check and migrate database and store, and follow the kill epoch; it is idempotent.

        Raises:
            SettingsError: The database belongs to another version, a root key in it does not open, or the policy is
                invalid.
            StoreError: Database or store did not answer.
            AuditError: Events cannot be recorded.
        """
        if self._keeper is not None:
            return
        # The log before the first event: if the database was restored, its events get numbers of a new run.
        self.db.create()
        self.log.start()
        self.key_schedule.start()
        self.policies.settle()
        self.db.record(
            Event.of("mint.started", MINT, policy=self.policies.loaded.digest, root=self.key_schedule.minting())
        )
        # The history before the view: a store that lost kills must not be followed, not even for a moment.
        self.history.attest()
        self._check_issuer()
        self.verifier.start()
        self.epochs.catch_up(0, 0, CATCH_UP_S)
        self.freezes.restore()
        if self.ledger is not None:
            self.ledger.recall(self.db.ledger.beginning, self.db.ledger.note)
            self.ledger.start()  # before the first pool is opened: a ledger takes none that is older than itself
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="arx-mint-keeper", daemon=True)
        self._keeper.start()
        self.notifications.start()
        self.log.wake()

    def close(self) -> None:
        """Stop the background threads, and close log, store and database."""
        if self._keeper is not None:
            self._stop.set()
            self._keeper.join(CATCH_UP_S + KEEPER_S)
            self._keeper = None
        self.confirmations.close()
        self.notifications.close()
        # Bounded: a silent database must not keep the mint from stopping, and forgets it after an hour.
        leaving = threading.Thread(target=self._leave, name="arx-mint-leaving", daemon=True)
        leaving.start()
        leaving.join(LEAVE_S)
        self.verifier.close()
        self.log.close()
        self.store.close()
        if self.ledger is not None:
            self.ledger.close()
        self.db.close()

    def reload_policy(self) -> str:
        """Read the policy file again and return its digest; see ``ActivePolicy.reload``."""
        return self.policies.reload(MINT).digest

    def _keep(self) -> None:
        """Run the background thread: keep store, freezes, keys and policy up to date."""
        failing, due, unattested = False, 0.0, False
        while not self._stop.wait(GLANCE_S):
            was_unattested, unattested = unattested, self.epochs.is_unattested()
            moved = self.epochs.view()[:2] != self.freezes.followed[:2] or (unattested and not was_unattested)
            if not (moved and not failing) and time.monotonic() < due:
                continue
            due = time.monotonic() + KEEPER_S
            try:
                self._check_store()
                self._check_issuer()
                self.key_schedule.tick()
                self.signing_keys.tick()
                self.db.oauth_clients.prune(
                    DEFAULT_UNUSED_MS if self.realm.clients is None else self.realm.clients.unused_ms
                )
                drop_abandoned(self)
                # Last: a policy of a newer version, which this one cannot read, must not stop the others.
                self.policies.follow()
                failing = False
            except ArxError as error:
                if not failing:
                    _log.error("realm %s: %s", self.realm.name, error)
                failing = True
            self._show_sign_of_life()

    def _leave(self) -> None:
        """Have the database forget where this mint listens."""
        if self.address is not None:
            with contextlib.suppress(ArxError):
                self.db.mints.forget(self.address)

    def _show_sign_of_life(self) -> None:
        """Store at times in the database that this mint runs, and where."""
        if self.address is None or time.monotonic() < self._show_due:
            return
        self._show_due = time.monotonic() + SHOW_S
        with contextlib.suppress(ArxError):  # of the database, which the other checks report
            self.db.mints.show(self.address, VERSION, self.realm.issuer)

    def _check_issuer(self) -> None:
        """Compare this mint's issuer with that of the realm's other mints; take it over if none of them runs."""
        # Calls are signed for the issuer: a mint with another one refuses those that a proxy sends it.
        own, known = self.realm.issuer, self.db.issuer.find()
        if known is None:
            with contextlib.suppress(GrantError):  # another mint was first: the next look compares
                self.db.issuer.begin(own)
        elif known == own:
            self.wrong_issuer = None
        elif not any(_is_other_mint(seen, self.db.writer) for seen in self.store.verifiers()):
            self.db.issuer.change(known, own, Event.of("mint.issuer_changed", MINT, issuer=own, before=known))
        elif self.wrong_issuer is None:
            self.wrong_issuer = WRONG_ISSUER.format(own=own, known=known)
            _log.error("realm %s: %s", self.realm.name, self.wrong_issuer)

    def _check_store(self) -> None:
        """Attest the store's history if that is due, and restore lost freezes."""
        refused = self.epochs.check(None, 0, ()) is not None
        claim = self.store.ahead()
        if (
            refused
            or must_attest(self.store, self.topology)
            or (claim is not None and self.history.believed() is not None)
        ):
            self.history.attest()
        elif claim is not None and claim != self._doubted:
            _log.error("realm %s: %s", self.realm.name, DOUBTED.format(claim))
        self._doubted = claim
        try:
            self.freezes.follow_store()
        except StoreHistoryError:  # a history began while the database was away, so the database has no mark of it
            self.history.attest()
            self.freezes.follow_store()
        self.freezes.restore_if_due(self.freezes.followed.incarnation)
        self.confirmations.settle_rest()


def _is_other_mint(seen: VerifierSeen, own: str) -> bool:
    return seen.id.startswith(f"{MINT_AUDIENCE}-") and not seen.id.startswith(own) and seen.age_ms < ALIVE_MS


def need_store(realm: Realm, given: str | None) -> str:
    """Return the store's URL: the given one, or the realm's.

    Raises:
        SettingsError: Neither is set.
    """
    url = given or realm.store
    if url is None:
        raise SettingsError("no revocation store: run `arx up`, give --store, or write `store` into realm.toml")
    return url


def _ledger(realm: Realm, store_url: str) -> RedisLedger | None:
    if realm.ledger is None:
        return None
    if without_login(realm.ledger) == without_login(store_url):
        raise SettingsError("invalid ledger: expected another Redis than store, whose disk every write waits for")
    password = find_password("ARX_LEDGER_PASSWORD")
    return RedisLedger(realm.ledger, realm.name, password=password, ca=realm.ca, hides=True)
