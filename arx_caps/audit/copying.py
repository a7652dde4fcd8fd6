# SPDX-License-Identifier: Apache-2.0
"""Copy a log's files while the log grows: whole files of one checkpoint, and only what is new since the last copy.

A copy is for somebody who checks it (``verify``); what is required here is only that it continues the one that was
there, as whoever keeps a copy keeps a checkpoint.  SPEC 17.2, 17.3.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from arx_caps.audit.checkpoint import Checkpoint
from arx_caps.audit.errors import IncompleteError, TamperedError
from arx_caps.audit.note import Note
from arx_caps.audit.paths import CHECKPOINT, ENTRIES, WIDTH, files_of
from arx_caps.audit.tiles import Fetch, TileReader, fetch_from, write_whole
from arx_caps.audit.tree import check_consistency

_TOLD_FILES: Final = 16  # progress is told once in so many


class Copied(NamedTuple):
    """What a copy holds.

    Attributes:
        head: Its checkpoint, not verified.
        files: How many files were fetched.
        gone: How many bundles of records are not there: retention took them, or somebody.
    """

    head: Checkpoint
    files: int
    gone: int


def copy_log(fetch: Fetch, folder: Path, progress: Callable[[int, int], None] = lambda *_: None) -> Copied:
    """Copy a log's files.

    Args:
        fetch: Where they are.
        folder: The copy, new or older.
        progress: Told now and then how many records are done, of how many.

    Raises:
        IncompleteError: There is no checkpoint, or a tile of hashes is not there.
        TamperedError: The log does not continue what the folder had; its checkpoint stays as it was.
        NoteError: A checkpoint is none.
        OSError: A file cannot be read or written.
    """
    raw, own = fetch(CHECKPOINT), fetch_from(folder)
    if raw is None:
        raise IncompleteError("there is no checkpoint: nothing was signed yet, or this is no log's folder")
    head, held = _read(raw), own(CHECKPOINT)
    before = None if held is None else _read(held)
    files = gone = 0
    for number, tile in enumerate(files_of(head.size)):
        if own(tile.path) is None:
            found = next(((each, got) for each in (tile, tile.full) if (got := fetch(each.path)) is not None), None)
            if found is not None:
                write_whole(folder / found[0].path, found[1], durable=False)
                files += 1
            elif tile.level == ENTRIES:
                gone += 1
            else:
                raise IncompleteError(f"{tile.path} is not there")
        if tile.level == ENTRIES and number % _TOLD_FILES == 0:
            progress(min(tile.number * WIDTH, head.size), head.size)
    if before is not None:
        _continue(before, head, TileReader(own, head.size))
    write_whole(folder / CHECKPOINT, raw)
    _tidy(folder, head.size)
    progress(head.size, head.size)
    return Copied(head, files, gone)


def _read(raw: bytes) -> Checkpoint:
    return Checkpoint.parse(Note.parse(raw).text)


def _continue(before: Checkpoint, head: Checkpoint, reader: TileReader) -> None:
    if before.origin != head.origin:
        raise TamperedError(f"the folder holds the log {before.origin}, and this is {head.origin}")
    if before.size > head.size:
        told = f"the log was rolled back: it ends with {head.size} records, and the folder has {before.size}"
        raise TamperedError(told, head.size, before.size - 1)
    check_consistency(before.size, before.root, head.size, head.root, reader.consistency(before.size))


def _tidy(folder: Path, size: int) -> None:
    """Take away the narrower files that stood at the end of an older copy."""
    for tile in files_of(size):
        beside = folder / f"{tile.full.path}.p"
        if not beside.is_dir():
            continue
        if (folder / tile.full.path).exists():
            shutil.rmtree(beside)
            continue
        for each in beside.iterdir():
            if each != folder / tile.path:
                each.unlink()
