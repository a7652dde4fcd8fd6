# SPDX-License-Identifier: Apache-2.0
"""Count what is put into a log, by what came of it: numbers for whoever watches, kept in memory.  SPEC 22.6.

Each record is put in once, by one mint, so the counts of all mints of a realm add up to what happened.  A reason that
is none of SPEC 13 is counted as ``other``: what a service sends must not make numbers without end.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Final

from arx_caps.audit.entries import Entry
from arx_caps.audit.tables import ALLOW, COUNTED, DENY, END, EVENT
from arx_caps.jose import BAD_PROOF
from arx_verifier.errors import REASONS
from arx_verifier.journal.record import read_sealed

OTHER: Final = "other"
_KNOWN: Final = frozenset((*REASONS, BAD_PROOF))
_DECISIONS: Final = {ALLOW: "allow", DENY: "deny", END: "end"}
_STORE: Final = "store."  # what the kinds of the store's own events begin with; no service can send one


class Counts:
    """What was put into a log since this process began.  Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decisions: Counter[tuple[str, str]] = Counter()
        self._changes: Counter[str] = Counter()

    def add(self, entries: Sequence[Entry]) -> None:
        """Count records that are in the log now."""
        decisions: Counter[tuple[str, str]] = Counter()
        changes: Counter[str] = Counter()
        for (outcome, code), times in Counter((entry.outcome, entry.code) for entry in entries).items():
            if outcome in _DECISIONS:
                reason = code if outcome == ALLOW or code in _KNOWN else OTHER
                decisions[_DECISIONS[outcome], reason] += times
        for entry in entries:
            if entry.outcome == COUNTED:
                for code, times in read_sealed(entry.kept, None).call.counts:
                    decisions["deny", code if code in _KNOWN else OTHER] += times
            elif entry.outcome == EVENT and entry.tool.startswith(_STORE):
                changes[entry.tool.removeprefix(_STORE)] += 1
        with self._lock:
            self._decisions.update(decisions)
            self._changes.update(changes)

    def decisions(self) -> dict[tuple[str, str], int]:
        """Return the decisions by what was decided (``allow``, ``deny``, ``end``) and the reason (``ok`` or a code)."""
        with self._lock:
            return dict(self._decisions)

    def changes(self) -> dict[str, int]:
        """Return the entries of the kill sequence by what they did: ``kill``, ``freeze``, ``thaw``."""
        with self._lock:
            return dict(self._changes)
