# SPDX-License-Identifier: Apache-2.0
"""What keeps a mint alive: opening, starting, the keeper's looks at store and database, and closing.  SPEC 10.

A store that lost kills is noticed by the high-water mark in the database and gets a new history, so that no restore
brings a token back to life.  Handlers get the ``MintContext`` alone.
"""

import logging
import os
import secrets
import threading
import time
from typing import Final, Self

from arx_caps.mint.audit.log import AuditLog
from arx_caps.mint.context import CATCH_UP_S, MINT, MintContext
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.policy.activation import read_policy
from arx_caps.realm import Realm
from arx_caps.revocation import RevocationStore, StoreHistoryError
from arx_caps.revocation.failover import must_attest
from arx_caps.revocation.wire import Ahead
from arx_verifier.errors import ArxError, SettingsError
from arx_verifier.journal import Journal
from arx_verifier.revocation import Follower
from arx_verifier.token import MINT_AUDIENCE

KEEPER_S: Final = 1.0  # how often the mint looks at the store itself
GLANCE_S: Final = 0.1  # how often at its own view: a kill that the mint did not make is in the database as soon after
DOUBTED: Final = (
    "{0.verifier} says that it has applied number {0.seq}, which the store does not have; verifiers' words have ended"
    " too many histories within the hour: look at that process; if it is right, `arx kill realm`, `arx thaw realm`"
)

_log = logging.getLogger(__name__)


class MintRuntime(MintContext):
    """A realm's mint that runs.  ``open`` builds one; ``start`` and ``close`` belong to the application's lifespan.

    The arguments are those of ``MintContext``.
    """

    _doubted: Ahead | None = None  # a verifier's word that was one too many
    _keeper: threading.Thread | None = None
    _stop: threading.Event  # of the keeper

    @classmethod
    def open(cls, realm: Realm, *, store_url: str, passphrase: str | None = None, database: str | None = None) -> Self:
        """Open a realm's mint.  Nothing is connected yet.

        Args:
            realm: The realm.
            store_url: The revocation store.
            passphrase: Opens the root keys, where a passphrase seals them.
            database: Another database than the realm folder's, in SQLAlchemy's form.

        Raises:
            SettingsError: A key or a setting is missing or wrong: there is no start without.
        """
        roots = RootKeys.load(realm.root_path, realm=realm.name, passphrase=passphrase, key_path=realm.root_key_path)
        verifier_id = f"{MINT_AUDIENCE}-{os.getpid()}-{secrets.token_hex(3)}"
        password = os.environ.get("ARX_STORE_PASSWORD")
        return cls(
            realm,
            db=MintDatabase(database or realm.database_url, writer=verifier_id),
            roots=roots,
            policy=read_policy(realm.policy_path),
            epochs=Follower(store_url, realm.name, verifier_id, password=password, ca=realm.ca),
            store=RevocationStore(store_url, realm.name, password=password, replicas=realm.replicas, ca=realm.ca),
            store_url=store_url,
            decisions=Journal(realm.journals_dir / MINT, verifier_id, MINT_AUDIENCE),
            log=AuditLog(realm, database),
        )

    def start(self) -> None:
        """Bring database and store into a known state and follow the kill epoch; does nothing when started already.

        Raises:
            SettingsError: The database belongs to another version, a root key that is in it does not open, or the
                policy file has a mistake.
            StoreError: Database or store do not answer.
            AuditError: Nothing can be recorded.
        """
        if self._keeper is not None:
            return
        self.db.create()
        self.log.start()
        self.key_schedule.start()
        self.policies.settle()
        self.db.record(
            Event.of("mint.started", MINT, policy=self.policies.loaded.digest, root=self.key_schedule.minting())
        )
        self.history.attest()
        self.verifier.start()
        self.epochs.catch_up(0, 0, CATCH_UP_S)
        self.freezes.restore()
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="arx-mint-keeper", daemon=True)
        self._keeper.start()
        self.log.wake()

    def close(self) -> None:
        """Stop following, and let everything go."""
        if self._keeper is not None:
            self._stop.set()
            self._keeper.join(CATCH_UP_S + KEEPER_S)
            self._keeper = None
        self.verifier.close()
        self.log.close()
        self.store.close()
        self.db.close()

    def reload_policy(self) -> str:
        """Read the policy file again and return its digest; see ``ActivePolicy.reload``."""
        return self.policies.reload(MINT).digest

    def _keep(self) -> None:
        """See whether the store needs a new history or has lost a freeze, which keys mint, which policy is in force."""
        told, due = False, 0.0
        while not self._stop.wait(GLANCE_S):
            moved = self.epochs.view()[:2] != self.freezes.followed[:2] and not told
            if not moved and time.monotonic() < due:
                continue
            due = time.monotonic() + KEEPER_S
            try:
                self._look_at_store()
                self.key_schedule.tick()
                self.policies.follow()  # last: one of a newer version, which cannot be read here, holds nothing else up
                told = False
            except ArxError as error:
                if not told:
                    _log.error("realm %s: %s", self.realm.name, error)
                told = True

    def _look_at_store(self) -> None:
        """Attest the store where that is due, and keep the freezes of store and database alike."""
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
            self.freezes.follow()
        except StoreHistoryError:  # a history was begun while the database was away, which has no mark of it
            self.history.attest()
            self.freezes.follow()
        self.freezes.keep(self.freezes.followed.incarnation)


def need_store(realm: Realm, given: str | None) -> str:
    """Return the store's URL: as given, else as the realm's settings say.

    Raises:
        SettingsError: Neither says it.
    """
    url = given or realm.store
    if url is None:
        raise SettingsError("no revocation store: run `arx up`, give --store, or write `store` into realm.toml")
    return url
