# SPDX-License-Identifier: Apache-2.0
"""Read all of a log's files, and locate where they are not what its checkpoint signed.  LOG 1.3."""

from collections.abc import Callable

import arx_caps.audit.merkle.tree as tree
from arx_caps.audit.merkle.checkpoint import Checkpoint
from arx_caps.audit.merkle.errors import IncompleteError, TamperedError
from arx_caps.audit.merkle.paths import (
    ENTRIES,
    LEVEL_BITS,
    WIDTH,
    Tile,
    covered,
    hashes_in,
    levels_of,
    tile_at,
    tiles_of,
    unpack_entries,
)
from arx_caps.audit.merkle.tiles import Fetch, TileReader

Range = tuple[int, int]  # the first and the last record
_TOLD_BLOCKS = 16  # blocks between two calls of progress


class _Side:
    """One version of the log: roots of its complete blocks of 256, and leaves of the last, narrower one."""

    def __init__(self) -> None:
        self.blocks = tree.Tree()
        self.last: list[bytes] = []

    def root(self, start: int, end: int, rest: list[bytes] | None = None) -> bytes:
        """Return the hash of a range that begins at a block's start.

        Args:
            start: Index of the first record, a multiple of 256.
            end: Index after the last; within a block only if ``rest`` or the last leaves cover that block.
            rest: Leaves of the block that ``end`` is in; those of the last block when omitted.
        """
        leaves = self.last if rest is None else rest

        def subtree(level: int, index: int) -> bytes:
            if level >= LEVEL_BITS:
                return self.blocks.subtree(level - LEVEL_BITS, index)
            at = (index << level) % WIDTH
            return tree.Frontier.of(leaves[at : at + (1 << level)]).root()

        return tree.range_hash(subtree, start, end) if end else tree.EMPTY_ROOT


