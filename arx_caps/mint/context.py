# SPDX-License-Identifier: Apache-2.0
"""The mint's parts in one place, and its view of the kill epoch.  SPEC 10.

Nothing is granted on a view that may be old: ``born`` is read first, then authority is looked at, then a token is
signed with what was read.  A token that is behind merely dies earlier.  A store that lost kills is noticed by the
high-water mark in the database and gets a new history, so that no restore brings a token back to life.
"""

import logging
import os
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from arx_caps.mint.audit.feeds import EventFeed, JournalFeed, KillFeed, SignedFeed
from arx_caps.mint.audit.log import AuditLog
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.health import Recording
from arx_caps.mint.db.state import HighWater, MintState
from arx_caps.mint.keys.jwks import KeySets
from arx_caps.mint.keys.key_schedule import KeyBook
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.policy.activation import NO_POLICY, ActivePolicy, NoPolicy, read_policy
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.rate_limit import RateLimits
from arx_caps.mint.revocation.attestation import StoreHistory
from arx_caps.mint.revocation.freezes import FreezeKeeper
from arx_caps.realm import Realm
from arx_caps.revocation import RevocationStore, StoreHistoryError, Topology
from arx_caps.revocation.failover import must_attest
from arx_caps.revocation.wire import Ahead
from arx_verifier.errors import ArxError, SettingsError, StaleEpochError, refusal
from arx_verifier.journal.decision import DecisionSink
from arx_verifier.journal.writer import Journal
from arx_verifier.revocation.epoch import Epochs
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.history import Place
from arx_verifier.token.macaroon import MINT_AUDIENCE
from arx_verifier.verification.verifier import Verifier

KEEPER_S: Final = 1.0  # how often the mint looks at the store itself
GLANCE_S: Final = 0.1  # how often at its own view: what was done past the mint is in the database as soon
CATCH_UP_S: Final = 1.0  # as long as the default lease: a view that takes longer refuses by itself
DOUBTED: Final = (
    "{0.verifier} says that it has applied number {0.seq}, which the store does not have; verifiers' words have ended"
    " too many histories within the hour: look at that process; if it is right, `arx kill realm`, `arx thaw realm`"
)
HALTED: Final = "the audit log is halted: its database contradicts what was signed"
MINT: Final = "mint"  # who did it, when the mint itself did

_log = logging.getLogger(__name__)


class Born(NamedTuple):
    """Where the kill epoch stood before authority was looked at."""

    incarnation: str
    seq: int
    chain: str = ""


