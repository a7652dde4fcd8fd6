# SPDX-License-Identifier: Apache-2.0
"""A sink of decisions that adds the assurance of access tokens to the records of their calls.  CONTROL 5.5."""

from typing import Final

import msgspec

from arx_verifier.journal.decision import Decision, DecisionSink
from arx_verifier.journal.record import ChainFacts

ASSURANCE: Final = "handle"  # of records of calls with an access token
PROVEN: Final = "handle-dpop"  # of those whose client proved the key that the access token is bound to
MAX_HANDLES: Final = 4_096  # of one upstream; a client has one, or a few


class HandleDecisions:
    """Records decisions in another sink; those of access tokens with their assurance.

    Args:
        sink: Records them.

    Attributes:
        waits: As of ``sink``.
    """

    def __init__(self, sink: DecisionSink) -> None:
        self._sink, self.waits = sink, sink.waits
        self._facts: dict[str, tuple[ChainFacts | None, ChainFacts | None, str]] = {}

    def know(self, link: str, *, bound: bool) -> None:
        """Record the decisions of a token from now on as those of an access token.

        Args:
            link: The token's id.  Only this gateway has that token: the mint gives it to no agent.
            bound: Whether the access token is bound to a key.
        """
        before = self._facts.pop(link, None)
        # After an exchange a bearer token may stand for the same link: its calls must not be recorded as proven.
        assurance = PROVEN if bound and (before is None or before[2] == PROVEN) else ASSURANCE
        while len(self._facts) >= 2 * MAX_HANDLES:
            del self._facts[next(iter(self._facts))]
        self._facts[link] = None, None, assurance

    @property
    def fill(self) -> float:
        """How full the sink is, 0 to 1."""
        return float(getattr(self._sink, "fill", 0.0))

    def append(self, decision: Decision) -> int:
        """Record a decision; see ``DecisionSink``."""
        known = self._facts.get(decision.facts.token)
        if known is not None and decision.facts is not known[1]:
            if known[0] is not decision.facts:  # packed once for a chain, and not for each call
                assurance = known[2]
                known = decision.facts, msgspec.structs.replace(decision.facts, assurance=assurance), assurance
                self._facts[decision.facts.token] = known
            assert known[1] is not None
            decision.facts = known[1]
        return self._sink.append(decision)

    def count(self, code: str, peer: str | None, *, watched: bool = False) -> None:
        """Count an unauthenticated refusal; see ``DecisionSink``."""
        self._sink.count(code, peer, watched=watched)

    def close(self) -> None:
        """Close the sink."""
        self._sink.close()
