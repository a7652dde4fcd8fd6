# SPDX-License-Identifier: Apache-2.0
"""Names and bytes of a log's files (c2sp.org/tlog-tiles), without I/O.  LOG 1.3.

A tile holds 256 hashes of one level; an entry bundle holds the 256 records below a tile of level 0.  At the right edge
of the tree each may be narrower.  The log's size alone determines which files exist.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple

from arx_caps.audit.merkle.errors import NoteError, TamperedError
from arx_caps.audit.merkle.tree import HASH_BYTES

WIDTH: Final = 256
LEVEL_BITS: Final = 8
MAX_ENTRY_BYTES: Final = 0xFFFF  # two length bytes
ENTRIES: Final = -1  # stands for the level of entry bundles
CHECKPOINT: Final = "checkpoint"
TILES: Final = "tile"  # the folder of all tiles and bundles
_LENGTH: Final = struct.Struct(">H")
# No `..` and no absolute path can match: this keeps a request within the log's folder.
_PATH: Final = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


class Tile(NamedTuple):
    """One tile or entry bundle.

    Attributes:
        level: 0 for hashes of leaves, ``ENTRIES`` for records.
        number: Its number in its level.
        width: How many hashes or records it holds, 1 to 256.
    """

    level: int
    number: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Its path below the log's prefix."""
        rest, last = divmod(self.number, 1000)
        name = f"{last:03d}"
        while rest:
            rest, part = divmod(rest, 1000)
            name = f"x{part:03d}/{name}"
        level = "entries" if self.level == ENTRIES else self.level
        return f"tile/{level}/{name}" + ("" if self.width == WIDTH else f".p/{self.width}")

    @property
    def full(self) -> "Tile":
        """The same tile at full width."""
        return self._replace(width=WIDTH)

    @classmethod
    def parse(cls, path: str) -> "Tile":
        """Parse a path.

        Raises:
            NoteError: It names no tile, or is not canonical.
        """
        match = _PATH.fullmatch(path)
        if match is None:
            raise NoteError(f"not the path of a tile: {path[:100]!r}")
        tile = cls(
            ENTRIES if match[1] == "entries" else int(match[1]),
            int(match[2].replace("x", "").replace("/", "")),
            int(match[3] or WIDTH),
        )
        # One spelling for each file: `x000/` before a name would give a cache two entries, and a server a way around a
        # rule.
        if tile.level > 63 or tile.path != path:
            raise NoteError(f"not the path of a tile: {path[:100]!r}")
        return tile


def count_at(level: int, size: int) -> int:
    """Return the number of a level's hashes or records in a log of ``size`` records."""
    return size >> LEVEL_BITS * max(level, 0)


def tile_at(level: int, number: int, size: int) -> Tile:
    """Return a tile in a log of ``size`` records; its width is 0 or less if it does not exist."""
    return Tile(level, number, min(WIDTH, count_at(level, size) - number * WIDTH))


def tiles_of(level: int, size: int) -> Iterator[Tile]:
    """Yield a level's tiles in a log of ``size`` records."""
    return (tile_at(level, number, size) for number in range(-(-count_at(level, size) // WIDTH)))


def levels_of(size: int) -> range:
    """Return the levels that have tiles in a log of ``size`` records."""
    return range(max(0, size.bit_length() - 1) // LEVEL_BITS + 1 if size else 0)


def files_of(size: int) -> Iterator[Tile]:
    """Yield the tiles, then the bundles, of a log of ``size`` records."""
    for level in levels_of(size):
        yield from tiles_of(level, size)
    for tile in tiles_of(0, size):
        yield tile._replace(level=ENTRIES)


def hashes_in(raw: bytes, tile: Tile) -> list[bytes]:
    """Split a tile into its hashes.

    Raises:
        TamperedError: It has another number of hashes than its width.
    """
    # A short tile would shift every hash after it, and a proof would name the wrong records.
    if len(raw) != tile.width * HASH_BYTES:
        raise TamperedError(f"{tile.path} does not hold {tile.width} hashes", *covered(tile))
    return [raw[at : at + HASH_BYTES] for at in range(0, len(raw), HASH_BYTES)]


def covered(tile: Tile) -> tuple[int, int]:
    """Return the index of the first and of the last record below a tile."""
    span = 1 << LEVEL_BITS * max(tile.level, 0)
    return tile.number * WIDTH * span, (tile.number * WIDTH + tile.width) * span - 1


def pack_entries(records: Sequence[bytes]) -> bytes:
    """Return an entry bundle: each record after its length in two bytes, big-endian.

    Raises:
        ValueError: A record is longer than ``MAX_ENTRY_BYTES``.
    """
    sizes = list(map(len, records))
    if max(sizes, default=0) > MAX_ENTRY_BYTES:
        raise ValueError(f"a record of the log has at most {MAX_ENTRY_BYTES} bytes")
    return b"".join(chain.from_iterable(zip(map(_LENGTH.pack, sizes), records, strict=True)))


def unpack_entries(raw: bytes) -> tuple[list[bytes], bool]:
    """Split an entry bundle into its whole records.

    Returns:
        The records, and whether the last one ends at the end of ``raw``.
    """
    records, at = [], 0
    while at + 2 <= len(raw):
        end = at + 2 + int.from_bytes(raw[at : at + 2], "big")
        # A length beyond the end is a cut file: what came before it is whole and can still be compared.
        if end > len(raw):
            break
        records.append(raw[at + 2 : end])
        at = end
    return records, at == len(raw)
