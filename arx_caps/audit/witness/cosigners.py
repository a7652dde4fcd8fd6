# SPDX-License-Identifier: Apache-2.0
"""Ask a log's witnesses to cosign its checkpoints, and report missing cosignatures.  LOG 1.6.

The request is in ``client``.  Whether the mint publishes a checkpoint without all cosignatures is a setting of
the realm.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from arx_caps.audit.merkle.errors import NoteError, WitnessError
from arx_caps.audit.merkle.note import WITNESS, Note, VerifierKey
from arx_caps.audit.witness.client import ask_witness
from arx_verifier.errors import SettingsError

PAUSE_S: Final = 10.0  # after a failure: a witness that does not answer must not delay each checkpoint
_log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """A witness to ask: its URL and its key."""

    url: str
    key: VerifierKey


class Witnesses:
    """The witnesses of one log.

    Args:
        asked: The witnesses to ask.
        required: Whether the mint publishes a checkpoint only with all cosignatures.
        ca: File of a further authority for TLS.

    Attributes:
        failing: Why a witness did not cosign the last time, or None.
    """

    def __init__(self, asked: Sequence[Asked] = (), *, required: bool = False, ca: str | None = None) -> None:
        self.required, self._ca = required, ca
        self.failing: str | None = None
        self._asked = tuple(asked)
        self._sizes: dict[str, int] = {}  # by URL: the size that the witness cosigned last
        self._again: dict[str, float] = {}  # by URL: when to ask again after a failure, monotonic clock, s

    @classmethod
    def of(cls, settings: Sequence[str], *, required: bool = False, ca: str | None = None) -> "Witnesses":
        """Parse a realm's setting, a list of ``URL KEY``.

        Args:
            settings: The setting.
            required: Whether the mint publishes a checkpoint only with all cosignatures.
            ca: File of a further authority for TLS.

        Raises:
            SettingsError: A member has another form, or its key is no witness's.
        """
        asked = []
        for setting in settings:
            url, _, text = setting.partition(" ")
            try:
                key = VerifierKey.parse(text.strip())
            except NoteError as error:
                expected = "expected `URL KEY`, the key as `arx witness init` printed it"
                raise SettingsError(f"invalid witnesses: {expected}: {error}") from error
            # The log's own key, pasted by mistake, would verify as a witness that is not one.
            if key.kind != WITNESS:
                raise SettingsError(f"invalid witnesses: expected a witness's key, got the log key {key.name}")
            asked.append(Asked(url.rstrip("/"), key))
        return cls(asked, required=required, ca=ca)

    def missing(self, note: Note) -> bool:
        """Return whether a cosignature is missing in a note."""
        return any(not _has(note, witness.key) for witness in self._asked)

    def cosigned(self, note: Note, size: int, prove: Callable[[int], Sequence[bytes]]) -> Note:
        """Return a checkpoint with the cosignatures that the witnesses add now.

        Witnesses that cosigned it already, or failed less than ``PAUSE_S`` ago, are not asked.

        Args:
            note: The checkpoint.
            size: Its size.
            prove: Returns the consistency proof from an older size.
        """
        now = time.monotonic()
        due = [asked for asked in self._asked if not _has(note, asked.key) and self._again.get(asked.url, now) <= now]
        if not due:
            return note
        failed = None
        # One failure does not keep the other witnesses from being asked.
        for url, key in due:
            try:
                note = note.signed(ask_witness(url, key, note, prove, old=self._sizes.get(url, 0), ca=self._ca))
                self._sizes[url] = size
                self._again.pop(url, None)
            except WitnessError as error:
                failed, self._again[url] = str(error), time.monotonic() + PAUSE_S
        self._note_state(failed)
        return note

    def _note_state(self, failed: str | None) -> None:
        if failed != self.failing:
            _log.error("the audit log's witnesses: %s", failed or "all of them cosign again")
        self.failing = failed


def _has(note: Note, key: VerifierKey) -> bool:
    return any(key.owns(signature) for signature in note.signatures)
