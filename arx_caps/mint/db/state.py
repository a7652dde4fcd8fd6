# SPDX-License-Identifier: Apache-2.0
"""The mint's state in one class: agents, operators, sessions, tasks, approvals, services, keys, proofs, kill epoch.

``repositories`` has one file a noun, and one method a query or a change.  Every change takes the ``Event`` that
describes it, which is recorded in the same transaction.  What may be granted is not decided here.
"""

from arx_caps.mint.db.database import now_ms
from arx_caps.mint.db.migrations import migrate, revision
from arx_caps.mint.db.repositories.agents import PeopleState
from arx_caps.mint.db.repositories.approvals import ApprovalState
from arx_caps.mint.db.repositories.epoch import EpochState, HighWater
from arx_caps.mint.db.repositories.erasures import ErasureState
from arx_caps.mint.db.repositories.grants import GrantState
from arx_caps.mint.db.repositories.idempotency import ProofState, RepeatState
from arx_caps.mint.db.repositories.keys import KeyState
from arx_caps.mint.db.repositories.operators import OperatorState
from arx_caps.mint.db.repositories.outbox import Outbox
from arx_caps.mint.db.repositories.policies import PolicyState
from arx_caps.mint.db.repositories.services import ServiceState
from arx_caps.mint.db.repositories.work import Room, WorkState
from arx_verifier.errors import StoreError

__all__ = ["HighWater", "MintState", "Room", "now_ms"]


class MintState(
    PeopleState,
    OperatorState,
    WorkState,
    GrantState,
    ApprovalState,
    ServiceState,
    KeyState,
    PolicyState,
    ProofState,
    RepeatState,
    EpochState,
    ErasureState,
):
    """The mint's state.  Methods block: call them from a thread.  Used as a context manager, it closes itself.

    Attributes:
        outbox: What was recorded, in its order.

    Args:
        url: The database, in SQLAlchemy's form.
        writer: Names this process in what it records.
    """

    def __init__(self, url: str, *, writer: str = "mint") -> None:
        super().__init__(url, writer=writer)
        self.outbox = Outbox(self)

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
