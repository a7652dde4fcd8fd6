# SPDX-License-Identifier: Apache-2.0
"""A witness: cosigns a log's checkpoints as long as the log only grows (c2sp.org/tlog-witness).  LOG 1.6.

``server`` serves it over HTTP.
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

from arx_caps.audit.merkle.checkpoint import Checkpoint, SignedCheckpoint, cosign, open_checkpoint
from arx_caps.audit.merkle.errors import NoteError, TamperedError
from arx_caps.audit.merkle.keys import read_signer
from arx_caps.audit.merkle.note import MAX_NOTE_BYTES, Note, Signature, VerifierKey, decimal, hashes64, text64
from arx_caps.audit.merkle.tiles import write_whole
from arx_caps.audit.merkle.tree import EMPTY_ROOT, check_consistency
from arx_verifier.errors import SettingsError

KEY_FILE: Final = "witness.json"
MAX_HASHES: Final = 63
MAX_REQUEST_BYTES: Final = MAX_NOTE_BYTES + 4096
_TEXT: Final = "text/plain; charset=utf-8"
_SIZE: Final = "text/x.tlog.size"
_log = logging.getLogger(__name__)


class WitnessResponse(NamedTuple):
    """An HTTP answer."""

    status: int
    text: str
    kind: str = _TEXT


class Request(NamedTuple):
    """The body of ``POST /add-checkpoint``.

    Attributes:
        old: The size that the sender believes the witness cosigned last.
        proof: The consistency proof from that size.
        note: The new checkpoint.
    """

    old: int
    proof: tuple[bytes, ...]
    note: Note

    @classmethod
    def parse(cls, raw: bytes) -> "Request":
        """Parse a request's body.

        Raises:
            NoteError: It is malformed.
        """
        head, separator, note = raw.partition(b"\n\n")
        lines = head.decode("ascii", "replace").split("\n")
        if not separator or not lines[0].startswith("old ") or len(lines) > 1 + MAX_HASHES:
            raise NoteError(
                "malformed request: expected an old size, at most 63 hashes, an empty line and a checkpoint"
            )
        return cls(decimal(lines[0].removeprefix("old "), "the old size"), tuple(hashes64(lines[1:])), Note.parse(note))

    def encode(self) -> bytes:
        """Return a request's body."""
        lines = (f"old {self.old}", *map(text64, self.proof))
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.note.encode()


# It keeps the last checkpoint that it cosigned of each log, and cosigns only one that continues it.  So a log that
# showed it one history gets no cosignature for another.
class Witness:
    """A witness, with the last checkpoints that it cosigned.

    Args:
        folder: Its folder, with its key file.
        logs: The keys of the logs that it cosigns; of a log with several, the last one signs now.

    Attributes:
        key: The public key of its cosignatures.
    """

    def __init__(self, folder: Path, logs: Sequence[VerifierKey]) -> None:
        """Open a witness's folder.

        Raises:
            SettingsError: The key is missing, or a stored checkpoint is damaged.
        """
        self._signer = read_signer(folder / KEY_FILE)
        self.key = self._signer.key
        self._folder, self._logs = folder, tuple(logs)
        (folder / "seen").mkdir(mode=0o700, exist_ok=True)
        for key in self._logs:
            self._seen(key)

    def add_checkpoint(self, raw: bytes, at: int) -> WitnessResponse:
        """Answer ``POST /add-checkpoint``, in the order of the protocol's text.

        Args:
            raw: The request's body.
            at: The time, in seconds since the epoch.

        Raises:
            SettingsError: The stored checkpoint is damaged; nothing is cosigned.
            OSError: The new checkpoint cannot be written; nothing is cosigned.
        """
        try:
            request = Request.parse(raw)
            head = Checkpoint.parse(request.note.text)
        except NoteError as error:
            return WitnessResponse(400, f"{error}\n")
        # Before any signature is verified: a stranger's log costs one look into a list.
        # The keys before the last one may be in the hands of a thief: they only explain what was seen.
        keys = [key for key in self._logs if key.name == head.origin][-1:]
        if not keys:
            return WitnessResponse(404, "this witness does not know the log\n")
        try:
            by = request.note.verified(keys)
        except TamperedError as error:
            return WitnessResponse(403, f"{error}\n")
        if request.old > head.size:
            return WitnessResponse(400, "the old size is larger than the new one\n")
        signed = Note(request.note.text, tuple(line for line in request.note.signatures if _of(line, list(by))))
        # From the look at the last checkpoint to the write of the next one: two requests at once could both continue
        # it.
        with self._locked():
            return self._continue(next(iter(by)), request, head, signed, at)

    def last(self, origin_hash: str) -> bytes | None:
        """Return the last cosigned checkpoint of a log, or None.

        Args:
            origin_hash: SHA-256 of the log's origin, hex.
        """
        # The text is a part of a path, and comes from a URL.
        if re.fullmatch("[0-9a-f]{64}", origin_hash):
            with contextlib.suppress(FileNotFoundError):
                return (self._folder / "seen" / origin_hash).read_bytes()
        return None

    def _continue(self, key: VerifierKey, request: Request, head: Checkpoint, signed: Note, at: int) -> WitnessResponse:
        """Cosign a checkpoint that continues the last one; the caller holds the lock."""
        last = self._seen(key)
        size, root = (last.checkpoint.size, last.checkpoint.root) if last else (0, EMPTY_ROOT)
        if request.old != size:
            return WitnessResponse(409, f"{size}\n", _SIZE)
        try:
            check_consistency(size, root, head.size, head.root, request.proof)
        except TamperedError as error:
            # Two roots of one size, both signed by the log, are proof of a fork; a wrong proof may be a mistake.
            if head.size == size:
                self._keep_evidence(head, signed)
            return WitnessResponse(422, f"{error}\n")
        line = cosign(signed, self._signer, at)
        # On disk before the answer leaves: else a restart would let the log show the witness another history.
        write_whole(self._folder / "seen" / hash_of(head.origin), signed.signed(line).encode())
        return WitnessResponse(200, line.line())

    def _seen(self, key: VerifierKey) -> SignedCheckpoint | None:
        raw = self.last(hash_of(key.name))
        if raw is None:
            return None
        keys = [known for known in self._logs if known.name == key.name]
        for known in keys:
            # Both the log and this witness must have signed it: no other process can have put it there.
            with contextlib.suppress(NoteError, TamperedError):
                signed = open_checkpoint(raw, known, [self.key])
                if self.key in signed.seen:
                    return signed
        raise SettingsError(f"what was seen of {key.name} is damaged: put back {self._folder / 'seen'} from a backup")

    def _keep_evidence(self, head: Checkpoint, signed: Note) -> None:
        """Store a second root that a log signed for one size: together with the first one it proves the fork."""
        path = self._folder / "evidence" / f"{hash_of(head.origin)}-{head.size}"
        if not path.exists():
            write_whole(path, signed.encode())
        _log.error("%r signed two histories of %d records; see %s", head.origin, head.size, path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # A file lock, so that it keeps out other processes as well.
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def hash_of(origin: str) -> str:
    """Return the SHA-256 of a log's origin in hex, which names it in a witness's paths."""
    return hashlib.sha256(origin.encode()).hexdigest()


def _of(signature: Signature, keys: Sequence[VerifierKey]) -> bool:
    return any(key.owns(signature) for key in keys)
