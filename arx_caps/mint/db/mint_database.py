# SPDX-License-Identifier: Apache-2.0
"""The mint's database and its repositories, one a noun: ``db.agents.find(path)``.

A repository has one method a query or a change.  A change takes the ``Event`` that describes it, which is recorded in
the same transaction.  What may be granted is not decided here.
"""

from arx_caps.mint.db.database import Database
from arx_caps.mint.db.migrations import migrate, revision
from arx_caps.mint.db.repositories.agents import Agents
from arx_caps.mint.db.repositories.approvals import Approvals
from arx_caps.mint.db.repositories.epoch import Epoch
from arx_caps.mint.db.repositories.erasures import Erasures
from arx_caps.mint.db.repositories.grants import Grants
from arx_caps.mint.db.repositories.holder_keys import HolderKeys
from arx_caps.mint.db.repositories.keys import Keys
from arx_caps.mint.db.repositories.operators import Operators
from arx_caps.mint.db.repositories.outbox import Outbox
from arx_caps.mint.db.repositories.policies import Policies
from arx_caps.mint.db.repositories.proofs import Proofs
from arx_caps.mint.db.repositories.repeats import Repeats
from arx_caps.mint.db.repositories.services import Services
from arx_caps.mint.db.repositories.sessions import Sessions
from arx_caps.mint.db.repositories.tasks import Tasks
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.errors import StoreError


class MintDatabase(Database):
    """The mint's database.  Methods block: call them from a thread.  Used as a context manager, it closes itself.

    Attributes:
        agents: Who is enrolled.
        approvals: Requests for approval, and the operators' answers.
        epoch: How far the kill epoch had come, and which freezes stand.
        erasures: What goes of a person's data.
        grants: What tasks were granted.
        holder_keys: The keys by which agents, operators and services are known.
        keys: Root keys, the numbers of audiences' keys, and who fetched which.
        operators: Who they are, and their roles.
        outbox: What was recorded, in its order.
        policies: Every policy that ever was in force.
        proofs: The ids of used proofs.
        repeats: The calls with an idempotency key.
        services: Tool services, and who may enrol a key of theirs.
        sessions: The sessions.
        tasks: The tasks.

    Args:
        url: The database, in SQLAlchemy's form.
        writer: Names this process in what it records.
    """

    def __init__(self, url: str, *, writer: str = "mint") -> None:
        super().__init__(url, writer=writer)
        self.agents = Agents(self)
        self.approvals = Approvals(self)
        self.epoch = Epoch(self)
        self.erasures = Erasures(self)
        self.grants = Grants(self)
        self.holder_keys = HolderKeys(self)
        self.keys = Keys(self)
        self.operators = Operators(self)
        self.outbox = Outbox(self)
        self.policies = Policies(self)
        self.proofs = Proofs(self)
        self.repeats = Repeats(self)
        self.services = Services(self)
        self.sessions = Sessions(self)
        self.tasks = Tasks(self)

    def unit(self, *, one_change: bool = False) -> UnitOfWork:
        """Open the unit of work of one call.

        Args:
            one_change: Whether the call changes nothing but the database, in one transaction, which then spends its
                proofs.
        """
        return UnitOfWork(self, self.proofs, self.repeats, one_change=one_change)

    def create(self) -> str | None:
        """Make the tables, or bring those that are there into the form this version knows.

        Returns:
            The revision that was there; None when there was nothing.

        Raises:
            SettingsError: The database belongs to another version.
            StoreError: It did not answer.
        """
        try:
            with self.altering() as c:
                return migrate(c)
        except StoreError as error:
            # Told where a mint starts, and not to those who call it: they need not know where its database is.
            raise StoreError(f"{error}; it is {self.place}: see that it runs and lets this mint in") from None

    def revision(self) -> str | None:
        """Return the database's revision, or None when there is nothing in it.

        Raises:
            SettingsError: The database belongs to another version.
            StoreError: It did not answer.
        """
        with self.read() as c:
            return revision(c)
