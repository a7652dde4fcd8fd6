# SPDX-License-Identifier: Apache-2.0
"""A log's files: named, filled, pruned and read as C2SP says, whatever the sizes at which they were written."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.audit.merkle import paths, tiles, tree
from arx_caps.audit.merkle.errors import IncompleteError, NoteError, TamperedError
from arx_caps.audit.merkle.paths import ENTRIES, Tile
from arx_caps.audit.merkle.tiles import TileReader, TileWriter, fetch_from, leaf_of
from tests.audit.world import records, write
from tests.support import QUICK

pytestmark = pytest.mark.spec("LOG 1.3")

MANY = 70_000  # the size of the specification's example
LEAVES = [tree.leaf_hash(b"%d" % number) for number in range(MANY)]
WHOLE = tree.Tree(LEAVES)


def test_paths_are_the_specification_s() -> None:
    """Numbers go by three digits, all but the last group begin with x; a width stands only where a tile is partial."""
    assert Tile(0, 1234067).path == "tile/0/x001/x234/067"
    assert Tile(1, 0, 17).path == "tile/1/000.p/17"
    assert Tile(ENTRIES, 5, 1).path == "tile/entries/005.p/1"
    assert Tile(63, 1000).path == "tile/63/x001/000"


@QUICK
@given(st.sampled_from([ENTRIES, 0, 1, 9, 10, 63]), st.integers(0, 10**10), st.integers(1, 256))
def test_paths_are_read_back(level: int, number: int, width: int) -> None:
    """Each tile has one path, and a path one tile."""
    tile = Tile(level, number, width)
    assert Tile.parse(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    "tile/0/0 tile/0/00 tile/0/0000 tile/0/x000/001 tile/0/x001 tile/0/001/002 tile/00/001 tile/64/001 tile/-1/001 "
    "tile/0/001.p/0 tile/0/001.p/256 tile/0/001.p/01 tile/0/001.p tile/0/../001 tile/0/001/ /tile/0/001 tile/0/٠٠١ "
    "checkpoint".split(),
)
def test_no_other_path_is_read(path: str) -> None:
    """A path in another spelling, or out of the folder, names nothing."""
    with pytest.raises(NoteError):
        Tile.parse(path)


def test_a_log_of_70000_has_the_tiles_of_the_example() -> None:
    """273 full and one partial tile at level 0, one full and one of 17 at level 1, one of 1 at level 2."""
    zero, one, two = (list(paths.tiles_of(level, MANY)) for level in paths.levels_of(MANY))
    assert (len(zero), zero[272].width, zero[273].width) == (274, 256, 112)
    assert [tile.width for tile in one] == [256, 17]
    assert [tile.width for tile in two] == [1]
    assert [next(iter(paths.tiles_of(level, 256))).width for level in paths.levels_of(256)] == [256, 1]
    assert list(paths.levels_of(0)) == []
    assert list(paths.levels_of(255)) == [0]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of 70 000 records."""
    folder = tmp_path_factory.mktemp("large")
    writer = TileWriter(folder, durable=False)
    writer.append(leaf_of(b"%d" % number) for number in range(MANY))
    writer.flush()
    assert writer.root() == WHOLE.root()
    return folder


