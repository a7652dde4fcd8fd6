# SPDX-License-Identifier: Apache-2.0
"""The grant: the result of a successful verification.  SPEC 11.

A kill after the decision does not stop running work by itself.  A long call rechecks its token with ``recheck``, and
``on_end`` reports that the middleware has ended the call.
"""

import threading
from collections.abc import Callable, Sequence
from typing import ClassVar, Final

import msgspec

from arx_verifier._platform import at_fork
from arx_verifier.amounts import Amount
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, StoreError
from arx_verifier.journal.decision import decision_id
from arx_verifier.journal.record import ChainFacts, CredentialRecord
from arx_verifier.ledger.pools import Ledger, MarkQuestion, Taken
from arx_verifier.revocation.epoch import Epochs
from arx_verifier.revocation.store_steps import Steps, run, run_async, steps_of
from arx_verifier.verification.budgets import Drawn, remaining_texts
from arx_verifier.verification.chain_state import ProvenChain
from arx_verifier.verification.freshness import recheck
from arx_verifier.verification.watch import Watch

_ENDING = threading.Lock()  # one for all grants: only ``end`` and ``on_end`` take it, which are rare
# A child that is forked while another thread has the lock would wait forever.  The standard library resets its own
# locks in the same way.
at_fork(after_in_child=_ENDING._at_fork_reinit)  # type: ignore[attr-defined]  # noqa: SLF001
_ID_CHARS: Final = 128


