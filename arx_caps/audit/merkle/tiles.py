# SPDX-License-Identifier: Apache-2.0
"""Read proofs and records from a log's files, and write these files (c2sp.org/tlog-tiles).  LOG 1.3.

The files are a copy for others to verify.  What a reader computes is as trustworthy as the files: ``tree`` and
``verification`` compare it with the signed root.
"""

import contextlib
import errno
import os
import shutil
import stat
import weakref
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, NamedTuple

import arx_caps.audit.merkle.tree as tree
from arx_caps.audit.merkle.errors import IncompleteError, TamperedError
from arx_caps.audit.merkle.paths import (
    CHECKPOINT,
    ENTRIES,
    LEVEL_BITS,
    MAX_ENTRY_BYTES,
    TILES,
    WIDTH,
    Tile,
    count_at,
    covered,
    files_of,
    hashes_in,
    levels_of,
    pack_entries,
    tile_at,
    unpack_entries,
)
from arx_caps.credentials.whole_files import sync_path, written_beside

# Returns the bytes of a path below the log's prefix, or None.
Fetch = Callable[[str], bytes | None]
_MAX_FILE_BYTES: Final = WIDTH * (2 + MAX_ENTRY_BYTES)  # a bundle of the longest records
_KEPT_TILES: Final = 128  # about 4 MiB with their inner hashes


class Leaf(NamedTuple):
    """A leaf to append: its hash, and the record's kept part, or None if that was pruned."""

    hash: bytes
    record: bytes | None


make_leaf: Final[Callable[[tuple[bytes, bytes | None]], Leaf]] = partial(tuple.__new__, Leaf)  # twice as fast


def leaf_of(record: bytes) -> Leaf:
    """Return the leaf of a record's kept part."""
    return Leaf(tree.leaf_hash(record), record)


