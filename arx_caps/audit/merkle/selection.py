# SPDX-License-Identifier: Apache-2.0
"""Exported selections: records of a log, each with its inclusion proof under one checkpoint.  LOG 1.5.

The format is JSON Lines: first the checkpoint, then a line for each record with index and path, at last their number.
A selection proves what it contains; it cannot prove that nothing was omitted.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, BinaryIO, Final

import msgspec
from msgspec import Meta

from arx_caps.audit.merkle.errors import IncompleteError, NoteError
from arx_caps.audit.merkle.note import Note, bytes64, hashes64
from arx_caps.audit.merkle.proof import RecordProof

SCHEMA: Final = "arx/audit-selection/1"
MAX_LINE_BYTES: Final = 512 * 1024


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: str
    checkpoint: str


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record, or the end."""

    index: Annotated[int, Meta(ge=0)] | None = None
    kept: str | None = None
    body: str | None = None
    path: tuple[str, ...] = ()
    end: Annotated[int, Meta(ge=0)] | None = None


def head_line(checkpoint: str) -> bytes:
    """Return the first line.

    Args:
        checkpoint: The signed checkpoint, as text.
    """
    return _json({"schema": SCHEMA, "checkpoint": checkpoint})


def record_line(index: int, kept: str, body: str | None, path: Sequence[str]) -> bytes:
    """Return the line of a record.

    Args:
        index: Its index.
        kept: Its kept part, in base64.
        body: Its body, in base64, or None.
        path: Its inclusion path, each hash in base64.
    """
    return _json({"index": index, "kept": kept, "body": body, "path": [*path]})


def end_line(count: int) -> bytes:
    """Return the last line.

    Args:
        count: Number of records in the selection.
    """
    return _json({"end": count})


def read_selection(file: BinaryIO) -> Iterator[RecordProof]:
    """Yield each record of a selection as a proof, which the caller verifies.

    Args:
        file: The selection.

    Raises:
        NoteError: A line is malformed, or the records are out of order.
        IncompleteError: The file ends before the last line.
    """
    head = _decoded(file.readline(MAX_LINE_BYTES + 1), _Head)
    if head.schema != SCHEMA:
        raise NoteError(f"wrong schema: expected {SCHEMA}")
    note, count, last = Note.parse(head.checkpoint.encode()), 0, -1
    # Read line by line: a selection may be larger than memory, and its lines come from another party.
    while raw := file.readline(MAX_LINE_BYTES + 1):
        line = _decoded(raw, _Line)
        if line.end is not None:
            if line.end != count or line.kept is not None or file.read(1):
                raise NoteError(f"wrong count at the end of the selection: expected {count} records, got {line.end}")
            return
        if line.index is None or line.kept is None or line.index <= last:
            raise NoteError(f"line {count + 2} of the selection is not a record, or is out of order")
        count, last = count + 1, line.index
        body = None if line.body is None else bytes64(line.body, "a body")
        yield RecordProof(bytes64(line.kept, "a record"), body, line.index, tuple(hashes64(line.path)), note)
    raise IncompleteError(f"the selection breaks off after {count} records")


def is_selection(raw: bytes) -> bool:
    """Return whether bytes are the beginning of a selection."""
    return raw.startswith(b'{"schema":"arx/audit-selection/')


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def _decoded(raw: bytes, kind: Any) -> Any:
    if not raw.endswith(b"\n"):
        if len(raw) > MAX_LINE_BYTES:
            raise NoteError("a line of the selection is too long")
        raise IncompleteError("the selection breaks off in the middle of a line")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NoteError("a line of the selection is malformed") from error
