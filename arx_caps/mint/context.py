# SPDX-License-Identifier: Apache-2.0
"""What a handler of the mint needs: its parts in one place, and its view of the kill epoch.  SPEC 10.

Nothing is granted on a view that may be old: ``born`` is read first, then authority is looked at, then a token is
signed with what was read.  A token that is behind merely dies earlier.  ``runtime`` starts the parts, keeps them in
step with store and database, and closes them.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from arx_caps.mint.audit.feeds import EventFeed, JournalFeed, KillFeed, SignedFeed
from arx_caps.mint.audit.log import AuditLog
from arx_caps.mint.db.health import WriteHealth
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.epoch import HighWater
from arx_caps.mint.keys.jwks import KeySets
from arx_caps.mint.keys.key_schedule import KeySchedule
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.keys.rotation import KeyRotation
from arx_caps.mint.policy.activation import NO_POLICY, ActivePolicy, NoPolicy
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.rate_limit import RateLimits
from arx_caps.mint.revocation.freezes import FreezeKeeper
from arx_caps.mint.revocation.revoker import Revoker
from arx_caps.mint.revocation.store_history import StoreHistory
from arx_caps.realm import Realm
from arx_caps.revocation import RevocationStore, Topology
from arx_verifier.errors import StaleEpochError, refusal
from arx_verifier.journal import DecisionSink
from arx_verifier.revocation import Epochs, HistoryPlace
from arx_verifier.token import MINT_AUDIENCE
from arx_verifier.verification import Verifier

CATCH_UP_S: Final = 1.0  # as long as the default lease: a view that takes longer refuses by itself
HALTED: Final = "the audit log is halted: its database contradicts what was signed"
MINT: Final = "mint"  # who did it, when the mint itself did


class Born(NamedTuple):
    """Where the kill epoch stood before authority was looked at."""

    incarnation: str
    seq: int
    chain: str = ""


class MintContext:
    """The parts of a realm's mint.

    Attributes:
        realm: The realm's settings.
        db: The mint's database.
        roots: The root keys.
        key_schedule: Which of them mints what, and when.
        policies: The policy in force, and how it changes.
        epochs: The view of the kill epoch.
        store: Where kills are written.
        store_url: Its address, as tool services are told it.
        decisions: The mint's own journal of what it decided on calls.
        log: The realm's audit log.
        freezes: Those that stand, in database and store.
        history: The history of the store, which this mint attests.
        revoker: Kills, freezes and thaws.
        rotation: Makes, rotates and retires keys.
        limits: How often somebody may call.
        keys: The keys of the mint's own tokens.
        key_sets: Public keys of the issuers that the policy trusts.
        verifier: Verifies session tokens, which are tokens like any other.
    """

    def __init__(
        self,
        realm: Realm,
        *,
        db: MintDatabase,
        roots: RootKeys,
        policy: Policy | NoPolicy,
        epochs: Epochs,
        store: RevocationStore,
        store_url: str,
        decisions: DecisionSink,
        log: AuditLog | None = None,
    ) -> None:
        self.realm, self.db, self.roots = realm, db, roots
        self.policies = ActivePolicy(realm.policy_path, db, policy)
        self.epochs, self.store, self.store_url = epochs, store, store_url
        self.topology = Topology(realm.replicas, realm.on_failover, realm.failover_window_ms)
        self.decisions = decisions
        self.key_schedule = KeySchedule(realm, roots, db)
        self.keys = self.key_schedule.ring
        self.key_sets = KeySets(realm.policy_path.parent, ca=realm.ca)
        self.limits = RateLimits(realm.limits)
        self._recording = WriteHealth(db.outbox)
        self.verifier = Verifier(audience=MINT_AUDIENCE, keys=self.keys, epochs=epochs, decisions=decisions)
        self.freezes = FreezeKeeper(realm.name, db, store, self.noted)
        self.log = AuditLog(realm) if log is None else log
        signed = SignedFeed(store, self.log.publisher)  # first: it may keep the others from recording anything
        self.log.feeds = (signed, EventFeed(db), KillFeed(store), JournalFeed(realm.journals_dir / MINT))
        self.history = StoreHistory(realm, db, store, self.topology, epochs, self.log)
        self.revoker = Revoker(db, store, self.history, self.freezes, self.noted)
        self.rotation = KeyRotation(realm, db, roots, self.key_schedule, store, self.revoker)

    @property
    def policy(self) -> Policy:
        """The policy in force, to grant something by it.

        Raises:
            UnavailableError: ``no_policy``: this version refuses it.
        """
        return self.policies.require()

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

    def noted(self, place: HistoryPlace) -> None:
        """Remember a change of the kill epoch and see it in force here, so that whoever made it finds it so."""
        self.db.epoch.raise_high_water(self.realm.name, HighWater(*place))
        self.epochs.catch_up(0, place.seq, CATCH_UP_S)

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
