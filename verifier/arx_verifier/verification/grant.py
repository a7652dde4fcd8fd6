# SPDX-License-Identifier: Apache-2.0
"""What a successful verification returns: on whose behalf the call may run, and how to ask again.  SPEC 11.

A decision is not its effect.  What runs for long asks again with ``recheck``, and learns with ``on_end`` that the
middleware has ended it.  What is asked stands in ``freshness``.
"""

import os
import threading
from collections.abc import Callable

import msgspec

from arx_verifier.errors import ArxError
from arx_verifier.journal import ChainFacts, decision_id
from arx_verifier.revocation import Epochs
from arx_verifier.verification.chain_state import ProvenChain
from arx_verifier.verification.freshness import recheck

_ENDING = threading.Lock()  # one for all grants: it is taken when a call is ended early, or asks to be told of that
# A child that is forked while another thread holds it would wait for ever.  The standard library mends its locks so.
os.register_at_fork(after_in_child=_ENDING._at_fork_reinit)  # type: ignore[attr-defined]  # noqa: SLF001


class Grant(msgspec.Struct, eq=False):
    """One allowed call.  Only a ``Verifier`` builds one.

    Attributes:
        facts: Who, through whom, for which task: proven.  Names in ``facts.named`` are what the previous holder wrote;
            a tool must not authorise on them.
        tool: The tool that was allowed.
        exp: When the token's time is over, ms since the Unix epoch.
        ended: Why the middleware ended the call before it was over; None while it may go on.
    """

    facts: ChainFacts
    tool: str
    exp: int
    _epochs: Epochs
    _proven: ProvenChain
    _boot: str
    _sequence: int
    ended: ArxError | None = None
    _callbacks: list[Callable[[ArxError], object]] | None = None

    @property
    def decision(self) -> str:
        """The id of the recorded decision."""
        return decision_id(self._boot, self._sequence)

    @property
    def agent(self) -> str:
        """The agent that the mint proved."""
        return self.facts.agent

    @property
    def holder(self) -> str:
        """The last agent named in the chain: who is said to hold the token now."""
        return self.facts.named[-1] if self.facts.named else self.facts.agent

    @property
    def subject(self) -> tuple[str, str] | None:
        """Issuer and subject on whose behalf the agent's session runs, proven; None for nobody's.

        They are not the agent: what a tool lets them do, it lets them do through this agent and this task.
        """
        return self.facts.subject

    @property
    def session(self) -> str:
        """The session's id."""
        return self.facts.session

    @property
    def task(self) -> str | None:
        """The task's id; None only in a token for the mint."""
        return self.facts.task

    def recheck(self) -> None:
        """Ask once more, before an irreversible step of a long call, whether everything still stands.

        Waits for the revocation store when the token asks for a fresh view; from an event loop use
        ``recheck_async``.

        Raises:
            RevokedError: A target of the token was killed or frozen meanwhile.
            StaleEpochError: The verifier cannot know.
            ValidityError: The token's time is over.
        """
        refused = recheck(self._epochs, self._proven, may_wait=True)
        if refused is not None:
            raise refused

    async def recheck_async(self) -> None:
        """Ask as ``recheck`` does, without holding the event loop.

        Raises:
            RevokedError: A target of the token was killed or frozen meanwhile.
            StaleEpochError: The verifier cannot know.
            ValidityError: The token's time is over.
        """
        from asyncio import to_thread

        await to_thread(self.recheck)

    def on_end(self, callback: Callable[[ArxError], object]) -> None:
        """Be told when the middleware ends this call because the token no longer stands.

        It ends what runs in the event loop itself, by cancelling it.  This is for the rest: a thread, a process, a
        database's query.

        Args:
            callback: Called once, with the reason, in the event loop's thread: it must not wait.  Called at once when
                the call has ended already.
        """
        with _ENDING:
            if self.ended is None:
                self._callbacks = [*(self._callbacks or ()), callback]
                return
        callback(self.ended)

    def look_again(self) -> ArxError | None:
        """Look, without waiting, whether the token no longer stands; by the lease alone, whatever it asks for."""
        return recheck(self._epochs, self._proven, may_wait=False)

    def end(self, reason: ArxError) -> None:
        """End the call: for who runs it, such as the middleware.  Later ends than the first change nothing."""
        with _ENDING:
            if self.ended is not None:
                return
            self.ended, callbacks = reason, self._callbacks or ()
        for callback in callbacks:
            try:
                callback(reason)
            except Exception:  # whatever it is, the other callbacks are told
                _tell_of_it()

    def __repr__(self) -> str:
        return f"<Grant of {self.tool} to {self.holder}, decision {self.decision}>"


def _tell_of_it() -> None:
    import logging  # for what nearly never happens; whoever starts need not wait for it

    logging.getLogger(__name__).exception("a callback of an ended call failed; the call is ended all the same")
