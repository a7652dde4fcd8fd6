# SPDX-License-Identifier: Apache-2.0
"""The parts of a mint that handlers need, and its view of the kill epoch. SPEC 10.

``runtime`` opens, starts and closes them.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final, NamedTuple, Protocol

from arx_caps.database.disk_room import room_fault
from arx_caps.mint.audit.feeds import EventFeed, JournalFeed, KillFeed, SignedFeed
from arx_caps.mint.audit.log import AuditLog
from arx_caps.mint.db.health import WriteHealth
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.operations.epoch import HighWater
from arx_caps.mint.documents import ClientDocuments
from arx_caps.mint.keys.jwks import KeySets
from arx_caps.mint.keys.key_schedule import KeySchedule
from arx_caps.mint.keys.log_key import open_log
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.keys.rotation import KeyRotation
from arx_caps.mint.keys.signing_keys import SigningKeys
from arx_caps.mint.notifications.alarms import Alarms
from arx_caps.mint.notifications.sender import NotificationSender
from arx_caps.mint.policy.activation import NO_POLICY, ActivePolicy, NoPolicy
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.rate_limit import RateLimits
from arx_caps.mint.revocation.confirmations import Confirmations
from arx_caps.mint.revocation.freezes import FreezeKeeper
from arx_caps.mint.revocation.revoker import Revoker
from arx_caps.mint.revocation.store_history import StoreHistory
from arx_caps.revocation.failover import Topology
from arx_caps.revocation.store import RevocationStore
from arx_caps.settings.realm import Realm
from arx_verifier.errors import StaleEpochError, refusal
from arx_verifier.journal.decision import DecisionSink
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.revocation.epoch import Epochs
from arx_verifier.revocation.history import HistoryPlace
from arx_verifier.token.macaroon import MINT_AUDIENCE
from arx_verifier.verification.verifier import Verifier

CATCH_UP_S: Final = 1.0  # the default lease: a view that is older refuses by itself
HALTED: Final = "the audit log is halted: its database contradicts what was signed"
MINT: Final = "mint"  # the actor of the mint's own events
VERSION: Final = version("arx-caps")


class Born(NamedTuple):
    """The position in the kill epoch before any authority was read: the birth of a token."""

    incarnation: str
    seq: int
    chain: str = ""


class KillView(NamedTuple):
    """Reads the mint's own view of the kill epoch: positions for new tokens, and what is killed or frozen.

    Attributes:
        epochs: The view.
        freezes: Keeps the freezes of database and store alike.
    """

    epochs: Epochs
    freezes: FreezeKeeper

    def born(self) -> Born:
        """Return the current position in the kill epoch. Call it before any authority is read.

        Raises:
            UnavailableError: The view is stale, or the store lacks freezes: no token may be minted now.
        """
        refused = self.epochs.check(None, 0, ())
        if refused is not None:
            raise refusal(refused.code)
        # A position that is behind the store is safe: its token is only revoked earlier. One that is read after the
        # authority would not be: a kill in between would miss the token.
        incarnation, seq, _ = self.epochs.view()
        self.freezes.require_complete(incarnation, seq)
        return Born(incarnation, seq, self.epochs.chain_at(incarnation, seq))

    def require(self, born: Born, targets: Sequence[str]) -> None:
        """Require that none of these targets was killed since ``born`` or is frozen.

        Args:
            born: The position that ``born`` returned.
            targets: The targets.

        Raises:
            RevokedError: One was killed, or is frozen.
            UnavailableError: The view is stale.
        """
        refused = self.epochs.check(born.incarnation, born.seq, targets)
        if refused is not None:
            raise refusal(refused.code)

    def refusal_now(self, targets: Sequence[str]) -> str | None:
        """Return the code of the refusal of a token of these targets that is born now, or None."""
        # Born at the newest applied entry: freezes count, and earlier kills do not.
        _, applied, _ = self.epochs.view()
        refused = self.epochs.check(None, max(applied, 0), targets)
        return None if refused is None else refused.code


# What a function may touch of a mint is in the annotation of its parameter; a mint has all of these parts.
class HasDatabase(Protocol):
    """A mint with its database."""

    db: MintDatabase


class HasRealm(Protocol):
    """A mint with the settings of its realm."""

    realm: Realm


class HasRootKeys(Protocol):
    """A mint with the realm's root keys."""

    root_keys: RootKeys


class HasKeySchedule(Protocol):
    """A mint with what decides which key mints."""

    key_schedule: KeySchedule


class HasIssuerKeys(Protocol):
    """A mint with the public keys of the issuers that the policy trusts."""

    issuer_keys: KeySets


