# SPDX-License-Identifier: Apache-2.0
"""A sink of decisions that counts them for monitoring, and notes each in the span of its request."""

from arx_caps.gateway.base.spans import note_decision
from arx_verifier.journal.decision import Decision
from arx_verifier.metrics.counted_decisions import CountedDecisions


class TracedDecisions(CountedDecisions):
    """Records decisions in another sink, counts those that it took, and notes them in spans."""

    def append(self, decision: Decision) -> int:
        """Record a decision; see ``DecisionSink``."""
        sequence = super().append(decision)
        note_decision(decision)
        return sequence
