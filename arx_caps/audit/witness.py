# SPDX-License-Identifier: Apache-2.0
"""A witness: signs that a log only ever grew, and no other thing (c2sp.org/tlog-witness).  SPEC 17.6.

It keeps the last checkpoint that it cosigned of each log it was told of, requires a proof that the next one continues
it, and goes neither back nor sideways.  So a log that shows one history to the witness cannot get another one
cosigned.  What it keeps is on the disk before it answers, under a lock that also holds other processes.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from arx_caps.audit.checkpoint import Checkpoint, SignedCheckpoint, cosign, open_checkpoint
from arx_caps.audit.errors import NoteError, TamperedError
from arx_caps.audit.keys import read_signer
from arx_caps.audit.note import MAX_NOTE_BYTES, Note, Signature, VerifierKey, decimal, hashes64, text64
from arx_caps.audit.tiles import write_whole
from arx_caps.audit.tree import EMPTY_ROOT, check_consistency
from arx_verifier.errors import SettingsError

KEY_FILE: Final = "witness.json"
MAX_HASHES: Final = 63
MAX_REQUEST_BYTES: Final = MAX_NOTE_BYTES + 4096
_TEXT: Final = "text/plain; charset=utf-8"
_SIZE: Final = "text/x.tlog.size"
_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    text: str
    kind: str = _TEXT


class Request(NamedTuple):
    """What ``POST /add-checkpoint`` carries.

    Attributes:
        old: The size that the witness is believed to have seen.
        proof: That the log continues it.
        note: The new checkpoint.
    """

    old: int
    proof: tuple[bytes, ...]
    note: Note

    @classmethod
    def parse(cls, raw: bytes) -> "Request":
        """Read a request's body.

        Raises:
            NoteError: It is not of its form.
        """
        head, found, note = raw.partition(b"\n\n")
        lines = head.decode("ascii", "replace").split("\n")
        if not found or not lines[0].startswith("old ") or len(lines) > 1 + MAX_HASHES:
            raise NoteError("a request is an old size, at most 63 hashes, an empty line and a checkpoint")
        return cls(decimal(lines[0].removeprefix("old "), "the old size"), tuple(hashes64(lines[1:])), Note.parse(note))

    def encode(self) -> bytes:
        """Write a request's body."""
        lines = (f"old {self.old}", *map(text64, self.proof))
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.note.encode()


class Witness:
    """A witness and what it has seen.

    Args:
        folder: Its folder, with its key file.
        logs: The keys of the logs that it knows; a log may have several.

    Attributes:
        key: What others verify its cosignatures with.
    """

    def __init__(self, folder: Path, logs: Sequence[VerifierKey]) -> None:
        """Open a witness's folder.

        Raises:
            SettingsError: There is no key, or what it has seen cannot be read.
        """
        self._signer = read_signer(folder / KEY_FILE, "witness")
        self.key = self._signer.key
        self._folder, self._logs = folder, tuple(logs)
        (folder / "seen").mkdir(mode=0o700, exist_ok=True)
        for key in self._logs:
            self._seen(key)

    def add_checkpoint(self, raw: bytes, at: int) -> Answer:
        """Answer ``POST /add-checkpoint``, in the order of the protocol's text.

        Args:
            raw: The request's body.
            at: The time, in seconds since the epoch.

        Raises:
            SettingsError: What was seen before cannot be read any more; nothing is cosigned then.
            OSError: The disk does not take what is to be kept.
        """
        try:
            request = Request.parse(raw)
            head = Checkpoint.parse(request.note.text)
        except NoteError as error:
            return Answer(400, f"{error}\n")
        keys = [key for key in self._logs if key.name == head.origin]
        if not keys:
            return Answer(404, "this witness does not know the log\n")
        try:
            by = request.note.verified(keys)
        except TamperedError as error:
            return Answer(403, f"{error}\n")
        if request.old > head.size:
            return Answer(400, "the old size is larger than the new one\n")
        signed = Note(request.note.text, tuple(each for each in request.note.signatures if _of(each, list(by))))
        with self._locked():
            return self._continue(next(iter(by)), request, head, signed, at)

    def last(self, origin_hash: str) -> bytes | None:
        """Return the last checkpoint cosigned of a log, by the SHA-256 of its origin in hex, or None."""
        if re.fullmatch("[0-9a-f]{64}", origin_hash):
            with contextlib.suppress(FileNotFoundError):
                return (self._folder / "seen" / origin_hash).read_bytes()
        return None

    def _continue(self, key: VerifierKey, request: Request, head: Checkpoint, signed: Note, at: int) -> Answer:
        """Cosign what continues the last one; the lock is held."""
        last = self._seen(key)
        size, root = (last.checkpoint.size, last.checkpoint.root) if last else (0, EMPTY_ROOT)
        if request.old != size:
            return Answer(409, f"{size}\n", _SIZE)
        try:
            check_consistency(size, root, head.size, head.root, request.proof)
        except TamperedError as error:
            if head.size == size:
                self._keep_evidence(head, signed)
            return Answer(422, f"{error}\n")
        line = cosign(signed, self._signer, at)
        write_whole(self._folder / "seen" / hash_of(head.origin), signed.signed(line).encode())
        return Answer(200, line.line())

    def _seen(self, key: VerifierKey) -> SignedCheckpoint | None:
        raw = self.last(hash_of(key.name))
        if raw is None:
            return None
        keys = [each for each in self._logs if each.name == key.name]
        for each in keys:
            # Signed by the log and by this very witness: nobody else can have put it there.
            with contextlib.suppress(NoteError, TamperedError):
                found = open_checkpoint(raw, each, [self.key])
                if self.key in found.seen:
                    return found
        raise SettingsError(f"what was seen of {key.name} is damaged: put back {self._folder / 'seen'} from a backup")

    def _keep_evidence(self, head: Checkpoint, signed: Note) -> None:
        """Keep a second root that a log signed for a size: with the one that was seen it convicts the log."""
        path = self._folder / "evidence" / f"{hash_of(head.origin)}-{head.size}"
        if not path.exists():
            write_whole(path, signed.encode())
        _log.error("%r signed two histories of %d records; see %s", head.origin, head.size, path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def hash_of(origin: str) -> str:
    """Return what names a log in a witness's paths."""
    return hashlib.sha256(origin.encode()).hexdigest()


def _of(signature: Signature, keys: Sequence[VerifierKey]) -> bool:
    return any(key.owns(signature) for key in keys)
