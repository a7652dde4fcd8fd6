# SPDX-License-Identifier: Apache-2.0
"""What a successful verification returns: on whose behalf the call may run, and how to ask again.  SPEC 11."""

from collections.abc import Callable

from arx_verifier.decisions import ChainFacts
from arx_verifier.errors import ArxError


class Grant:
    """One allowed call.  Only a ``Verifier`` builds one.

    Attributes:
        facts: Who, through whom, for which task: proven.  Names in ``facts.named`` are what the previous holder wrote;
            a tool must not authorise on them.
        tool: The tool that was allowed.
        decision: The id of the recorded decision.
        exp: When the token's time is over, ms since the Unix epoch.
    """

    __slots__ = ("_recheck", "decision", "exp", "facts", "tool")

    def __init__(
        self, facts: ChainFacts, tool: str, decision: str, exp: int, recheck: Callable[[], ArxError | None]
    ) -> None:
        self.facts, self.tool, self.decision, self.exp = facts, tool, decision, exp
        self._recheck = recheck

    @property
    def agent(self) -> str:
        """The agent that the mint proved."""
        return self.facts.agent

    @property
    def holder(self) -> str:
        """The last agent named in the chain: who is said to hold the token now."""
        return self.facts.named[-1] if self.facts.named else self.facts.agent

    @property
    def session(self) -> str:
        """The session's id."""
        return self.facts.session

    @property
    def task(self) -> str | None:
        """The task's id; None only in a token for the mint."""
        return self.facts.task

    def checkpoint(self) -> None:
        """Ask once more, before an irreversible step of a long call, whether everything still stands.

        Raises:
            RevokedError: A scope of the token was killed or banned meanwhile.
            StaleEpochError: The verifier cannot know.
            ValidityError: The token's time is over.
        """
        refused = self._recheck()
        if refused is not None:
            raise refused

    def __repr__(self) -> str:
        return f"<Grant of {self.tool} to {self.holder}, decision {self.decision}>"
