# SPDX-License-Identifier: Apache-2.0
"""Count appended records by outcome and reason, in memory, for metrics.  CONTROL 4.6."""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Final

from arx_caps.audit.ingest.entries import ALLOW, COUNTED, DENY, END, EVENT, WOULD_REFUSE, LogEntry
from arx_caps.credentials.jose import BAD_PROOF
from arx_verifier.errors import REASONS
from arx_verifier.journal.record import read_sealed

OTHER: Final = "other"  # for a code that SPEC 13 does not list: services must not create metrics without limit
_KNOWN: Final = frozenset((*REASONS, BAD_PROOF))
_DECISIONS: Final = {ALLOW: "allow", DENY: "deny", END: "end", WOULD_REFUSE: "would_refuse"}
_STORE: Final = "store."  # prefix of the kinds of the store's own events; no service can send one


# One mint appends each record, once: the counts of all mints of a realm add up to the realm's.
class Counts:
    """Counts of the records that this process appended since its start.  Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decisions: Counter[tuple[str, str]] = Counter()
        self._changes: Counter[str] = Counter()

    def add(self, entries: Sequence[LogEntry]) -> None:
        """Count records that were appended."""
        decisions: Counter[tuple[str, str]] = Counter()
        changes: Counter[str] = Counter()
        for (outcome, code), times in Counter((entry.outcome, entry.code) for entry in entries).items():
            if outcome in _DECISIONS:
                reason = code if outcome == ALLOW or code in _KNOWN else OTHER
                decisions[_DECISIONS[outcome], reason] += times
        for entry in entries:
            if entry.outcome == COUNTED:
                call = read_sealed(entry.kept, None).call
                for code, times in call.counts:
                    decisions["would_refuse" if call.watched else "deny", code if code in _KNOWN else OTHER] += times
            elif entry.outcome == EVENT and entry.tool.startswith(_STORE):
                # A kill of an agent, a person or the realm is the operation `kill+freeze`, and one of the kills.
                changes[entry.tool.removeprefix(_STORE).partition("+")[0]] += 1
        with self._lock:
            self._decisions.update(decisions)
            self._changes.update(changes)

    def decisions(self) -> dict[tuple[str, str], int]:
        """Return counts by decision (``allow``, ``deny``, ``end``, ``would_refuse``) and reason (``ok`` or a code)."""
        with self._lock:
            return dict(self._decisions)

    def changes(self) -> dict[str, int]:
        """Return counts of the kill sequence's entries by operation: ``kill``, ``freeze``, ``thaw``."""
        with self._lock:
            return dict(self._changes)
