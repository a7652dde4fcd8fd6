# SPDX-License-Identifier: Apache-2.0
"""The mint's database with its repositories, one for each noun: ``db.agents.find(path)``.

Statements are in ``repositories``. What may be granted is decided in ``mint.tasks`` and ``mint.policy``.
"""

from collections.abc import Callable

from arx_caps.mint.db.database import Database
from arx_caps.mint.db.migrations import migrate, revision
from arx_caps.mint.db.repositories.events.erasures import ErasureRepository
from arx_caps.mint.db.repositories.events.notifications import NotificationRepository
from arx_caps.mint.db.repositories.events.outbox import OutboxRepository
from arx_caps.mint.db.repositories.events.webhooks import WebhookRepository
from arx_caps.mint.db.repositories.identity.agents import AgentRepository
from arx_caps.mint.db.repositories.identity.console_sessions import ConsoleSessionRepository
from arx_caps.mint.db.repositories.identity.holder_keys import HolderKeyRepository
from arx_caps.mint.db.repositories.identity.keys import KeyRepository
from arx_caps.mint.db.repositories.identity.operators import OperatorRepository
from arx_caps.mint.db.repositories.identity.services import ServiceRepository
from arx_caps.mint.db.repositories.identity.signing_keys import SigningKeyRepository
from arx_caps.mint.db.repositories.oauth.connections import ConnectionRepository
from arx_caps.mint.db.repositories.oauth.oauth_clients import OAuthClientRepository
from arx_caps.mint.db.repositories.oauth.oauth_consents import OAuthConsentRepository
from arx_caps.mint.db.repositories.oauth.oauth_handles import OAuthHandleRepository
from arx_caps.mint.db.repositories.oauth.oauth_refreshes import OAuthRefreshRepository
from arx_caps.mint.db.repositories.operations.backups import BackupRepository
from arx_caps.mint.db.repositories.operations.epoch import EpochRepository
from arx_caps.mint.db.repositories.operations.kills import KillRepository
from arx_caps.mint.db.repositories.operations.mints import IssuerRepository, MintRepository
from arx_caps.mint.db.repositories.operations.policies import PolicyRepository
from arx_caps.mint.db.repositories.work.approvals import ApprovalRepository
from arx_caps.mint.db.repositories.work.grants import TaskGrantRepository
from arx_caps.mint.db.repositories.work.ledger import LedgerRepository
from arx_caps.mint.db.repositories.work.previews import PreviewRepository
from arx_caps.mint.db.repositories.work.proofs import ProofRepository
from arx_caps.mint.db.repositories.work.repeats import RepeatRepository
from arx_caps.mint.db.repositories.work.sessions import SessionRepository
from arx_caps.mint.db.repositories.work.tasks import TaskRepository
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.revocation.wire import UsedProof
from arx_verifier.errors import StoreError


# A repository has one method for each query or change. A change takes its event, so that the two cannot come apart.
class MintDatabase(Database):
    """The mint's database. Methods block: call them from a thread.

    As a context manager, it closes its connections at its end.

    Attributes:
        agents: Enrolled agents.
        approvals: Requests for approval, and operators' answers.
        backups: When the last backup was made, and when one was tried.
        connections: Accounts of people at upstreams, and the keys that seal their tokens.
        console_sessions: Operators who are signed in to the console.
        epoch: The high-water mark of the kill epoch, and the freezes that are in force.
        erasures: The erasure of a person's data.
        grants: What each task may do.
        holder_keys: Public keys of agents, operators and services.
        issuer: The realm's issuer.
        keys: Root keys, audience key numbers, and which service has fetched which.
        kills: Kills, freezes and thaws, and their confirmations.
        ledger: The newest beginning of the realm's ledger.
        mints: The mints that share it, and where each listens.
        notifications: Notifications that wait or have failed, and alarms.
        oauth_clients: Registered OAuth clients.
        oauth_consents: What people consented to, and the codes for it.
        oauth_handles: What access tokens stand for.
        oauth_refreshes: Refresh tokens.
        operators: Operators and their roles.
        outbox: Recorded events, in order.
        policies: Every policy that was ever in force.
        previews: What a kill would end.
        proofs: Ids of used proofs.
        repeats: Calls with an idempotency key.
        services: Tool services and their enrolment tokens.
        sessions: Sessions.
        signing_keys: Keys that sign access tokens.
        tasks: Tasks.
        webhooks: Receivers of notifications.

    Args:
        url: The database, in SQLAlchemy's form.
        writer: The name of this process in the events that it records.
    """

    def __init__(self, url: str, *, writer: str = "mint") -> None:
        super().__init__(url, writer=writer)
        self.agents = AgentRepository(self)
        self.approvals = ApprovalRepository(self)
        self.backups = BackupRepository(self)
        self.connections = ConnectionRepository(self)
        self.console_sessions = ConsoleSessionRepository(self)
        self.epoch = EpochRepository(self)
        self.erasures = ErasureRepository(self)
        self.grants = TaskGrantRepository(self)
        self.holder_keys = HolderKeyRepository(self)
        self.issuer = IssuerRepository(self)
        self.keys = KeyRepository(self)
        self.kills = KillRepository(self)
        self.ledger = LedgerRepository(self)
        self.mints = MintRepository(self)
        self.notifications = NotificationRepository(self)
        self.oauth_clients = OAuthClientRepository(self)
        self.oauth_consents = OAuthConsentRepository(self)
        self.oauth_handles = OAuthHandleRepository(self)
        self.oauth_refreshes = OAuthRefreshRepository(self)
        self.operators = OperatorRepository(self)
        self.outbox = OutboxRepository(self)
        self.policies = PolicyRepository(self)
        self.previews = PreviewRepository(self)
        self.proofs = ProofRepository(self)
        self.repeats = RepeatRepository(self)
        self.services = ServiceRepository(self)
        self.sessions = SessionRepository(self)
        self.signing_keys = SigningKeyRepository(self)
        self.tasks = TaskRepository(self)
        self.webhooks = WebhookRepository(self)

    def unit(self, *, one_change: bool = False, use_in_store: Callable[[UsedProof], None] | None = None) -> UnitOfWork:
        """Return the unit of work of one call.

        Args:
            one_change: Whether the call changes the database alone, in one transaction. That transaction then also uses
                the call's proofs.
            use_in_store: Uses a proof in the revocation store, if the database cannot.
        """
        return UnitOfWork(self, self.proofs, self.repeats, one_change=one_change, use_in_store=use_in_store)

    def create(self) -> str | None:
        """Create the tables, or migrate them to the revision of this version.

        Returns:
            The revision before; None if the database was empty.

        Raises:
            SettingsError: The database belongs to another version.
            StoreError: The database did not answer.
        """
        try:
            with self.altering() as c:
                return migrate(c)
        except StoreError as error:
            # The address is only in this error, which the operator who starts a mint sees. Callers do not need it.
            raise StoreError(f"{error}; it is {self.place}: see that it runs and lets this mint in") from None

    def revision(self) -> str | None:
        """Return the database's revision, or None if it is empty.

        Raises:
            SettingsError: The database belongs to another version.
            StoreError: The database did not answer.
        """
        with self.read() as c:
            return revision(c)
