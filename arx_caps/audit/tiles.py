# SPDX-License-Identifier: Apache-2.0
"""A log's files: read proofs and records from them, and write them (c2sp.org/tlog-tiles).  SPEC 17.3.

The files are a copy that anybody may have and check, and can be written again: ``TileWriter`` never decides what is in
the log.  Each file appears whole or not at all.  What a reader computes is as
true as the files: the signed root decides, in ``tree`` and ``verify``.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, NamedTuple

from arx_caps.audit import tree
from arx_caps.audit.errors import IncompleteError, TamperedError
from arx_caps.audit.paths import (
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

# Gives the bytes of a path below the log's prefix, or None where there are none.
Fetch = Callable[[str], bytes | None]
_MAX_FILE_BYTES: Final = WIDTH * (2 + MAX_ENTRY_BYTES)  # a bundle of the longest records
_KEPT_TILES: Final = 128  # about 4 MiB with their inner hashes


class Leaf(NamedTuple):
    """What is appended: the hash, and the record's kept part or, where that is gone, None."""

    hash: bytes
    record: bytes | None


make_leaf: Final[Callable[[tuple[bytes, bytes | None]], Leaf]] = partial(tuple.__new__, Leaf)  # in half the time


def leaf_of(record: bytes) -> Leaf:
    """Return a record as it is appended."""
    return Leaf(tree.leaf_hash(record), record)