class Mint:
    """A realm's mint.  ``open`` builds one; ``start`` and ``close`` belong to the application's lifespan.

    Attributes:
        realm: The realm's settings.
        state: The database.
        roots: The root keys.
        book: Which of them mints what.
        policies: The policy in force, and how it changes.
        epochs: The view of the kill epoch.
        store: Where kills are written.
        store_url: Its address, as tool services are told it.
        decisions: The mint's own journal of what it decided on calls.
        log: The realm's audit log.
        freezes: Those that stand, in database and store.
        history: The history of the store, which this mint attests.
        limits: How often somebody may call.
        keys: The keys of the mint's own tokens.
        key_sets: Public keys of the issuers that the policy trusts.
        verifier: Verifies session tokens, which are tokens like any other.
    """

    def __init__(
        self,
        realm: Realm,
        *,
        state: MintState,
        roots: RootKeys,
        policy: Policy | NoPolicy,
        epochs: Epochs,
        store: RevocationStore,
        store_url: str,
        decisions: DecisionSink,
        log: AuditLog | None = None,
    ) -> None:
        self.realm, self.state, self.roots = realm, state, roots
        self.policies = ActivePolicy(realm.policy_path, state, policy)
        self.epochs, self.store, self.store_url = epochs, store, store_url
        self.topology = Topology(realm.replicas, realm.on_failover, realm.failover_window_ms)
        self.decisions = decisions
        self.book = KeyBook(realm, roots, state)
        self.keys = self.book.ring
        self.key_sets = KeySets(realm.policy_path.parent, ca=realm.ca)
        self.limits = RateLimits(realm.limits)
        self._recording = Recording(state.outbox)
        self.verifier = Verifier(audience=MINT_AUDIENCE, keys=self.keys, epochs=epochs, decisions=decisions)
        self.freezes = FreezeKeeper(realm.name, state, store, self.noted)
        self._doubted: Ahead | None = None  # a verifier's word that was one too many
        self.log = AuditLog(realm) if log is None else log
        signed = SignedFeed(store, self.log.publisher)  # first: it may keep the others from recording anything
        self.log.feeds = (signed, EventFeed(state), KillFeed(store), JournalFeed(realm.journals_dir / MINT))
        self.history = StoreHistory(realm, state, store, self.topology, epochs, self.log)
        self._stop = threading.Event()
        self._keeper: threading.Thread | None = None

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
            state=MintState(database or realm.database_url, writer=verifier_id),
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
        self.state.create()
        self.log.start()
        self.book.start()
        self.policies.settle()
        self.state.record(Event.of("mint.started", MINT, policy=self.policies.loaded.digest, root=self.book.minting()))
        self.history.attest()
        self.verifier.start()
        self.epochs.catch_up(0, 0, CATCH_UP_S)
        self.freezes.restore()
        self._stop.clear()
        self._keeper = threading.Thread(target=self._keep, name="arx-mint-keeper", daemon=True)
        self._keeper.start()
        self.log.wake()

    def close(self) -> None:
        """Stop following, and let everything go."""
        self._stop.set()
        if self._keeper is not None:
            self._keeper.join(CATCH_UP_S + KEEPER_S)
            self._keeper = None
        self.verifier.close()
        self.log.close()
        self.store.close()
        self.state.close()

    @property
    def policy(self) -> Policy:
        """The policy in force, to grant something by it.

        Raises:
            UnavailableError: ``no_policy``: this version refuses it.
        """
        return self.policies.require()

    def reload_policy(self) -> str:
        """Read the policy file again and return its digest; see ``ActivePolicy.reload``."""
        return self.policies.reload(MINT).digest

    # The kill epoch.

    def born(self) -> Born:
        """Read where the kill epoch stands; to be called before any authority is looked at.

        Raises:
            UnavailableError: The view is not live, or the store lacks freezes: nothing can be granted now.
        """
        refused = self.epochs.check(None, 0, ())
        if refused is not None:
            raise refusal(refused.code)
        incarnation, seq, _ = self.epochs.view()
        self.freezes.require(incarnation, seq)
        return Born(incarnation, seq, self.epochs.chain_at(incarnation, seq))

    def require(self, born: Born, targets: Sequence[str]) -> None:
        """Require that nothing in these targets was killed since ``born``, and nothing is frozen.

        Raises:
            RevokedError: Something was or is.
            UnavailableError: The view is not live.
        """
        refused = self.epochs.check(born.incarnation, born.seq, targets)
        if refused is not None:
            raise refusal(refused.code)

    def require_clock(self) -> None:
        """Require that this clock may judge proofs.

        Raises:
            StaleEpochError: ``fenced``: it is further from the store's clock than SPEC 10.5 lets it be.
        """
        # Such a clock refuses good proofs, and forgets used ones too early, also those that another mint took.
        off = self.epochs.wrong_clock()
        if off is not None:
            raise StaleEpochError(off, code="fenced")

    def noted(self, place: Place) -> None:
        """Remember a change of the kill epoch and see it in force here, so that whoever made it finds it so."""
        self.state.raise_high_water(self.realm.name, HighWater(*place))
        self.epochs.catch_up(0, place.seq, CATCH_UP_S)

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
                self.book.tick()
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

    def ready(self) -> list[str]:
        """Return what keeps the mint from being asked; empty when it is ready."""
        refused = self.epochs.check(None, 0, ())
        found = [refused.detail] if refused is not None else []
        found += self.freezes.why_not(*self.epochs.view()[:2]) if refused is None else []
        found += [NO_POLICY] if isinstance(self.policies.loaded, NoPolicy) else []
        # A grant waits for no log, but what happened would wait with it: another mint may be able to sign.
        found += [HALTED] if self.log.publisher.halted is not None else []
        return [*found, *self._recording.why_not()]

    def __repr__(self) -> str:
        return f"<Mint of {self.realm.name}>"


def need_store(realm: Realm, given: str | None) -> str:
    """Return the store's URL: as given, else as the realm's settings say.

    Raises:
        SettingsError: Neither says it.
    """
    url = given or realm.store
    if url is None:
        raise SettingsError("no revocation store: run `arx up`, give --store, or write `store` into realm.toml")
    return url