def test_proofs_from_files_are_those_of_the_tree(large: Path) -> None:
    """Roots, inclusion and consistency proofs at sizes around every boundary."""
    reader = TileReader(fetch_from(large), MANY)
    assert reader.root() == WHOLE.root()
    for size in (1, 255, 256, 257, 65_535, 65_536, 65_537, 69_999, MANY):
        assert reader.root(size) == WHOLE.root(size)
        for index in {0, 1, 255, 256, 65_535, 65_536, size // 2, size - 1}:
            if index < size:
                assert reader.inclusion(index, size) == tree.inclusion_proof(WHOLE.subtree, index, size)
                assert reader.consistency(index, size) == tree.consistency_proof(WHOLE.subtree, index, size)
    assert [reader.record(index) for index in (0, 256, 69_999)] == [b"0", b"256", b"69999"]
    with pytest.raises(ValueError, match="records"):
        reader.root(MANY + 1)


def test_exactly_the_files_of_the_layout_are_there(large: Path) -> None:
    """Nothing temporary is left, and every tile that the size asks for is there."""
    found = {str(path.relative_to(large)) for path in large.rglob("*") if path.is_file()}
    asked = [tile for level in (ENTRIES, *paths.levels_of(MANY)) for tile in paths.tiles_of(level, MANY)]
    assert found == {tile.path for tile in asked}


@pytest.mark.parametrize("steps", [(1, 255, 256, 257, 600), (300, 600), (0, 512, 600), (599, 600)])
def test_growth_in_steps_ends_in_the_same_files(tmp_path: Path, steps: tuple[int, ...]) -> None:
    """Whether flushed and resumed or not; a tile that became full has no partial one, others keep theirs."""
    kept = records(600)
    whole = write(tmp_path / "whole", kept)
    writer = TileWriter(tmp_path / "steps", durable=False)
    for size in steps:
        writer.append(map(leaf_of, kept[writer.size : size]))
        writer.flush()
        assert writer.root() == tree.Tree(map(tree.leaf_hash, kept[:size])).root()
        writer = TileWriter.resume(tmp_path / "steps", size)
        assert writer.root() == tree.Tree(map(tree.leaf_hash, kept[:size])).root()
    for path in whole.folder.rglob("*"):
        if path.is_file() and path != whole.published:
            assert (tmp_path / "steps" / path.relative_to(whole.folder)).read_bytes() == path.read_bytes()
    assert not (tmp_path / "steps" / "tile/0/000.p").exists()
    assert not (tmp_path / "steps" / "tile/entries/000.p").exists()


def test_an_older_size_is_read_when_its_partial_tiles_are_gone(tmp_path: Path) -> None:
    """The full tile begins with the same hashes and records."""
    log = write(tmp_path, records(300))
    reader = TileReader(fetch_from(tmp_path), 100)
    assert reader.root() == tree.Tree(map(tree.leaf_hash, log.records[:100])).root()
    assert reader.records(0) == log.records[:100]


def test_what_is_missing_is_incomplete_and_what_is_short_is_tampered(tmp_path: Path) -> None:
    """Both name the file; nothing is made up in its place."""
    log = write(tmp_path, records(300))
    (tmp_path / "tile/0/000").unlink()
    with pytest.raises(IncompleteError, match="tile/0/000"):
        log.reader.inclusion(3)
    (tmp_path / "tile/0/000").write_bytes(b"x" * 8191)
    with pytest.raises(TamperedError, match="tile/0/000") as caught:
        log.reader.inclusion(3)
    assert (caught.value.first, caught.value.last) == (0, 255)
    (tmp_path / "tile/entries/001.p/44").write_bytes(paths.pack_entries(log.records[256:299]))
    with pytest.raises(TamperedError, match="44 records"):
        log.reader.record(256)
    with pytest.raises(IncompleteError):
        TileWriter.resume(tmp_path, 299)


def test_pruning_takes_bodies_and_keeps_proofs(tmp_path: Path) -> None:
    """Bundles whole before the index go, every proof stays, and the log grows on."""
    log = write(tmp_path, records(600))
    before = [log.reader.inclusion(index) for index in (0, 300, 599)]
    assert tiles.prune(tmp_path, log.size, 511) == 256
    assert [log.reader.inclusion(index) for index in (0, 300, 599)] == before
    with pytest.raises(IncompleteError):
        log.reader.record(255)
    assert log.reader.record(256) == log.records[256]
    writer = TileWriter.resume(tmp_path, 600)
    writer.append([leaf_of(b"more")])
    assert writer.root() == tree.Tree(map(tree.leaf_hash, [*log.records, b"more"])).root()


def test_a_log_is_written_again_from_hashes_where_records_are_gone(tmp_path: Path) -> None:
    """Bundles of which nothing is left are not made; where some is left, what is gone is an empty entry."""
    log = write(tmp_path / "log", records(600))
    again = TileWriter(tmp_path / "again")
    again.append(
        leaf_of(record)._replace(record=record if at >= 300 else None) for at, record in enumerate(log.records)
    )
    again.flush()
    assert again.root() == log.reader.root()
    reader = TileReader(fetch_from(tmp_path / "again"), 600)
    assert [reader.record(index) for index in (299, 300, 599)] == [None, log.records[300], log.records[599]]
    with pytest.raises(IncompleteError):
        reader.record(255)
    resumed = TileWriter.resume(tmp_path / "again", 600)
    resumed.append([leaf_of(b"more")])
    assert resumed.root() == tree.Tree(map(tree.leaf_hash, [*log.records, b"more"])).root()


def test_a_record_longer_than_its_length_can_say_is_not_packed() -> None:
    """65 535 bytes are the format's limit."""
    assert paths.unpack_entries(paths.pack_entries([b"x" * 65_535, b""])) == ([b"x" * 65_535, b""], True)
    with pytest.raises(ValueError, match="65535"):
        paths.pack_entries([b"x" * 65_536])


def test_files_are_their_user_s_alone(tmp_path: Path) -> None:
    """Records are about people: neither files nor folders let others in, whatever the umask."""
    write(tmp_path / "log", records(3))
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "log", *(tmp_path / "log").rglob("*")))