def fetch_from(folder: Path) -> Fetch:
    """Read a log's files from a folder; what is no file, or larger than one of a log can be, is not there."""

    def fetch(path: str) -> bytes | None:
        try:
            # Somebody else's folder: a pipe in it must not hold whoever checks it, nor a device fill the memory.
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
        fetch: Where the files are: ``fetch_from(folder)``, or over HTTP.
        size: The log's size, as its checkpoint says.
    """

    def __init__(self, fetch: Fetch, size: int) -> None:
        self.size, self._fetch = size, fetch
        self._tile = lru_cache(_KEPT_TILES)(self._read)

    def subtree(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree; ``tree.Subtrees``.

        Raises:
            IncompleteError: A tile that it needs is not there.
            TamperedError: A tile is not of its form.
        """
        above, within = divmod(level, LEVEL_BITS)
        place = index << within
        whole = self._tile(above, place // WIDTH)
        return whole.subtree(within, (place % WIDTH) >> within)

    def root(self, size: int | None = None) -> bytes:
        """Return the root over all records, or over the first ``size``."""
        return tree.root_of(self.subtree, self._within(size))

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the proof that a record is in the log, as it is or as it was with ``size`` records."""
        return tree.inclusion_proof(self.subtree, index, self._within(size))

    def consistency(self, old: int, size: int | None = None) -> list[bytes]:
        """Return the proof that the log of ``old`` records is the beginning of this one."""
        return tree.consistency_proof(self.subtree, old, self._within(size))

    def leaves(self, block: int) -> list[bytes]:
        """Return the hashes of the records in a block of 256, or of those that there are."""
        return self._hashes(tile_at(0, block, self.size))

    def records(self, block: int) -> list[bytes | None]:
        """Return the records of a block of 256; None for each that is gone and left its hash.

        Raises:
            IncompleteError: The bundle is not there: retention took it, or somebody.
            TamperedError: It is not of its form.
        """
        tile = tile_at(ENTRIES, block, self.size)
        records, whole = unpack_entries(self.raw(tile))
        if not whole or len(records) < tile.width:
            raise TamperedError(f"{tile.path} does not hold {tile.width} records", *covered(tile))
        return [record or None for record in records[: tile.width]]

    def record(self, index: int) -> bytes | None:
        """Return one record; None where it is gone and left its hash.

        Raises:
            IncompleteError: Its bundle is not there.
            TamperedError: Its bundle is not of its form.
        """
        return self.records(index // WIDTH)[index % WIDTH]

    def raw(self, tile: Tile) -> bytes:
        """Return the bytes of a tile or bundle of this log.

        Raises:
            IncompleteError: It is not there.
        """
        raw = self._fetch(tile.path)
        if raw is None and tile.width < WIDTH:
            # A log drops a partial tile when it is full, and the full one begins with the same.
            full = self._fetch(tile.full.path)
            raw = full if full is None or tile.level == ENTRIES else full[: tile.width * tree.HASH_BYTES]
        if raw is None:
            raise IncompleteError(f"{tile.path} is not there")
        return raw

    def _read(self, level: int, index: int) -> tree.Tree:
        return tree.Tree(self._hashes(tile_at(level, index, self.size)))

    def _hashes(self, tile: Tile) -> list[bytes]:
        return hashes_in(self.raw(tile), tile)

    def _within(self, size: int | None) -> int:
        if size is not None and not 0 <= size <= self.size:
            raise ValueError(f"this log has {self.size} records")
        return self.size if size is None else size


class TileWriter:
    """Writes a log's files as it grows; one at a time for a folder.

    Args:
        folder: Where; made if it is not there.
        durable: Whether files are on the disk before a checkpoint over them is published; only a copy that is made anew
            can do without.

    Attributes:
        size: How many records the files hold.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder, self.size, self._durable = folder, 0, durable
        self._unsynced: set[Path] = set()
        self._flushed = 0
        self._edge: dict[int, list[bytes]] = {}  # the hashes of each level's last tile
        self._records: list[bytes] = []  # the records of the last bundle
        _make_private(folder / TILES)
        # Kept open: a folder that is made again has another inode only as long as the removed one is in use.
        self._open = os.open(folder / TILES, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._open)

    @classmethod
    def resume(cls, folder: Path, size: int) -> "TileWriter":
        """Go on with files that hold ``size`` records; their root tells whether they are the right ones.

        Raises:
            IncompleteError: Something at their right edge is not there; write them again from the records.
            TamperedError: Something there is not of its form.
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
        """Return the tree of what was appended."""
        # A level's last tile holds complete subtrees, and those of the levels above stand to their left.
        edges = (tree.Frontier.of(self._edge[level]).edge for level in sorted(self._edge, reverse=True))
        return tree.Frontier(self.size, [each for edge in edges for each in edge])

    def root(self) -> bytes:
        """Return the root of what was appended."""
        return self.tree().root()

    def append(self, leaves: Iterable[Leaf]) -> None:
        """Append records.  Full tiles and bundles are written at once, the right edge by ``flush``.

        Where a record is gone, an empty entry stands in its place, which no record is.
        """
        new, at = list(leaves), 0
        while at < len(new):
            some = new[at : at + WIDTH - self.size % WIDTH]  # up to where a tile is full
            leaves, records = zip(*some, strict=True)
            self._records += [record or b"" for record in records]
            hashes = self._edge.setdefault(0, [])
            hashes += leaves
            at += len(some)
            if len(hashes) == WIDTH:
                self._write_records(Tile(ENTRIES, self.size // WIDTH))
                self._records = []
                self._close(0, hashes)
            self.size += len(some)

    def flush(self) -> None:
        """Write the tiles and the bundle at the right edge; a checkpoint of this size may then be published."""
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
        """Whether the folder that the files were written to was removed, also if there is another in its place."""
        try:
            return not os.path.samestat(os.fstat(self._open), (self.folder / TILES).stat())
        except FileNotFoundError:
            return True

    def publish(self, checkpoint: bytes) -> None:
        """Replace the checkpoint; its size's tiles are there, and on the disk before it is.

        Raises:
            FileNotFoundError: The tiles were removed meanwhile; no checkpoint is shown over them.
            OSError: It cannot be written.
        """
        self._settle()
        with _prepared(self.folder / CHECKPOINT, checkpoint, durable=self._durable) as beside:
            if not self.removed:
                beside.replace(self.folder / CHECKPOINT)
            if self.removed:  # also once it is there: its removal and that of the tiles may pass each other
                (self.folder / CHECKPOINT).unlink(missing_ok=True)
                raise FileNotFoundError(
                    errno.ENOENT, "the tiles were removed while they were written", str(self.folder)
                )

    def _add(self, level: int, new: bytes) -> None:
        hashes = self._edge.setdefault(level, [])
        hashes.append(new)
        if len(hashes) == WIDTH:
            self._close(level, hashes)

    def _close(self, level: int, hashes: list[bytes]) -> None:
        """Write a tile that is full, and what it adds to the level above."""
        place = self.size >> LEVEL_BITS * (level + 1)
        self._write(Tile(level, place), b"".join(hashes))
        self._edge[level] = []
        self._add(level + 1, tree.Frontier.of(hashes).root())

    def _write_records(self, bundle: Tile) -> None:
        if any(self._records):  # a bundle that retention has taken is not made again, out of nothing
            self._write(bundle, pack_entries(self._records))

    def _write(self, tile: Tile, raw: bytes) -> None:
        path = self.folder / tile.path
        write_whole(path, raw, durable=False)
        self._unsynced.add(path)
        if tile.width == WIDTH:
            shutil.rmtree(f"{path}.p", ignore_errors=True)

    def _settle(self) -> None:
        """Have all that was written on the disk: at once, which takes the disk a fraction of what one by one does."""
        folders = {self.folder}
        for path in self._unsynced if self._durable else ():
            with contextlib.suppress(FileNotFoundError):  # part of a tile that is whole by now
                _sync(path, os.O_RDONLY)
            above = path.parent
            while above not in folders:
                folders.add(above)
                above = above.parent
        for folder in folders if self._unsynced and self._durable else ():
            with contextlib.suppress(FileNotFoundError):
                _sync(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._unsynced.clear()


def lacks(folder: Path, size: int, first: int) -> bool:
    """Tell whether a tile or bundle of a log is missing in a folder.

    Args:
        folder: The log's files.
        size: The log's size.
        first: Records before this index are gone, and their bundles with them.
    """
    return any(
        not ((folder / tile.path).exists() or (folder / tile.full.path).exists())
        for tile in files_of(size)
        if tile.level != ENTRIES or tile.number >= first // WIDTH
    )


def prune(folder: Path, size: int, before: int) -> int:
    """Take away the bundles whose records all stand before an index.  The hashes stay, and with them every proof.

    Args:
        folder: The log's files.
        size: The log's size.
        before: Records from here on stay.

    Returns:
        The first record that is still there.
    """
    kept = min(before, size) // WIDTH
    for block in range(kept):
        (folder / Tile(ENTRIES, block).path).unlink(missing_ok=True)
    return kept * WIDTH


def write_whole(path: Path, raw: bytes, *, durable: bool = True) -> None:
    """Write a file so that it is there whole or not at all, whatever fails.

    Raises:
        OSError: It cannot be written.
    """
    _make_private(path.parent)
    with _prepared(path, raw, durable=durable) as beside:
        beside.replace(path)


@contextlib.contextmanager
def _prepared(path: Path, raw: bytes, *, durable: bool) -> Iterator[Path]:
    """Write a file beside its place, in a folder that exists, for the caller to move it there."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        yield beside
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if durable:
        _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


def _make_private(folder: Path) -> None:
    """Make a folder and those above it; records are about people, so that only this user may enter."""
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