def fetch_from(folder: Path) -> Fetch:
    """Return a function that reads a log's files from a folder.

    It returns None for a path that is no regular file, or is larger than a file of a log can be.

    Args:
        folder: The log's files, perhaps made by an attacker.
    """

    def fetch(path: str) -> bytes | None:
        try:
            # The folder may be an attacker's: a pipe in it must not block the reader, nor a device fill the memory.
            descriptor = os.open(folder / path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        with os.fdopen(descriptor, "rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
        return raw if len(raw) <= _MAX_FILE_BYTES else None

    return fetch


class TileReader:
    """Reads a log of a known size from its tiles.

    Args:
        fetch: Returns the content of a file: ``fetch_from(folder)``, or over HTTP.
        size: The log's size, from its checkpoint.
    """

    def __init__(self, fetch: Fetch, size: int) -> None:
        self.size, self._fetch = size, fetch
        self._tile = lru_cache(_KEPT_TILES)(self._read)

    def subtree(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree; a ``tree.Subtrees``.

        Raises:
            IncompleteError: A tile that it needs is missing.
            TamperedError: A tile is malformed.
        """
        above, within = divmod(level, LEVEL_BITS)
        place = index << within
        whole = self._tile(above, place // WIDTH)
        return whole.subtree(within, (place % WIDTH) >> within)

    def root(self, size: int | None = None) -> bytes:
        """Return the root over all records, or over the first ``size``; raises as ``subtree``."""
        return tree.root_of(self.subtree, self._within(size))

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the inclusion proof of a record, under all or the first ``size`` records; raises as ``subtree``."""
        return tree.inclusion_proof(self.subtree, index, self._within(size))

    def consistency(self, old: int, size: int | None = None) -> list[bytes]:
        """Return the proof that the log of ``old`` records is the beginning of this one; raises as ``subtree``."""
        return tree.consistency_proof(self.subtree, old, self._within(size))

    def leaves(self, block: int) -> list[bytes]:
        """Return the leaf hashes of a block of 256; fewer at the log's end."""
        return self._hashes(tile_at(0, block, self.size))

    def records(self, block: int) -> list[bytes | None]:
        """Return the records of a block of 256; None for each that was pruned and left its hash.

        Raises:
            IncompleteError: The bundle is missing: it was pruned, or removed by an attacker.
            TamperedError: The bundle is malformed.
        """
        tile = tile_at(ENTRIES, block, self.size)
        records, whole = unpack_entries(self.raw(tile))
        if not whole or len(records) < tile.width:
            raise TamperedError(f"{tile.path} does not hold {tile.width} records", *covered(tile))
        return [record or None for record in records[: tile.width]]

    def record(self, index: int) -> bytes | None:
        """Return one record; None if it was pruned and left its hash.

        Raises:
            IncompleteError: Its bundle is missing.
            TamperedError: Its bundle is malformed.
        """
        return self.records(index // WIDTH)[index % WIDTH]

    def raw(self, tile: Tile) -> bytes:
        """Return the bytes of a tile or bundle of this log.

        Raises:
            IncompleteError: It is missing.
        """
        raw = self._fetch(tile.path)
        if raw is None and tile.width < WIDTH:
            # A log drops a partial tile when it is full, and the full one begins with the same.
            full = self._fetch(tile.full.path)
            raw = full if full is None or tile.level == ENTRIES else full[: tile.width * tree.HASH_BYTES]
        if raw is None:
            raise IncompleteError(f"{tile.path} is missing")
        return raw

    def _read(self, level: int, index: int) -> tree.Tree:
        return tree.Tree(self._hashes(tile_at(level, index, self.size)))

    def _hashes(self, tile: Tile) -> list[bytes]:
        return hashes_in(self.raw(tile), tile)

    def _within(self, size: int | None) -> int:
        if size is not None and not 0 <= size <= self.size:
            raise ValueError(f"invalid size of the log: expected at most {self.size} records, got {size}")
        return self.size if size is None else size


# The writer does not decide what is in the log: its files can always be made again from the database.
class TileWriter:
    """Writes a log's files as it grows; use one writer at a time for a folder.

    Args:
        folder: The folder; made if it is missing.
        durable: Whether files are synced to disk before a checkpoint over them is published; False is only safe for a
            copy that can be made again.

    Attributes:
        size: Number of records in the files.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder, self.size, self._durable = folder, 0, durable
        self._unsynced: set[Path] = set()
        self._flushed = 0
        self._edge: dict[int, list[bytes]] = {}  # the hashes of each level's last tile
        self._records: list[bytes] = []  # the records of the last bundle
        _make_private(folder / TILES)
        # Kept open: while the removed folder is in use, a new folder in its place has another inode number.
        self._open = os.open(folder / TILES, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._open)

    @classmethod
    def resume(cls, folder: Path, size: int) -> "TileWriter":
        """Continue files that hold ``size`` records; the caller compares ``root`` with the signed one.

        Raises:
            IncompleteError: A file at their right edge is missing; write them again from the records.
            TamperedError: A file there is malformed.
        """
        writer, reader = cls(folder), TileReader(fetch_from(folder), size)
        for level in levels_of(size):
            last = tile_at(level, count_at(level, size) // WIDTH, size)
            writer._edge[level] = hashes_in(reader.raw(last), last) if last.width > 0 else []
        if size % WIDTH:
            writer._records = [record or b"" for record in reader.records(size // WIDTH)]
        writer.size = size
        return writer

    def tree(self) -> tree.Frontier:
        """Return the tree of the appended records."""
        # A level's last tile holds complete subtrees; those of the levels above are to their left.
        edges = (tree.Frontier.of(self._edge[level]).edge for level in sorted(self._edge, reverse=True))
        return tree.Frontier(self.size, [subtree for edge in edges for subtree in edge])

    def root(self) -> bytes:
        """Return the root of the appended records."""
        return self.tree().root()

    def append(self, leaves: Iterable[Leaf]) -> None:
        """Append leaves.  Full tiles and bundles are written at once, the right edge by ``flush``.

        Args:
            leaves: The leaves; a pruned record becomes an empty entry, which no record is.

        Raises:
            OSError: A file cannot be written.
        """
        new, at = list(leaves), 0
        while at < len(new):
            group = new[at : at + WIDTH - self.size % WIDTH]  # up to where a tile is full
            leaves, records = zip(*group, strict=True)
            self._records += [record or b"" for record in records]
            hashes = self._edge.setdefault(0, [])
            hashes += leaves
            at += len(group)
            if len(hashes) == WIDTH:
                self._write_records(Tile(ENTRIES, self.size // WIDTH))
                self._records = []
                self._close(0, hashes)
            self.size += len(group)

    def flush(self) -> None:
        """Write the tiles and the bundle at the right edge, so that a checkpoint of this size can be published."""
        if self._flushed == self.size:
            return
        for level in levels_of(self.size):
            tile = tile_at(level, count_at(level, self.size) // WIDTH, self.size)
            if tile.width > 0:
                self._write(tile, b"".join(self._edge[level]))
        if self._records:
            self._write_records(tile_at(ENTRIES, self.size // WIDTH, self.size))
        self._flushed = self.size

    @property
    def removed(self) -> bool:
        """Whether the folder of the tiles was removed, even if another one is in its place."""
        try:
            return not os.path.samestat(os.fstat(self._open), (self.folder / TILES).stat())
        except FileNotFoundError:
            return True

    def publish(self, checkpoint: bytes) -> None:
        """Replace the checkpoint, after its tiles are on disk.

        Args:
            checkpoint: The note of a checkpoint of the flushed size.

        Raises:
            FileNotFoundError: The tiles were removed meanwhile; no checkpoint is left.
            OSError: It cannot be written.
        """
        self._settle()
        with written_beside(self.folder / CHECKPOINT, checkpoint, durable=self._durable) as beside:
            if not self.removed:
                beside.replace(self.folder / CHECKPOINT)
            if self.removed:  # checked again: a checkpoint written while the tiles are being removed would remain
                (self.folder / CHECKPOINT).unlink(missing_ok=True)
                raise FileNotFoundError(
                    errno.ENOENT, "the tiles were removed while they were written", str(self.folder)
                )
        if self._durable:
            sync_path(self.folder)

    def _add(self, level: int, new: bytes) -> None:
        hashes = self._edge.setdefault(level, [])
        hashes.append(new)
        if len(hashes) == WIDTH:
            self._close(level, hashes)

    def _close(self, level: int, hashes: list[bytes]) -> None:
        """Write a full tile, and append its root to the level above."""
        place = self.size >> LEVEL_BITS * (level + 1)
        self._write(Tile(level, place), b"".join(hashes))
        self._edge[level] = []
        self._add(level + 1, tree.Frontier.of(hashes).root())

    def _write_records(self, bundle: Tile) -> None:
        if any(self._records):  # a pruned bundle is not written again with empty entries
            self._write(bundle, pack_entries(self._records))

    def _write(self, tile: Tile, raw: bytes) -> None:
        path = self.folder / tile.path
        write_whole(path, raw, durable=False)
        self._unsynced.add(path)
        if tile.width == WIDTH:
            shutil.rmtree(f"{path}.p", ignore_errors=True)

    def _settle(self) -> None:
        """Sync all written files and their folders to disk."""
        # All at once: this takes the disk a fraction of the time of one sync for each file when it is written.
        folders = {self.folder}
        for path in self._unsynced if self._durable else ():
            with contextlib.suppress(FileNotFoundError):  # a partial tile that a full one has replaced
                sync_path(path)
            above = path.parent
            while above not in folders:
                folders.add(above)
                above = above.parent
        for folder in folders if self._unsynced and self._durable else ():
            with contextlib.suppress(FileNotFoundError):
                sync_path(folder)
        self._unsynced.clear()


def lacks(folder: Path, size: int, first: int) -> bool:
    """Return whether a tile or bundle of a log is missing in a folder.

    Args:
        folder: The log's files.
        size: The log's size.
        first: Index of the first record that was not pruned; earlier bundles may be missing.
    """
    return any(
        not ((folder / tile.path).exists() or (folder / tile.full.path).exists())
        for tile in files_of(size)
        if tile.level != ENTRIES or tile.number >= first // WIDTH
    )


def prune(folder: Path, size: int, before: int) -> int:
    """Remove the bundles whose records are all before an index.  The tiles stay, so every proof still verifies.

    Args:
        folder: The log's files.
        size: The log's size.
        before: Index of the first record to keep.

    Returns:
        Index of the first remaining record.
    """
    kept = min(before, size) // WIDTH
    for block in range(kept):
        (folder / Tile(ENTRIES, block).path).unlink(missing_ok=True)
    return kept * WIDTH


def write_whole(path: Path, raw: bytes, *, durable: bool = True) -> None:
    """Write a file atomically.

    Args:
        path: The file; missing folders are made with mode 0700.
        raw: Its content.
        durable: Whether to sync the file and its folder to disk.

    Raises:
        OSError: It cannot be written.
    """
    _make_private(path.parent)
    with written_beside(path, raw, durable=durable) as beside:
        beside.replace(path)
    if durable:
        sync_path(path.parent)


def _make_private(folder: Path) -> None:
    """Make a folder and its parents with mode 0700."""
    # Records are about people: other users of the machine must not read them.
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
