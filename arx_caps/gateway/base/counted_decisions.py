# SPDX-License-Identifier: Apache-2.0
"""A sink of decisions that counts them for monitoring, by upstream, outcome and reason code; it names no agent."""

from typing import Final

from prometheus_client import Counter

from arx_caps.gateway.base.spans import note_decision
from arx_verifier.journal import EFFECT, WOULD_REFUSE, Decision, DecisionSink

_ALLOW: Final = "allow"
_DENY: Final = "deny"


class CountedDecisions:
    """Records decisions in another sink, and counts those that it took.

    Args:
        sink: Records them.
        counter: Counts by upstream, decision and reason.
        upstream: The upstream's name.

    Attributes:
        waits: As of ``sink``.
    """

    def __init__(self, sink: DecisionSink, counter: Counter, upstream: str) -> None:
        self._sink, self._counter, self._upstream, self.waits = sink, counter, upstream, sink.waits
        self._counted: dict[tuple[str, str], Counter] = {}  # looked up at every call

    @property
    def fill(self) -> float:
        """How full the sink is, 0 to 1."""
        return float(getattr(self._sink, "fill", 0.0))

    def append(self, decision: Decision) -> int:
        """Record a decision; see ``DecisionSink``."""
        sequence = self._sink.append(decision)
        if decision.code == EFFECT:
            return sequence
        self._count(_ALLOW if decision.allowed else WOULD_REFUSE if decision.watched else _DENY, decision.code)
        note_decision(decision)
        return sequence

    def count(self, code: str, peer: str | None, *, watched: bool = False) -> None:
        """Count an unauthenticated refusal; see ``DecisionSink``."""
        self._sink.count(code, peer, watched=watched)
        self._count(WOULD_REFUSE if watched else _DENY, code)

    def close(self) -> None:
        """Close the sink."""
        self._sink.close()

    def _count(self, decision: str, reason: str) -> None:
        labels = decision, reason
        if labels not in self._counted:
            self._counted[labels] = self._counter.labels(self._upstream, *labels)
        self._counted[labels].inc()
