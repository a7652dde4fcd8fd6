# SPDX-License-Identifier: Apache-2.0
"""A sink of decisions that counts them for monitoring, by outcome and reason code; it names no agent."""

from collections import defaultdict
from typing import Any, Final

from arx_verifier.journal.decision import OK, WOULD_REFUSE, Decision, DecisionSink
from arx_verifier.journal.record import EFFECT

Counts = defaultdict[tuple[str, str], int]  # by decision and reason
ALLOW: Final = "allow"
DENY: Final = "deny"
_ALLOWED: Final = (ALLOW, OK)


class CountedDecisions:
    """Records decisions in another sink, and counts those that it took.

    Args:
        sink: Records them; it has all other attributes.
        counts: Where they are counted; a new place when omitted.

    Attributes:
        sink: As given.
        waits: As of ``sink``.
        counts: The counts by decision and reason.
    """

    def __init__(self, sink: DecisionSink, counts: Counts | None = None) -> None:
        self.sink, self.waits = sink, sink.waits
        self.counts = Counts(int) if counts is None else counts

    def append(self, decision: Decision) -> int:
        """Record a decision; see ``DecisionSink``."""
        sequence = self.sink.append(decision)
        # Without a lock, which a fork could leave locked: a count that two threads lose is no harm.
        if (code := decision.code) == OK:  # nearly each one; the end and the effect of a call have other codes
            self.counts[_ALLOWED] += 1
        elif code != EFFECT and not decision.ends:  # the decision on the call is counted
            self.counts[WOULD_REFUSE if decision.watched else DENY, code] += 1
        return sequence

    def count(self, code: str, peer: str | None, *, watched: bool = False) -> None:
        """Count an unauthenticated refusal; see ``DecisionSink``."""
        self.sink.count(code, peer, watched=watched)
        self.counts[WOULD_REFUSE if watched else DENY, code] += 1

    def close(self) -> None:
        """Close the sink."""
        self.sink.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "sink"), name)  # a copy without it ends here