class HasLedger(Protocol):
    """A mint with the pools of the realm's budgets."""

    ledger: RedisLedger | None


class HasKills(Protocol):
    """A mint with its view of the kill epoch."""

    kills: KillView


class HasEpochs(Protocol):
    """A mint with what that view reads."""

    epochs: Epochs


class HasPolicy(Protocol):
    """A mint with the policy in force, as ``MintContext.policy`` returns it."""

    @property
    def policy(self) -> Policy: ...


class HasPolicies(Protocol):
    """A mint with the policy in force and its reload."""

    policies: ActivePolicy


class HasLimits(Protocol):
    """A mint with the rate limits of agents and addresses."""

    limits: RateLimits


class HasLog(Protocol):
    """A mint with the realm's audit log."""

    log: AuditLog


class StoredParts(HasDatabase, HasRealm, Protocol):
    """What reads rows that the settings interpret."""


class SealedParts(StoredParts, HasRootKeys, Protocol):
    """What opens rows that are sealed."""


class LoggedParts(HasDatabase, HasLog, Protocol):
    """What reads rows, and records of them."""


class StoreParts(HasDatabase, HasEpochs, Protocol):
    """What uses up an id at the store, and in the database."""

    store: RevocationStore


class RevokingParts(HasDatabase, Protocol):
    """What ends sessions and tasks."""

    revoker: Revoker


class BudgetParts(HasDatabase, HasLedger, HasKills, Protocol):
    """What reads and changes the pools of sessions and tasks."""


class LivenessParts(HasDatabase, HasKills, HasPolicy, Protocol):
    """What knows which sessions and tasks live, and what their templates allow."""


class IssuingParts(StoredParts, HasKeySchedule, HasEpochs, LivenessParts, Protocol):
    """What issues and reads tokens."""


class TaskParts(IssuingParts, BudgetParts, RevokingParts, Protocol):
    """What opens sessions, and starts and changes tasks."""


class SigningParts(StoredParts, Protocol):
    """What signs access tokens."""

    signing_keys: SigningKeys


class HandleParts(TaskParts, SigningParts, Protocol):
    """What gives access tokens for tasks, and finds the task of one."""


class ClientParts(StoredParts, HasIssuerKeys, HasPolicy, HasLimits, Protocol):
    """What authenticates OAuth clients and the subjects of their requests."""

    client_documents: ClientDocuments


class OAuthParts(HandleParts, ClientParts, Protocol):
    """What answers OAuth clients."""


class IssuerParts(HasRealm, Protocol):
    """What asks the issuers of people's accounts."""

    account_issuers: dict[str, Any]


class AccountParts(SealedParts, IssuerParts, RevokingParts, HasKills, Protocol):
    """What connects and ends people's accounts."""

    store: RevocationStore


class LogParts(StoredParts, HasKills, HasPolicies, HasLog, Protocol):
    """What answers from the log, and erases in it."""

    freezes: FreezeKeeper


class RecordingParts(HasEpochs, HasPolicies, Protocol):
    """What records a decision on a call of this mint."""

    decisions: DecisionSink


class CallerParts(IssuingParts, RecordingParts, Protocol):
    """What authenticates the callers of routes."""


