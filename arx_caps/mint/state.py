# SPDX-License-Identifier: Apache-2.0
"""What the mint remembers, in one place: agents, operators, sessions, tasks, services, used proofs, the kill epoch.

One file a noun (``state_*``), one method a question or a change.  Every change takes the ``Event`` that tells it, which
is recorded in the same transaction.  What may be granted is decided by others.
"""

from sqlalchemy import insert, select

from arx_caps.mint import tables
from arx_caps.mint.database import now_ms
from arx_caps.mint.state_epoch import EpochState, HighWater
from arx_caps.mint.state_outbox import Outbox
from arx_caps.mint.state_people import PeopleState
from arx_caps.mint.state_proofs import ProofState
from arx_caps.mint.state_services import ServiceState
from arx_caps.mint.state_work import WorkState
from arx_caps.mint.tables import META
from arx_verifier.errors import SettingsError

__all__ = ["HighWater", "State", "now_ms"]


class State(PeopleState, WorkState, ServiceState, ProofState, EpochState):
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

    def create(self) -> None:
        """Make the tables, or find them in the form this version knows.

        Raises:
            SettingsError: The database belongs to another version.
            StoreError: It did not answer.
        """
        with self.write() as c:
            tables.METADATA.create_all(c)
            found = c.execute(select(META.c.value).where(META.c.name == "schema")).scalar()
            if found is None:
                c.execute(insert(META).values(name="schema", value=str(tables.SCHEMA)))
            elif found != str(tables.SCHEMA):
                raise SettingsError(f"the mint's database has schema {found}, this version knows {tables.SCHEMA}")
