# SPDX-License-Identifier: Apache-2.0
"""The habit of whoever ships: keep the log's last checkpoint, take the next one only if it continues that.  SPEC 18.5.

So a log that shows this service another history than before, or an older one, is found by the service, whatever its
mint says.  The log's key is believed at its first word unless it was given; another key later is an alarm as well.
"""

import logging
import time
from pathlib import Path
from typing import Final

import msgspec

from arx_caps.audit.checkpoint import SignedCheckpoint, open_checkpoint
from arx_caps.audit.errors import NoteError, TamperedError
from arx_caps.audit.note import VerifierKey, hashes64
from arx_caps.audit.tiles import write_whole
from arx_caps.audit.tree import EMPTY_ROOT, check_consistency
from arx_caps.audit.wire import LogWord

KEPT_FILE: Final = "log.seen"
FORK_FILE: Final = "log.fork"
EVERY_S: Final = 10.0  # between two questions
_log = logging.getLogger(__name__)


class _Kept(msgspec.Struct, frozen=True):
    key: str
    checkpoint: str


class Seen:
    """What a shipper has seen of the log; kept in a file of its journal.

    Args:
        folder: The journal.

    Attributes:
        alarm: Why the log's last word does not continue what was seen before, or None.
    """

    def __init__(self, folder: Path) -> None:
        self.alarm: str | None = None
        self._folder = folder
        self._key: VerifierKey | None = None
        self._last: SignedCheckpoint | None = None
        self._next = 0.0
        self._read = False

    def asks(self) -> int | None:
        """Return the size that was seen last, 0 for none, where it is time to ask; else None."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + EVERY_S
        self._load()
        return 0 if self._last is None else self._last.checkpoint.size

    def take(self, word: LogWord) -> None:
        """Take the log's word, or raise an alarm and keep both words as evidence."""
        try:
            key = VerifierKey.parse(word.key)
            if self._key is not None and key != self._key:
                raise TamperedError(f"the log is signed with another key than before: {key.name}")
            signed = open_checkpoint(word.checkpoint.encode(), key)
            last = self._last.checkpoint if self._last is not None else None
            old, root = (0, EMPTY_ROOT) if last is None else (last.size, last.root)
            head = signed.checkpoint
            check_consistency(old, root, head.size, head.root, hashes64(word.consistency))
        except (NoteError, TamperedError) as error:
            self._raise_alarm(str(error), word)
            return
        self._key, self._last, self.alarm = key, signed, None
        self._write(KEPT_FILE, msgspec.json.encode(_Kept(str(key), word.checkpoint)))

    def _raise_alarm(self, why: str, word: LogWord) -> None:
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
            self.alarm = f"{self._folder / KEPT_FILE} cannot be read: {error}"
            _log.error("what was seen of the audit log is gone: %s", self.alarm)