class Grant(msgspec.Struct, eq=False):
    """One allowed call.  Only a ``Verifier`` builds one.

    Attributes:
        facts: Agent, holders, session and task, authenticated.  Names in ``facts.named`` are what the previous holder
            wrote; a tool must not authorize on them.
        tool: The tool that was allowed.
        exp: When the token expires, ms since the Unix epoch.
        ended: Why the middleware ended the call early; None while it may go on.
        external_id: The name that the tool itself gave to its effect, for the record of it; see ``effect``.
        has_failed: Whether the answer reports that nothing was done, whatever its status, for the same record.
        credential: The person's credential with which a gateway forwards the call, for the same record.
        account: The account of that credential.
        watch: The watch of its guard, in which a recheck ends it by a kill or a freeze alone; None if that enforces.
    """

    lends: ClassVar[bool] = True  # whether a gateway lends it its own credential
    KEY: ClassVar[str] = "arx"  # where a handler finds it: in the scope of ASGI, in the environ of WSGI

    facts: ChainFacts
    tool: str
    exp: int
    _epochs: Epochs
    _proven: ProvenChain
    _boot: str
    _sequence: int
    _token: str
    _drawn: Drawn | None = None
    ended: ArxError | None = None
    _callbacks: list[Callable[[ArxError], object]] | None = None
    watch: Watch | None = None
    external_id: str | None = None
    has_failed: bool = False
    credential: CredentialRecord | None = None
    account: str | None = None
    _ledger: Ledger | None = None
    _marks: tuple[str, ...] = ()  # that the service has set
    _unset: dict[str, ArxError] = {}  # by mark, why it may not be set; each grant has its own
    _answers: bool = False  # whether a part of the answer may have left

    @property
    def decision(self) -> str:
        """The id of the recorded decision."""
        return decision_id(self._boot, self._sequence)

    @property
    def token(self) -> str:
        """The token of this call, a secret that no log may have: a service may exchange it once for another one."""
        # A guard takes the token out of the request, so that no error report has it; ``repr`` does not show it either.
        return self._token

    @property
    def agent(self) -> str:
        """The agent that the mint proved."""
        return self.facts.agent

    @property
    def holder(self) -> str:
        """The last agent named in the chain: the holder, according to the previous holder."""
        return self.facts.named[-1] if self.facts.named else self.facts.agent

    @property
    def subject(self) -> tuple[str, str] | None:
        """Issuer and subject on whose behalf the agent's session runs, authenticated; None for a session without one.

        The subject is not the caller: the tool acts for the subject through this agent and this task.
        """
        return self.facts.subject

    @property
    def session(self) -> str:
        """The session's id."""
        return self.facts.session

    @property
    def born(self) -> tuple[str, int]:
        """The incarnation of the kill epoch and the sequence that the token was born at."""
        return self._proven.identifier.born

    @property
    def task(self) -> str | None:
        """The task's id; None only in a token for the mint."""
        return self.facts.task

    @property
    def remaining(self) -> dict[str, str]:
        """By unit what the token's budgets have left after this call, as decimal text; empty without a budget.

        Of several pools of a unit, the least.  A verifier that leases knows it as of its last question to the ledger.
        """
        return remaining_texts(self._drawn)

    @property
    def has_budget(self) -> bool:
        """Whether the token has a budget."""
        return self._drawn is not None

    def remaining_text(self) -> str:
        """Return ``remaining`` as a response header has it: ``calls="199", usd="2.5"`` (RFC 9651)."""
        return ", ".join([f'{unit}="{left}"' for unit, left in sorted(self.remaining.items())])

    def commit(self, actual: Amount | None = None, /, **by_unit: Amount) -> None:
        """Commit what a call with a reserved cost has cost: ``grant.commit(usd="0.0123")``; the rest goes back.

        Without a commit the whole reservation stays taken until the pool's period ends.  For a token without a budget
        it does nothing, so that a tool commits alike for every caller.  It waits for the ledger.

        Args:
            actual: The cost, where the tool reserves one unit alone.
            by_unit: The cost by unit; a unit that is not named costs what was reserved.

        Raises:
            ValueError: Nothing is reserved, it was committed before, or an amount is wrong.
            BudgetError: ``insufficient_budget``: it cost more than was reserved, and a pool has not so much left.
            StoreError: The ledger did not answer; call it again.
        """
        if self._drawn is not None:
            self._drawn.commit(by_unit if actual is None else self._drawn.of_reserved(actual))

    async def commit_async(self, actual: Amount | None = None, /, **by_unit: Amount) -> None:
        """Commit as ``commit`` does, without blocking the event loop."""
        if self._drawn is not None:
            costs = by_unit if actual is None else self._drawn.of_reserved(actual)
            await run_async(steps_of(self._drawn.commit, costs))

    def effect(self, *, external_id: str) -> None:
        """Note what the tool calls its effect, such as the id of a payment: ``grant.effect(external_id="re_7")``.

        It goes into the record of the effect, where the service has one made of this tool (``effects``); else nowhere.

        Args:
            external_id: The name, which must be no secret; of more than 128 characters the rest is cut off.
        """
        # A value of another type would make a record that none can read.
        self.external_id = str(external_id)[:_ID_CHARS]

    def mark(self, name: str) -> None:
        """Set a mark on the session or the task of this call: ``grant.mark("untrusted")``.  SPEC 21.3.

        Call it before the answer leaves, and let what it raises end the call: a warning that is not set forbids
        nothing.  It waits for the ledger; from an event loop use ``mark_async``.

        Args:
            name: A warning that a row of the token has, or a proof that a row lets this service set.

        Raises:
            ValueError: No row has it.  Or a part of the answer has left before it was set: a later one may have been
                read without it.
            StoreError: The ledger did not answer: it may not be set.  Until a further try sets it, no answer leaves.
        """
        run(self._mark_named(name))

    async def mark_async(self, name: str) -> None:
        """Set a mark as ``mark`` does, without blocking the event loop."""
        await run_async(self._mark_named(name))

    def set_declared(self, names: Sequence[str]) -> None:
        """Set those of some warnings that a row of the token has; a service that declares them calls this.

        Args:
            names: The warnings.

        Raises:
            StoreError: The verifier has no ledger, or it did not answer: they may not be set.
        """
        marks = self._proven.marks
        if marks is None or (asked := marks.declared(names, self.tool, now_ms())) is None:
            return
        if self._ledger is None:
            raise StoreError("marks are set in the ledger, and this verifier has none")
        run(self._mark(asked))

    def prove_done(self, at: int) -> None:
        """Set the proofs of this call, whose effect is done; a verifier calls this.

        Args:
            at: The time, ms since the Unix epoch.

        Raises:
            StoreError: The ledger did not answer: they may not be set.
        """
        if (asked := self._proofs(at)) is not None:
            run(self._mark(asked))

    @property
    def proves(self) -> bool:
        """Whether its effect proves a mark, which waits for the ledger."""
        return self._proofs(0) is not None

    def _proofs(self, at: int) -> MarkQuestion | None:
        marks = self._proven.marks
        return None if marks is None or self._ledger is None else marks.done(self.tool, at)

    def marks_with(self, result: str) -> tuple[str, ...]:
        """Return the marks that the service has set in this call, and those that its effect proves by its result."""
        proofs = self._proofs(0) if result == "done" else None
        return self._marks if proofs is None else tuple(dict.fromkeys((*self._marks, *proofs.names)))

    def _mark_named(self, name: str) -> Steps[None]:
        if self._proven.marks is None or self._ledger is None:
            raise ValueError("this token has no rules about marks")
        asked = self._proven.marks.named(name, self.tool, now_ms())
        try:
            yield from self._mark(asked)
        except StoreError as error:
            self._unset[name] = error
            raise
        self._unset.pop(name, None)
        if self._answers:
            raise ValueError(f"a part of the answer has left before the mark {name!r:.80} was set: set it earlier")

    def _mark(self, asked: MarkQuestion) -> Steps[None]:
        assert self._ledger is not None
        if not isinstance((yield from steps_of(self._ledger.take, "draw", "", (), None, asked)), Taken):
            raise StoreError("the ledger has no room for this mark, or has just begun")
        self._marks = tuple(dict.fromkeys((*self._marks, *asked.names)))

    def unset(self) -> ArxError | None:
        """Return why no part of the answer may leave: the service could not set a mark.  None if one may."""
        # Nearly each call has set all that it wanted.
        return next(iter(self._unset.values())) if self._unset and self.watch is None else None

    def leave(self) -> None:
        """Note that an answer, or a part of it, leaves; an adapter calls this before.

        Raises:
            StoreError: A mark of the call may not be set.
        """
        self._answers = True
        if (unset := self.unset()) is not None:
            raise unset

    async def give_back(self) -> None:
        """Give back what the call drew, as it is not begun; a pool per hour or day keeps it.  SPEC 17.4."""
        drawn, self._drawn = self._drawn, None
        if drawn is not None:
            await run_async(steps_of(drawn.undo))

    def recheck(self) -> None:
        """Raise if the token was revoked, frozen or expired meanwhile; call it before each irreversible step.

        It waits for the revocation store if the token requires a fresh view; from an event loop use ``recheck_async``.

        Raises:
            RevokedError: A target of the token was killed or frozen meanwhile.
            StaleEpochError: The verifier's view of the epoch is too old to decide.
            ValidityError: The token has expired.
        """
        refused = self._enforced(recheck(self._epochs, self._proven, may_wait=True))
        if refused is not None:
            raise refused

    async def recheck_async(self) -> None:
        """Raise as ``recheck`` does, without blocking the event loop.

        Raises:
            RevokedError: A target of the token was killed or frozen meanwhile.
            StaleEpochError: The verifier's view of the epoch is too old to decide.
            ValidityError: The token has expired.
        """
        from asyncio import to_thread

        await to_thread(self.recheck)

    def on_end(self, callback: Callable[[ArxError], object]) -> None:
        """Register a callback for the end of this call by the middleware, after a kill, a freeze or the expiry.

        The middleware itself cancels the work in the event loop.  The callback is for other work of the call: a thread,
        a process, a database query.

        Args:
            callback: Called once, with the reason, in the event loop's thread, or under WSGI and gRPC in another
                thread: it must not block.  Called at once if the call has ended already.
        """
        # Under the lock, so that a callback registered at the moment of the end runs exactly once.
        with _ENDING:
            if self.ended is None:
                self._callbacks = [*(self._callbacks or ()), callback]
                return
        callback(self.ended)

    def look_again(self) -> ArxError | None:
        """Return the error that ``recheck`` would raise, without waiting; a ``fresh`` of the token is not applied."""
        return self.unset() or self._enforced(recheck(self._epochs, self._proven, may_wait=False))

    def _enforced(self, refused: ArxError | None) -> ArxError | None:
        return refused if self.watch is None else self.watch.enforced(refused, self._epochs, self._proven)

    def end(self, reason: ArxError) -> None:
        """End the call; the middleware calls this.  A second call changes nothing.

        Args:
            reason: Why the call ends.
        """
        with _ENDING:
            if self.ended is not None:
                return
            self.ended, callbacks = reason, self._callbacks or ()
        for callback in callbacks:
            try:
                callback(reason)
            except Exception:  # a callback's error must not keep the other callbacks from their cleanup
                _log_failure()

    def __repr__(self) -> str:
        return f"<Grant of {self.tool} to {self.holder}, decision {self.decision}>"


def _log_failure() -> None:
    import logging  # imported on use, to keep the start fast: callbacks rarely fail

    logging.getLogger(__name__).exception("a callback of an ended call failed; the call is ended all the same")