class MintContext:
    """The parts of a realm's mint.

    Attributes:
        realm: The realm's settings.
        db: The mint's database.
        root_keys: The root keys.
        key_schedule: Decides which key mints.
        signing_keys: The keys of access tokens.
        policies: The policy in force, and its reload.
        epochs: The mint's own view of the kill epoch.
        kills: Reads that view.
        store: The revocation store.
        store_url: Its address, as service files have it.
        ledger: The pools of the realm's budgets; None if its settings name none.
        topology: The store's replicas, and whether a failover begins a new history.
        decisions: The journal of the mint's decisions on calls.
        log: The realm's audit log.
        freezes: Keeps the freezes of database and store alike.
        history: Attests the store's history.
        confirmations: Watches and records the confirmations of kills.
        revoker: Kills, freezes and thaws.
        rotation: Makes, rotates and retires keys.
        notifications: Sends notifications to the realm's webhooks.
        limits: Rate limits of agents and addresses.
        issuer_keys: Public keys of the issuers that the policy trusts.
        account_issuers: The issuers of people's accounts at upstreams, by connection; ``mint.connections`` makes them.
        client_documents: Documents by which OAuth clients describe themselves.
        verifier: Verifies tokens for the mint itself.
        address: URL at which this mint listens itself, past a proxy; None if it serves no calls.
        wrong_issuer: How this mint's issuer differs from that of the realm's other mints; None if it does not.
    """

    address: str | None = None
    wrong_issuer: str | None = None

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
        ledger: RedisLedger | None = None,
    ) -> None:
        self.realm, self.db, self.root_keys = realm, db, roots
        self.policies = ActivePolicy(realm.policy_path, db, policy)
        self.epochs, self.store, self.store_url, self.ledger = epochs, store, store_url, ledger
        self.topology = Topology(realm.replicas, realm.on_failover, realm.failover_window_ms)
        self.decisions = decisions
        self.key_schedule = KeySchedule(realm, roots, db)
        self.signing_keys = SigningKeys(roots, db)
        self.issuer_keys = KeySets(realm.policy_path.parent, ca=realm.ca)
        self.account_issuers: dict[str, Any] = {}
        self.client_documents = ClientDocuments(() if realm.clients is None else realm.clients.hosts, realm.ca)
        self.limits = RateLimits(realm.limits)
        self._recording = WriteHealth(db.outbox, db.commits)
        self.verifier = Verifier(
            audience=MINT_AUDIENCE, keys=self.key_schedule.ring, epochs=epochs, decisions=decisions
        )
        self.log = open_log(realm, roots) if log is None else log
        self.freezes = FreezeKeeper(realm.name, db, store, self.log, self.advance)
        self.kills = KillView(epochs, self.freezes)
        # First: it halts the log if a restored database would sign a second history, before anything is appended.
        signed = SignedFeed(store, self.log.publisher)
        self.log.feeds = (signed, EventFeed(db), KillFeed(store), JournalFeed(realm.journals_dir / MINT))
        self.history = StoreHistory(realm, db, store, self.topology, epochs, self.log)
        self.confirmations = Confirmations(db, store)
        self.revoker = Revoker(db, store, self.history, self.freezes, self.confirmations, self.advance)
        self.rotation = KeyRotation(realm, db, roots, self.key_schedule, store, self.revoker)
        self.notifications = NotificationSender(
            realm, db, roots, Alarms(db, store, self.log, realm.limits.refusal_rate), self.view_state
        )

    @property
    def policy(self) -> Policy:
        """The policy in force.

        Raises:
            UnavailableError: ``no_policy``: this version refuses the policy in force.
        """
        return self.policies.require()

    def require_able(self) -> None:
        """Require that this mint may judge proofs: by its clock, and under the realm's issuer.

        Raises:
            StaleEpochError: ``fenced``: its clock differs from the store's by more than SPEC 10.5 allows, or its issuer
                from that of the realm's other mints.
        """
        # A wrong clock refuses good proofs. It also deletes used ids too early, those of other mints included.
        off = self.epochs.wrong_clock() or self.wrong_issuer
        if off is not None:
            raise StaleEpochError(off, code="fenced")

    def advance(self, place: HistoryPlace) -> None:
        """Raise the high-water mark to a position, and wait until this mint's view has it.

        Args:
            place: The position of a change that this mint has made.
        """
        try:
            self.db.epoch.raise_high_water(self.realm.name, HighWater(*place))
        finally:
            # The caller of a kill must find it in force at this mint in its next call.
            self.epochs.catch_up(0, place.seq, CATCH_UP_S)

    def ready(self) -> list[str]:
        """Return why the mint cannot serve; empty if it is ready."""
        refused = self.epochs.check(None, 0, ())
        reasons = [refused.detail] if refused is not None else []
        reasons += self.freezes.why_incomplete(*self.epochs.view()[:2]) if refused is None else []
        reasons += [self.wrong_issuer] if self.wrong_issuer is not None else []
        reasons += [NO_POLICY] if isinstance(self.policies.loaded, NoPolicy) else []
        # A halted log does not stop this mint, but its events wait unsigned, and another mint may be able to sign.
        reasons += [HALTED] if self.log.publisher.halted is not None else []
        return [*reasons, *self._recording.why_not()]

    def view_state(self) -> dict[str, Any]:
        """Return the facts of a heartbeat.

        Raises:
            StoreError: The log's database did not answer.
        """
        reasons = self.ready()
        log = {"log_size": self.log.store.size(), "log_signed": self.log.publisher.size}
        return {"ready": not reasons, "reasons": reasons, "version": VERSION, "mint": self.db.writer, **log}

    def warnings(self) -> list[str]:
        """Return what will prevent this mint from serving soon; empty if all is well."""
        folders = {self.realm.folder, self.realm.journals_dir / MINT, self.realm.log_dir}
        found = {(folder, room_fault(folder)) for folder in folders if folder.exists()}
        return sorted(f"the folder {folder.name} of this mint {fault}" for folder, fault in found if fault)

    def __repr__(self) -> str:
        return f"<Mint of {self.realm.name}>"
