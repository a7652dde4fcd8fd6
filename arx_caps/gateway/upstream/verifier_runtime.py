# SPDX-License-Identifier: Apache-2.0
"""The running verifier of one table of the gateway's file."""

import asyncio
import logging
from pathlib import Path

from arx_caps.gateway.base.handle_decisions import HandleDecisions
from arx_caps.gateway.base.settings import DeciderTerms, UpstreamTerms
from arx_caps.gateway.base.spans import note_decision
from arx_verifier.errors import SettingsError
from arx_verifier.journal.decision import Decision, DecisionSink
from arx_verifier.metrics.counted_decisions import CountedDecisions, Counts
from arx_verifier.service import open_verifier, read_service_file
from arx_verifier.verification.nonces import MemoryNonces, NonceStore

_log = logging.getLogger(__name__)


class TracedDecisions(CountedDecisions):
    """Records decisions in another sink, counts those that it took, and notes them in spans."""

    def append(self, decision: Decision) -> int:
        """Record a decision; see ``DecisionSink``."""
        sequence = super().append(decision)
        note_decision(decision)
        return sequence


class RunningVerifier:
    """A verifier between ``start`` and ``close``.

    Args:
        place: The table's name in the file.
        name: Its own name.
        terms: The table.
        path: The service file.
        nonces: The memory of used calls; one of a process gives way to the store that the service file names.
        counts: As of ``CountedDecisions``.
        draws: Whether calls draw on budgets; False if the verifier behind draws.
        recorded: Further tools whose arguments and effects are recorded.

    Attributes:
        name: As given.
        handles: Records the decisions of access tokens with their assurance; None where none are taken.
        verifier: The verifier.
        idle: Set while no call runs.

    Raises:
        SettingsError: The service file cannot be read, or is of another audience.
    """

    def __init__(
        self,
        place: str,
        name: str,
        terms: UpstreamTerms | DeciderTerms,
        path: Path,
        nonces: NonceStore | None,
        counts: Counts,
        *,
        draws: bool = True,
        recorded: tuple[str, ...] = (),
    ) -> None:
        file = read_service_file(path)
        if file.audience != terms.audience:
            raise SettingsError(f"{place}: {path} is of {file.audience}, and `audience` is {terms.audience}")
        self.name, self._place = name, place
        gives_way = file.nonces is not None and isinstance(nonces, MemoryNonces)
        costs = (terms.costs or file.costs) if draws else {}
        if any(isinstance(cost, dict) for units in costs.values() for cost in units.values()):
            raise SettingsError(f"{place}: `costs` has a `reserve`, which no server behind the gateway could commit")
        self.handles: HandleDecisions | None = None

        def wrap(journal: DecisionSink) -> DecisionSink:
            if terms.resource is not None:
                journal = self.handles = HandleDecisions(journal)
            return TracedDecisions(journal, counts)

        chosen = None if gives_way else nonces
        opened = open_verifier(path, nonces=chosen, costs=costs, draws=draws, wrap=wrap)
        # The record of an effect has the person's credential, which no decision knows yet.
        effects = ("*",) if isinstance(terms, UpstreamTerms) and terms.has_people else (*terms.effects, *recorded)
        sees = isinstance(terms, UpstreamTerms)
        self.verifier = opened.within(terms.limits, effects, terms.marks, answers=sees, record_arguments=recorded)
        if (watch := terms.read_watch()) is not None:
            self.verifier = self.verifier.watching(watch)
        self._calls, self.idle = 0, asyncio.Event()
        self.idle.set()

    async def start(self) -> None:
        """Follow the revocation epoch, and ship the records where no other process or verifier does.

        Raises:
            ArxError: The journal or the store cannot be opened.
        """
        await asyncio.to_thread(self.verifier.start)

    def count(self, more: int) -> None:
        """Count a call that begins, or one that is over.

        Args:
            more: 1 or -1.
        """
        self._calls += more
        (self.idle.clear if self._calls else self.idle.set)()

    async def close(self) -> None:
        """Close the verifier; running calls must be over."""
        await asyncio.to_thread(self.verifier.close)
        _log.info("%s is closed", self._place)
