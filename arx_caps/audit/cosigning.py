# SPDX-License-Identifier: Apache-2.0
"""The witnesses of a log: asked for each checkpoint, and told of when they are missing.  SPEC 17.6.

A witness that does not answer is asked again after a pause, so that it delays nothing for long.  Whether a checkpoint
is published without its cosignature is a setting of the realm.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from arx_caps.audit.errors import NoteError, WitnessError
from arx_caps.audit.note import WITNESS, Note, VerifierKey
from arx_caps.audit.witness_client import ask_witness
from arx_verifier.errors import SettingsError

PAUSE_S: Final = 10.0  # after a failure
_log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """A witness that is asked: where it is, and its key."""

    url: str
    key: VerifierKey


class Witnesses:
    """The witnesses of one log.

    Args:
        asked: Whom to ask.
        required: Whether nothing is published without all of them.
        ca: File of a further authority for TLS.

    Attributes:
        failing: Why one did not cosign the last time, or None.
    """

    def __init__(self, asked: Sequence[Asked] = (), *, required: bool = False, ca: str | None = None) -> None:
        self.required, self._ca = required, ca
        self.failing: str | None = None
        self._asked = tuple(asked)
        self._sizes: dict[str, int] = {}  # what each is known to have cosigned
        self._again: dict[str, float] = {}

    @classmethod
    def of(cls, settings: Sequence[str], *, required: bool = False, ca: str | None = None) -> "Witnesses":
        """Read a realm's setting: each ``URL KEY``.

        Raises:
            SettingsError: One is something else.
        """
        asked = []
        for each in settings:
            url, _, text = each.partition(" ")
            try:
                key = VerifierKey.parse(text.strip())
            except NoteError as error:
                said = "witnesses: each is `URL KEY`, the key as `arx witness init` printed it"
                raise SettingsError(f"{said}: {error}") from error
            if key.kind != WITNESS:
                raise SettingsError(f"witnesses: {key.name} is the key of a log, not of a witness")
            asked.append(Asked(url.rstrip("/"), key))
        return cls(asked, required=required, ca=ca)

    def missing(self, note: Note) -> bool:
        """Tell whether one has not cosigned."""
        return any(not _has(note, each.key) for each in self._asked)

    def cosigned(self, note: Note, size: int, prove: Callable[[int], Sequence[bytes]]) -> Note:
        """Ask the witnesses that have not cosigned yet, but for those that failed a moment ago.

        Args:
            note: The checkpoint.
            size: Its size.
            prove: Makes the consistency proof from an older size.

        Returns:
            It, with what they answered.
        """
        now = time.monotonic()
        due = [each for each in self._asked if not _has(note, each.key) and self._again.get(each.url, now) <= now]
        if not due:
            return note
        failed = None
        for url, key in due:
            try:
                note = note.signed(ask_witness(url, key, note, prove, old=self._sizes.get(url, 0), ca=self._ca))
                self._sizes[url] = size
                self._again.pop(url, None)
            except WitnessError as error:
                failed, self._again[url] = str(error), time.monotonic() + PAUSE_S
        self._tell(failed)
        return note

    def _tell(self, failed: str | None) -> None:
        if failed != self.failing:
            _log.error("the audit log's witnesses: %s", failed or "all of them cosign again")
        self.failing = failed


def _has(note: Note, key: VerifierKey) -> bool:
    return any(key.owns(each) for each in note.signatures)