# Every record is hashed and compared with its leaf in the tiles.  Where the two differ, the signed root shows which one
# was altered.  If the root agrees with neither, the upper tiles narrow down where.
class Scan:
    """One scan of a log's files.  Call ``read``, then the checks.

    Args:
        fetch: Returns the content of a file of the log, or None.
        head: The log's checkpoint, verified.
        held: An older checkpoint, verified, or None.

    Attributes:
        records: Number of existing, hashed records.
        first: Index of the first of them, or None.
        gone: Ranges of missing records.
    """

    def __init__(self, fetch: Fetch, head: Checkpoint, held: Checkpoint | None = None) -> None:
        self.records = 0
        self.first: int | None = None
        self.gone: list[Range] = []
        self._fetch, self._head, self._held = fetch, head, held
        self._reader = TileReader(fetch, head.size)
        self._by_tile, self._by_record = _Side(), _Side()
        self._held_rest: list[bytes] | None = None  # the leaves of the block in which the held checkpoint ends
        self._bad: int | None = None  # the first record that is not its leaf

    def read(self, progress: Callable[[int, int], None]) -> None:
        """Hash every record.

        Args:
            progress: Called now and then with how many records are done, of how many.

        Raises:
            IncompleteError: A record and its hash are both missing, so that no root can be computed.
            TamperedError: A tile is malformed.
        """
        # The size is only a claim: a block that no file covers raises, so the existing files bound the work.
        size = self._head.size
        for block in range(-(-size // WIDTH)):
            self._read_block(block)
            if block % _TOLD_BLOCKS == 0:
                progress(block * WIDTH, size)
        progress(size, size)

    def compare_root(self) -> None:
        """Compare the scanned log with the signed root.

        Raises:
            TamperedError: It is not what was signed.
        """
        size, root = self._head.size, self._head.root
        if self._by_tile.root(0, size) == root:  # the tiles are what was signed, so they identify an altered record
            if self._bad is not None:
                # If records just before it are missing, the altered bytes may be one of those, cut short.
                first = next((first for first, last in self.gone if last == self._bad - 1), self._bad)
                raise TamperedError(f"record {self._bad} is not what was logged", first, self._bad)
            return
        if self._by_record.root(0, size) == root:
            block = (self._bad or 0) // WIDTH
            tile = tile_at(0, block, size)
            raise TamperedError(f"the records are as they were logged, but {tile.path} was altered", *covered(tile))
        first, last = self._attenuated(0, size, root) or (0, max(0, size - 1))
        held = self._held
        if held is not None and 0 < held.size <= last and self._root_at(held.size) == held.root:
            first = max(first, held.size)  # the records before are still those of the older checkpoint
        where = f"record {first}" if first == last else f"one of the records {first} to {last}"
        raise TamperedError(f"{where} is not what was logged: the signed root differs", first, last)

    def hold_tiles(self) -> None:
        """Compare the tiles of the upper levels, which proofs are made from, with the records.

        Raises:
            TamperedError: A tile was altered.  A missing one is no error, because it can be made again.
        """
        for level in levels_of(self._head.size)[1:]:
            for tile in tiles_of(level, self._head.size):
                raw = self._fetch(tile.path)
                wanted = range(tile.number * WIDTH, tile.number * WIDTH + tile.width)
                own = (self._by_tile.blocks.subtree(LEVEL_BITS * (level - 1), index) for index in wanted)
                if raw is not None and hashes_in(raw, tile) != list(own):
                    message = f"the records are as they were logged, but {tile.path} was altered"
                    raise TamperedError(message, *covered(tile))

    def compare_held(self) -> None:
        """Require that the log continues the older checkpoint.

        Raises:
            TamperedError: It does not.
            IncompleteError: The hashes to compare with it are missing.
        """
        held, size = self._held, self._head.size
        if held is None:
            return
        if held.size > size:
            message = f"the log was rolled back: it ends with {size} records, and {held.size} had been signed"
            raise TamperedError(message, size, held.size - 1)
        root = self._root_at(held.size)
        if root is None:
            raise IncompleteError(f"the hashes around record {held.size} are missing: the log cannot be compared there")
        if root != held.root:
            message = f"the log has two histories: its first {held.size} records are not those that were signed before"
            raise TamperedError(message, 0, max(0, held.size - 1))

    def _root_at(self, size: int) -> bytes | None:
        if size % WIDTH and self._held_rest is None:
            return None
        return self._by_tile.root(0, size, self._held_rest)

    def _read_block(self, block: int) -> None:
        tile = tile_at(0, block, self._head.size)
        leaves, hashes = self._leaves(tile), self._hashed(tile)
        gone = [at for at, leaf in enumerate(hashes) if not leaf]
        if leaves is None and gone:
            self._skip(tile)
            return
        by_tile = hashes if leaves is None else leaves
        by_record = [leaf or by_tile[at] for at, leaf in enumerate(hashes)] if gone else hashes
        self._count(tile, gone)
        if self._bad is None and by_record != by_tile:
            self._bad = block * WIDTH + next(at for at, leaf in enumerate(by_record) if leaf != by_tile[at])
        if self._held is not None and self._held.size // WIDTH == block:
            self._held_rest = by_tile
        if tile.width < WIDTH:
            self._by_tile.last, self._by_record.last = by_tile, by_record
            return
        root = tree.Frontier.of(by_tile).root()
        self._by_tile.blocks.append(root)
        self._by_record.blocks.append(root if by_record == by_tile else tree.Frontier.of(by_record).root())

    def _leaves(self, tile: Tile) -> list[bytes] | None:
        try:
            return hashes_in(self._reader.raw(tile), tile)
        except IncompleteError:
            return None

    def _hashed(self, tile: Tile) -> list[bytes]:
        """Return the leaf hashes of a block's records; a missing record gives an empty one."""
        bundle = tile._replace(level=ENTRIES)
        try:
            records, whole = unpack_entries(self._reader.raw(bundle))
        except IncompleteError:
            return [b""] * tile.width
        hashes = [tree.leaf_hash(record) if record else b"" for record in records]
        if not whole:
            # The bundle was cut within a record, or a length was altered: no record from here on is as it was logged.
            hashes.append(tree.leaf_hash(b""))
        # A full bundle may replace a narrower one that was removed; it then contains later records as well.
        if len(hashes) > tile.width and self._fetch(bundle.path) is not None:
            raise TamperedError(f"{bundle.path} holds more than was logged", *covered(tile))
        return (hashes + [b""] * tile.width)[: tile.width]

    def _skip(self, tile: Tile) -> None:
        """Skip a block without records and leaves, by its hash in the level above."""
        first, last = covered(tile)
        if tile.width < WIDTH:
            raise IncompleteError(f"the records {first} to {last} and their hashes are missing")
        root = self._reader.subtree(LEVEL_BITS, tile.number)
        self._by_tile.blocks.append(root)
        self._by_record.blocks.append(root)
        self._gone(first, last)

    def _count(self, tile: Tile, gone: list[int]) -> None:
        start = tile.number * WIDTH
        self.records += tile.width - len(gone)
        if self.first is None and len(gone) < tile.width:
            self.first = start + next(at for at in range(tile.width) if at not in gone)
        for at in gone:
            self._gone(start + at, start + at)

    def _gone(self, first: int, last: int) -> None:
        if self.gone and self.gone[-1][1] == first - 1:
            first = self.gone.pop()[0]
        self.gone.append((first, last))

    def _attenuated(self, start: int, end: int, expected: bytes) -> Range | None:
        """Return the range of altered records, as narrow as the upper tiles can prove; None without one."""
        if self._by_tile.root(start, end) == expected:
            return None
        if end - start > WIDTH:
            middle = start + (1 << (end - start - 1).bit_length() - 1)
            try:
                halves = ((start, middle), (middle, end))
                left, right = (tree.range_hash(self._reader.subtree, *half) for half in halves)
            except (IncompleteError, TamperedError):
                return start, end - 1
            if tree.node_hash(left, right) == expected:
                return self._attenuated(start, middle, left) or self._attenuated(middle, end, right)
        return start, end - 1
