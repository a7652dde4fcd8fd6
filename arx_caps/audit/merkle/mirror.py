# SPDX-License-Identifier: Apache-2.0
"""Copy a log's files, with what is new since the last copy.  LOG 1.2, 1.3.

A copy holds the files of one checkpoint, and continues the older copy.  ``verification`` checks signatures and content.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from arx_caps.audit.merkle.checkpoint import Checkpoint
from arx_caps.audit.merkle.errors import IncompleteError, TamperedError
from arx_caps.audit.merkle.key_change import KEY_CHANGES
from arx_caps.audit.merkle.note import Note
from arx_caps.audit.merkle.paths import CHECKPOINT, ENTRIES, WIDTH, Tile, files_of
from arx_caps.audit.merkle.tiles import Fetch, TileReader, fetch_from, write_whole
from arx_caps.audit.merkle.tree import check_consistency

_TOLD_FILES: Final = 16  # bundles between two calls of progress


class Copied(NamedTuple):
    """The result of a copy.

    Attributes:
        head: Its checkpoint, not verified.
        files: Number of fetched files.
        gone: Number of missing bundles of records: pruned, or removed by an attacker.
    """

    head: Checkpoint
    files: int
    gone: int


def copy_log(fetch: Fetch, folder: Path, progress: Callable[[int, int], None] = lambda *_: None) -> Copied:
    """Copy a log's files into a folder.

    Args:
        fetch: Returns the content of a file of the log, or None.
        folder: The copy, new or older.
        progress: Called now and then with how many records are done, of how many.

    Returns:
        The checkpoint and the number of files.

    Raises:
        IncompleteError: The log has no checkpoint, or a tile of hashes is missing.
        TamperedError: The log does not continue the older copy, whose checkpoint stays.
        NoteError: A checkpoint is malformed.
        OSError: A file cannot be read or written.
    """
    raw, own = fetch(CHECKPOINT), fetch_from(folder)
    if raw is None:
        raise IncompleteError("the log has no checkpoint: nothing was signed yet, or this is no log's folder")
    head, held = _read(raw), own(CHECKPOINT)
    before = None if held is None else _read(held)
    files = gone = 0
    # Only missing files are fetched: a tile of a given width never changes.
    for number, tile in enumerate(files_of(head.size)):
        if own(tile.path) is None:
            fetched = fetch_tile(fetch, tile)
            if fetched is not None:
                write_whole(folder / fetched[0], fetched[1], durable=False)
                files += 1
            else:
                gone += 1
        if tile.level == ENTRIES and number % _TOLD_FILES == 0:
            progress(min(tile.number * WIDTH, head.size), head.size)
    if before is not None:
        _continue(before, head, TileReader(own, head.size))
    changes = fetch(KEY_CHANGES)
    if changes is not None and changes != own(KEY_CHANGES):
        write_whole(folder / KEY_CHANGES, changes)
    # Last, so that a copy that was interrupted keeps a checkpoint whose files it has.
    write_whole(folder / CHECKPOINT, raw)
    # After the checkpoint: until then a reader of the copy may need the narrower files.
    _tidy(folder, head.size)
    progress(head.size, head.size)
    return Copied(head, files, gone)


def fetch_tile(fetch: Fetch, tile: Tile) -> tuple[str, bytes] | None:
    """Return path and content of a tile's file, perhaps of the full one; None for a missing bundle of records.

    Args:
        fetch: Returns the content of a file of the log, or None.
        tile: The tile.

    Raises:
        IncompleteError: A tile of hashes is missing.
    """
    # The log may have grown since its checkpoint, and have replaced the narrower file by the full one.
    widths = (tile, tile.full)
    found = next(((it.path, content) for it in widths if (content := fetch(it.path)) is not None), None)
    if found is None and tile.level != ENTRIES:
        raise IncompleteError(f"{tile.path} is missing")
    return found


def _read(raw: bytes) -> Checkpoint:
    return Checkpoint.parse(Note.parse(raw).text)


def _continue(before: Checkpoint, head: Checkpoint, reader: TileReader) -> None:
    if before.origin != head.origin:
        raise TamperedError(f"the folder holds the log {before.origin}, and this is {head.origin}")
    if before.size > head.size:
        message = f"the log was rolled back: it ends with {head.size} records, and the folder has {before.size}"
        raise TamperedError(message, head.size, before.size - 1)
    # From the copied tiles, so that the log's server cannot answer each reader with another proof.
    check_consistency(before.size, before.root, head.size, head.root, reader.consistency(before.size))


def _tidy(folder: Path, size: int) -> None:
    """Remove the narrower files of an older copy that full files have replaced."""
    for tile in files_of(size):
        beside = folder / f"{tile.full.path}.p"
        if not beside.is_dir():
            continue
        if (folder / tile.full.path).exists():
            shutil.rmtree(beside)
            continue
        for file in beside.iterdir():
            if file != folder / tile.path:
                file.unlink()
