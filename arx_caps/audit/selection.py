# SPDX-License-Identifier: Apache-2.0
"""An exported selection: some records of a log, each with its proof under one checkpoint.  SPEC 17.5.

JSON Lines: the first has the checkpoint, each further one a record with index and path, the last how many there were.
It proves what it holds and cannot prove that nothing was left out: a whole log can.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, BinaryIO, Final

import msgspec
from msgspec import Meta

from arx_caps.audit.errors import IncompleteError, NoteError
from arx_caps.audit.note import Note, bytes64, hashes64
from arx_caps.audit.proof import Proof

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
    """Write the first line."""
    return _json({"schema": SCHEMA, "checkpoint": checkpoint})


def record_line(index: int, kept: str, body: str | None, path: Sequence[str]) -> bytes:
    """Write a record's line; bytes are in base64."""
    return _json({"index": index, "kept": kept, "body": body, "path": [*path]})


def end_line(count: int) -> bytes:
    """Write the last line."""
    return _json({"end": count})


def read_selection(file: BinaryIO) -> Iterator[Proof]:
    """Read a selection, nothing of it believed: each record comes as a proof to be checked.

    Raises:
        NoteError: A line is not of its form, or the records are not in order.
        IncompleteError: The file ends before its end.
    """
    head = _decoded(file.readline(MAX_LINE_BYTES + 1), _Head)
    if head.schema != SCHEMA:
        raise NoteError(f"this is no {SCHEMA}")
    note, count, last = Note.parse(head.checkpoint.encode()), 0, -1
    while raw := file.readline(MAX_LINE_BYTES + 1):
        line = _decoded(raw, _Line)
        if line.end is not None:
            if line.end != count or line.kept is not None or file.read(1):
                raise NoteError(f"the end of the selection counts {line.end} records, and there are {count}")
            return
        if line.index is None or line.kept is None or line.index <= last:
            raise NoteError(f"line {count + 2} of the selection is no record, or stands out of order")
        count, last = count + 1, line.index
        body = None if line.body is None else bytes64(line.body, "a body")
        yield Proof(bytes64(line.kept, "a record"), body, line.index, tuple(hashes64(line.path)), note)
    raise IncompleteError(f"the selection breaks off after {count} records")


def is_selection(raw: bytes) -> bool:
    """Tell whether bytes begin as a selection does."""
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
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NoteError("a line of the selection is not of its form") from error
