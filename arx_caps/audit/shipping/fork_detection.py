# SPDX-License-Identifier: Apache-2.0
"""Detect forks of the audit log: pin its last checkpoint, accept only a consistent successor.  LOG 2.5."""

import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from arx_caps.audit.merkle.checkpoint import SignedCheckpoint, open_checkpoint
from arx_caps.audit.merkle.errors import NoteError, TamperedError
from arx_caps.audit.merkle.key_change import follow_changes
from arx_caps.audit.merkle.log_keys import LogKeys
from arx_caps.audit.merkle.note import VerifierKey, hashes64
from arx_caps.audit.merkle.tiles import write_whole
from arx_caps.audit.merkle.tree import EMPTY_ROOT, check_consistency
from arx_caps.audit.shipping.batch import LogWord

KEPT_FILE: Final = "log.seen"
FORK_FILE: Final = "log.fork"
PINNED_FILE: Final = "log.key"  # the key after a theft, by this service's operator
EVERY_S: Final = 10.0  # between two requests for a checkpoint
_log = logging.getLogger(__name__)


class _Kept(msgspec.Struct, frozen=True):
    key: str
    checkpoint: str


# A log that shows this service another history, or an older one, is detected here, even if its mint cooperates.
class Seen:
    """The last checkpoint that a shipper verified, kept in a file of its journal.

    Args:
        folder: The journal.

    Attributes:
        alarm: Why the log's last answer does not continue that checkpoint, or None.
    """

    def __init__(self, folder: Path) -> None:
        self.alarm: str | None = None
        self._folder = folder
        self._key: VerifierKey | None = None
        self._last: SignedCheckpoint | None = None
        self._next = 0.0
        self._read = False

    def asks(self) -> int | None:
        """Return the size of the last checkpoint, 0 for none, if a request is due; else None."""
        now = time.monotonic()
        if now < self._next:
            return None
        # Before the answer: a mint that answers slowly must not be asked by each batch.
        self._next = now + EVERY_S
        self._load()
        return 0 if self._last is None else self._last.checkpoint.size

    def take(self, word: LogWord) -> None:
        """Accept the log's answer as the last checkpoint, or raise the alarm and keep both as evidence.

        Args:
            word: The log's key, its checkpoint, and the proof that this continues the last one.
        """
        try:
            key = VerifierKey.parse(word.key)
            signed = open_checkpoint(word.checkpoint.encode(), self._trusted(key, word.changes))
            if signed.by != key:
                raise TamperedError(f"the log's checkpoint is not signed with the key that it names: {key.name}")
            last = self._last.checkpoint if self._last is not None else None
            old, root = (0, EMPTY_ROOT) if last is None else (last.size, last.root)
            head = signed.checkpoint
            # An older checkpoint fails here as well: the log may only grow.
            check_consistency(old, root, head.size, head.root, hashes64(word.consistency))
        except (NoteError, TamperedError) as error:
            self._raise_alarm(str(error), word)
            return
        # Only a consistent answer moves the pin: after an alarm the older checkpoint stays the one to continue.
        self._key, self._last, self.alarm = key, signed, None
        self._write(KEPT_FILE, msgspec.json.encode(_Kept(str(key), word.checkpoint)))

    def _trusted(self, key: VerifierKey, changes: Sequence[str]) -> LogKeys:
        """Return the keys that may sign: the first on first use, later those that it announced, or an operator named.

        Raises:
            NoteError: A change is malformed.
            TamperedError: The key is another one than before, and nothing announces it.
        """
        if self._key is None:
            return LogKeys.of(key)
        keys = follow_changes(self._key, changes)
        if any(era.key == key for era in keys.eras):
            return keys
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if (self._folder / PINNED_FILE).read_text(encoding="utf-8").strip() == str(key):
                return LogKeys.of(key)  # the history is compared all the same
        raise TamperedError(
            f"the log is signed with another key than before, which that one has not announced: {key.name}; if the "
            f"realm's owner gives you this key after a theft, write it into {self._folder / PINNED_FILE}"
        )

    def _raise_alarm(self, why: str, word: LogWord) -> None:
        # Written once for each reason: the first contradiction is the evidence, and the disk must not fill.
        if why != self.alarm:
            path = self._folder / FORK_FILE
            _log.error("the audit log contradicts what it said before: %s; see %s and %s", why, path, KEPT_FILE)
            self._write(FORK_FILE, msgspec.json.encode(word))
        self.alarm = why

    def _write(self, name: str, raw: bytes) -> None:
        try:
            write_whole(self._folder / name, raw)
        except OSError as error:  # a full disk is no reason not to ship
            _log.error("what was seen of the audit log cannot be kept: %s", error.strerror or error)

    def _load(self) -> None:
        if self._read:
            return
        self._read = True
        try:
            kept = msgspec.json.decode((self._folder / KEPT_FILE).read_bytes(), type=_Kept)
            self._key = VerifierKey.parse(kept.key)
            self._last = open_checkpoint(kept.checkpoint.encode(), self._key)
        except FileNotFoundError:
            return
        except (msgspec.MsgspecError, UnicodeDecodeError, NoteError, TamperedError) as error:
            # An alarm and no first use: an attacker who can damage the file would make this service trust another key.
            self.alarm = f"{self._folder / KEPT_FILE} cannot be read: {error}"
            _log.error("what was seen of the audit log is gone: %s", self.alarm)
