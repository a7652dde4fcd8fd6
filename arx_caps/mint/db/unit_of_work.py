# SPDX-License-Identifier: Apache-2.0
"""What one call does once, in the transaction of its change: its idempotency key, proofs and events.  CONTROL 1, 4.4.

A handler opens a unit of work for its call and passes it on to what proves a caller, and to what a repeat must not do
twice.  A change that is the same when it is made twice, or that no call makes, takes ``Database.write``: a thaw, the
end of a session, the keeper's own notes.

The key is written in the transaction that makes the thing: no repeat makes the thing again, and no key is stored
without its thing.  The row has the facts of the thing and the recipe of its tokens; a repeat signs them again.

A proof is used before its call is answered, whatever the answer.  A call that changes the database in one transaction
uses its proof in that transaction: one write to the disk, not two.  A second call with the same proof fails it.  A
proof that no change took along, because the call was refused before, is written by itself.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Self

from sqlalchemy.engine import Connection

from arx_caps.mint.db.database import Database
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.proofs import Proofs, Used, replayed, used_id
from arx_caps.mint.db.repositories.repeats import Claim, Repeats
from arx_verifier.errors import GrantError


class UnitOfWork:
    """The work of one call, in the thread that opened it.  As a context manager, it spends what is left at its end.

    Attributes:
        claim: The call's key, with which it is done once; None where it has none.
        claimed: Whether the key is written, with what the call made.
        recipe: What the tokens say that are about to be given; a repeat signs them from it.
        events: What the change that is being made records.

    Args:
        database: The database.
        proofs: The used proofs.
        repeats: The calls with a key.
        one_change: Whether the call changes nothing but the database, in one transaction, which then spends its proofs.
    """

    def __init__(self, database: Database, proofs: Proofs, repeats: Repeats, *, one_change: bool = False) -> None:
        self._database, self._proofs, self._repeats = database, proofs, repeats
        self._one_change, self._thread = one_change, threading.get_ident()
        self._pending: list[Used] | None = None  # proofs that wait for the change; None where none may wait
        self.claim: Claim | None = None
        self.claimed = False
        self.recipe: Mapping[str, Any] | None = None
        self.events: list[Event] = []

    def __enter__(self) -> Self:
        if self._one_change:
            self._pending = []
        return self

    def __exit__(self, *_: object) -> None:
        pending, self._pending = self._pending or [], None
        for used in pending:
            self._proofs.spend(used)  # what it raises is the answer

    def spend(self, kind: str, kid: str, jti: str, until: int) -> None:
        """Use a proof's or an assertion's id, once: with the change that is to come, or else now.

        Args:
            kind: What it belongs to.
            kid: The key that signed it: nobody can use up another's ids.
            jti: The id.
            until: From when on it would be refused as too old, ms.

        Raises:
            GrantError: ``replayed``.
        """
        self._require_own_thread()
        used = used_id(kind, kid, jti, until)
        if self._pending is None:
            self._proofs.spend(used)
        else:
            self._pending.append(used)
            if self._proofs.is_used(used):
                raise replayed(used)  # told at once, before anything is done for who asks; else the change would tell
        self._proofs.prune()

    def require_first(self) -> None:
        """Require that what this call asks for was not done meanwhile by another one with its key.

        For a step that a repeat must not take once the first call is done: it would end what that has given.

        Raises:
            GrantError: ``conflict``: it was.
        """
        if self.claim is not None and self._repeats.find(self.claim) is not None:
            raise GrantError("this call was done meanwhile", code="conflict")

    @contextlib.contextmanager
    def change(self, what: Event | None = None) -> Iterator[Connection]:
        """Change something in one transaction, with its events, the call's proofs and its key; or nothing of it.

        Args:
            what: The event; None where the change ``note``s it, or finds nothing to do.

        Raises:
            GrantError: ``conflict``: somebody else changed the same thing, used the key, or used a proof.
            StoreError: The database did not answer.
            AuditError: An event cannot be recorded, so the change was not made.
        """
        self._require_own_thread()
        self.events = [] if what is None else [what]
        with self._database.write() as c:
            yield c
            if self.events:
                self._finish(c)
        if self.events and self._pending:
            self._pending.clear()
        self.claimed |= any(map(self._is_claimed, self.events))

    def note(self, what: Event) -> None:
        """Have the change that is being made record an event."""
        self.events.append(what)

    def record(self, what: Event) -> None:
        """Record an event that has no other change; see ``change``."""
        with self.change(what):
            pass

    def _finish(self, c: Connection) -> None:
        for used in self._pending or ():
            self._proofs.add(c, used)
        for event in self.events:
            if self.claim is not None and self._is_claimed(event):
                self._repeats.add(c, self.claim, event, self.recipe)
            self._database.record_in(c, event)

    def _is_claimed(self, event: Event) -> bool:
        return self.claim is not None and event.kind == self.claim.makes

    def _require_own_thread(self) -> None:
        # Two calls that shared one would write each other's key and proofs.
        if threading.get_ident() != self._thread:
            raise RuntimeError("a unit of work belongs to the thread that opened it: open another")
