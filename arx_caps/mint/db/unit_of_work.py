# SPDX-License-Identifier: Apache-2.0
"""The unit of work of one call: its idempotency key, proofs and events. CONTROL 1, 4.4.

Changes that are idempotent, or that no call makes, use ``Database.write``: a thaw, the end of a session, the notes of
the freeze keeper.
"""

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

from sqlalchemy import Table
from sqlalchemy.engine import Connection

from arx_caps.mint.db.database import Database
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.work.proofs import ProofRepository, Used, replayed, used_id
from arx_caps.mint.db.repositories.work.repeats import Claim, RepeatRepository
from arx_caps.mint.db.statement import insert_rows
from arx_caps.mint.db.tables import USED_JTI
from arx_caps.revocation.wire import ProofUsedError, UsedProof
from arx_verifier.errors import ArxError, GrantError, StoreError


class UnitOfWork:
    """The work of one call, in the thread that opened it.

    As a context manager, it uses at its end the proofs that no change has used.

    Attributes:
        claim: The call's idempotency key; None if it has none.
        claimed: Whether the key is stored, with what the call made.
        recipe: The content of the tokens that the call is about to return; a retry signs them again from it.
        events: The events of the open change.

    Args:
        database: The database.
        proofs: The used proofs.
        repeats: The calls with an idempotency key.
        one_change: Whether one change uses the call's proofs: the call's only transaction, or its change of the
            revocation store, which gets the proof from ``take_proof``.
        use_in_store: Uses a proof in the revocation store, if the database cannot; None for calls that the store does
            not judge.
    """

    def __init__(
        self,
        database: Database,
        proofs: ProofRepository,
        repeats: RepeatRepository,
        *,
        one_change: bool = False,
        use_in_store: Callable[[UsedProof], None] | None = None,
    ) -> None:
        self._database, self._proofs, self._repeats = database, proofs, repeats
        self._one_change, self._thread, self._use_in_store = one_change, threading.get_ident(), use_in_store
        self._pending: list[Used] | None = None  # proofs for the next change; None if none may wait
        self._taken = False  # whether the revocation store uses the pending proof
        # The row of a key has the facts of the thing and the recipe of its tokens, never a token: no table may hold
        # one.
        self.claim: Claim | None = None
        self.claimed = False
        self.recipe: Mapping[str, Any] | None = None
        self.events: list[Event] = []
        self._rows: list[tuple[Table, Mapping[str, Any]]] = []

    def __enter__(self) -> Self:
        if self._one_change:
            self._pending = []
        return self

    def __exit__(self, *_: object) -> None:
        pending, self._pending = self._pending or [], None
        # The store has used it up, and the database gets it for the next look alone: it may be the one that hangs.
        with contextlib.suppress(*((ArxError,) if self._taken else ())):
            # A call that was refused before its change has used its proof all the same. An error here is the answer.
            for used in pending:
                self._use(used)
        if pending or self._one_change:
            with contextlib.suppress(StoreError):  # the next call prunes
                self._proofs.prune()

    def _use(self, used: Used) -> None:
        try:
            self._proofs.spend(used)
        except StoreError:
            if self._use_in_store is None:
                raise
            try:
                self._use_in_store(_as_proof(used))
            except ProofUsedError as error:
                raise replayed(used) from error

    def spend(self, kind: str, kid: str, jti: str, until: int, *, is_used: bool | None = None) -> None:
        """Use the id of a proof or an assertion: in the next change, or in a transaction now.

        Args:
            kind: What the id belongs to, such as ``proof``.
            kid: The key that signed it, so that no other key can use up its ids.
            jti: The id.
            until: When it expires, in ms since the Unix epoch.
            is_used: Whether a query found it used; None if none has looked.

        Raises:
            GrantError: ``replayed``: the id was used before.
        """
        self._require_own_thread()
        used = used_id(kind, kid, jti, until)
        # The proof and the change in one transaction: one write to the disk instead of two. The unique key of the id
        # fails the second of two calls with one proof, and its change with it.
        if self._pending is None:
            self._proofs.spend(used)
            self._proofs.prune()
        else:
            self._pending.append(used)
            if self._proofs.is_used(used) if is_used is None else is_used:
                # The change would fail as well, but a replay should cost the mint as little as possible.
                raise replayed(used)

    def spend_all(self, used: Sequence[Used]) -> None:
        """Use ids up in one transaction now; it raises what ``spend`` raises."""
        self._proofs.spend(*used)
        self._proofs.prune()

    def take_proof(self) -> UsedProof | None:
        """Return the call's proof for a change of the revocation store, which uses it up; None without a proof."""
        self._taken = True
        return _as_proof(self._pending[0]) if self._pending else None

    def require_first(self) -> None:
        """Require that no other call with this call's idempotency key was done in the meantime.

        Raises:
            GrantError: ``conflict``: another one was.
        """
        # For a step outside the transaction, such as the kill of a task's old links. A late retry must not take it: it
        # would revoke what the first attempt gave.
        if self.claim is not None and self._repeats.find(self.claim) is not None:
            raise GrantError("another attempt at this call was done in the meantime", code="conflict")

    @contextlib.contextmanager
    def change(self, what: Event | None = None) -> Iterator[Connection]:
        """Run a change in one transaction with its events, proofs and idempotency key, all or none.

        Args:
            what: The event; None if the change calls ``note``, or finds nothing to do.

        Raises:
            GrantError: ``conflict``: another transaction changed the same row, used the key, or used a proof.
            StoreError: The database did not answer.
            AuditError: An event cannot be recorded, so the change was rolled back.
        """
        self._require_own_thread()
        self.events, self._rows = [] if what is None else [what], []
        with self._database.write() as c:
            yield c
            self._finish(c)
        # Only after the commit: proofs of a change that was rolled back are still to be used.
        if self.events and self._pending:
            self._pending.clear()
        self.claimed |= any(map(self._is_claimed, self.events))

    def note(self, what: Event) -> None:
        """Add an event to the open change."""
        self.events.append(what)

    def insert(self, table: Table, values: Mapping[str, Any]) -> None:
        """Insert a row at the end of the open change, with the rows of all that it inserts.

        Args:
            table: The table.
            values: The row, by columns.
        """
        self._rows.append((table, values))

    def record(self, what: Event) -> None:
        """Record an event that has no other change; it raises what ``change`` raises."""
        with self.change(what):
            pass

    def _finish(self, c: Connection) -> None:
        # The unique key of a proof's id decides, not a query before it: of two calls with one proof at the same moment,
        # both would find nothing. A change that found nothing to do uses no proof.
        proofs = [(USED_JTI, used.row()) for used in self._pending or ()] if self.events else []
        if proofs or self._rows:
            insert_rows(c, [*proofs, *self._rows])
        for event in self.events:
            # The key is written with the thing that it names. A retry then finds both or neither, and no "in progress"
            # to wait for.
            if self.claim is not None and self._is_claimed(event):
                self._repeats.add(c, self.claim, event, self.recipe)
            self._database.record_in(c, event)

    def _is_claimed(self, event: Event) -> bool:
        return self.claim is not None and event.kind == self.claim.makes

    def _require_own_thread(self) -> None:
        # Two calls that shared a unit would write each other's key and proofs.
        if threading.get_ident() != self._thread:
            raise RuntimeError("a unit of work belongs to the thread that opened it: open another")


def _as_proof(used: Used) -> UsedProof:
    return UsedProof(used.digest, secrets.token_hex(8), used.until)
