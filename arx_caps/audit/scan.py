# SPDX-License-Identifier: Apache-2.0
"""Read all of a log's files once, and find where they are not what its checkpoint says.  SPEC 17.3.

Every record is hashed and compared with its leaf in the tiles.  Where the two differ the signed root says which of them
was altered; where it agrees with neither, the tiles of the upper levels attenuate down where.  The end of the work is
bounded by the files that are there: a size is only a claim.
"""

from collections.abc import Callable

from arx_caps.audit import tree
from arx_caps.audit.checkpoint import Checkpoint
from arx_caps.audit.errors import IncompleteError, TamperedError
from arx_caps.audit.paths import (
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
from arx_caps.audit.tiles import Fetch, TileReader

Range = tuple[int, int]  # the first and the last record
_TOLD_BLOCKS = 16  # progress is told once in so many


class _Side:
    """One reading of the log: the roots of its complete blocks of 256, and the leaves of the last, narrower one."""

    def __init__(self) -> None:
        self.blocks = tree.Tree()
        self.last: list[bytes] = []

    def root(self, start: int, end: int, rest: list[bytes] | None = None) -> bytes:
        """Return the hash of a range that begins at a block and ends at one, or within ``rest``, else the last one."""
        leaves = self.last if rest is None else rest

        def subtree(level: int, index: int) -> bytes:
            if level >= LEVEL_BITS:
                return self.blocks.subtree(level - LEVEL_BITS, index)
            at = (index << level) % WIDTH
            return tree.Frontier.of(leaves[at : at + (1 << level)]).root()

        return tree.range_hash(subtree, start, end) if end else tree.EMPTY_ROOT


class Scan:
    """One reading of a log's files.  Call ``read``, then whatever is to be held.

    Args:
        fetch: Where the files are.
        head: The log's checkpoint, believed.
        held: One that was seen before, believed, or None.

    Attributes:
        records: How many records were there and were hashed.
        first: Index of the first of them, or None.
        gone: The records that are not there.
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

        Raises:
            IncompleteError: There is a place of which neither record nor hash is there, so that no root can be had.
            TamperedError: A tile is not of its form.
        """
        size = self._head.size
        for block in range(-(-size // WIDTH)):
            self._read_block(block)
            if block % _TOLD_BLOCKS == 0:
                progress(block * WIDTH, size)
        progress(size, size)

    def hold_to_root(self) -> None:
        """Hold what was read to the signed root.

        Raises:
            TamperedError: It is not what was signed.
        """
        size, root = self._head.size, self._head.root
        if self._by_tile.root(0, size) == root:  # the tiles are as they were signed, and tell which record is not
            if self._bad is not None:
                # Where records are gone just before it, it may be one of them that was cut short.
                first = next((first for first, last in self.gone if last == self._bad - 1), self._bad)
                raise TamperedError(f"record {self._bad} is not what was logged", first, self._bad)
            return
        if self._by_record.root(0, size) == root:
            block = (self._bad or 0) // WIDTH
            tile = tile_at(0, block, size)
            raise TamperedError(f"the records are as they were logged, but {tile.path} is not theirs", *covered(tile))
        first, last = self._attenuated(0, size, root) or (0, max(0, size - 1))
        held = self._held
        if held is not None and 0 < held.size <= last and self._root_at(held.size) == held.root:
            first = max(first, held.size)  # up to there it is still what was seen before
        where = f"record {first}" if first == last else f"one of the records {first} to {last}"
        raise TamperedError(f"{where} is not what was logged: the signed root is another", first, last)

    def hold_tiles(self) -> None:
        """Hold the tiles of the upper levels, from which others take their proofs, to the records.

        Raises:
            TamperedError: One of them is not theirs.  One that is not there can be made again, and is no loss.
        """
        for level in levels_of(self._head.size)[1:]:
            for tile in tiles_of(level, self._head.size):
                raw = self._fetch(tile.path)
                wanted = range(tile.number * WIDTH, tile.number * WIDTH + tile.width)
                own = (self._by_tile.blocks.subtree(LEVEL_BITS * (level - 1), each) for each in wanted)
                if raw is not None and hashes_in(raw, tile) != list(own):
                    told = f"the records are as they were logged, but {tile.path} is not theirs"
                    raise TamperedError(told, *covered(tile))

    def hold_to_held(self) -> None:
        """Hold the log to the checkpoint that was seen before.

        Raises:
            TamperedError: It does not continue that.
        """
        held, size = self._held, self._head.size
        if held is None:
            return
        if held.size > size:
            told = f"the log was rolled back: it ends with {size} records, and {held.size} had been signed"
            raise TamperedError(told, size, held.size - 1)
        root = self._root_at(held.size)
        if root is None:
            raise IncompleteError(f"the hashes around record {held.size} are not there to compare with what was seen")
        if root != held.root:
            told = f"the log has two histories: its first {held.size} records are not those that were signed before"
            raise TamperedError(told, 0, max(0, held.size - 1))

    def _root_at(self, size: int) -> bytes | None:
        if size % WIDTH and self._held_rest is None:
            return None
        return self._by_tile.root(0, size, self._held_rest)

    def _read_block(self, block: int) -> None:
        tile = tile_at(0, block, self._head.size)
        leaves, hashes = self._leaves(tile), self._hashed(tile)
        gone = [at for at, each in enumerate(hashes) if not each]
        if leaves is None and gone:
            self._skip(tile)
            return
        by_tile = hashes if leaves is None else leaves
        by_record = [each or by_tile[at] for at, each in enumerate(hashes)] if gone else hashes
        self._count(tile, gone)
        if self._bad is None and by_record != by_tile:
            self._bad = block * WIDTH + next(at for at, each in enumerate(by_record) if each != by_tile[at])
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
        """Hash the records of a block; in place of one that is not there stands nothing."""
        bundle = tile._replace(level=ENTRIES)
        try:
            records, whole = unpack_entries(self._reader.raw(bundle))
        except IncompleteError:
            return [b""] * tile.width
        hashes = [tree.leaf_hash(record) if record else b"" for record in records]
        if not whole:
            # Cut within a record, or a length was altered: from here on nothing is what was logged.
            hashes.append(tree.leaf_hash(b""))
        # A full bundle may stand in for a narrower one that is not there any more, and holds what came later.
        if len(hashes) > tile.width and self._fetch(bundle.path) is not None:
            raise TamperedError(f"{bundle.path} holds more than was logged", *covered(tile))
        return (hashes + [b""] * tile.width)[: tile.width]

    def _skip(self, tile: Tile) -> None:
        """Go on over a block of which neither records nor leaves are there, by its hash in the level above."""
        first, last = covered(tile)
        if tile.width < WIDTH:
            raise IncompleteError(f"of the records {first} to {last} neither the bytes nor the hashes are there")
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
        """Say where records are that do not have this hash together, as narrowly as the upper tiles can prove."""
        if self._by_tile.root(start, end) == expected:
            return None
        if end - start > WIDTH:
            middle = start + (1 << (end - start - 1).bit_length() - 1)
            try:
                left, right = (
                    tree.range_hash(self._reader.subtree, *each) for each in ((start, middle), (middle, end))
                )
            except (IncompleteError, TamperedError):
                return start, end - 1
            if tree.node_hash(left, right) == expected:
                return self._attenuated(start, middle, left) or self._attenuated(middle, end, right)
        return start, end - 1
