# SPDX-License-Identifier: Apache-2.0
"""What is found in a log with tiles of three levels: the very record, the tile, and what retention took away."""

import pytest

from arx_caps.audit.merkle import paths, tree
from arx_caps.audit.merkle.errors import IncompleteError, TamperedError
from arx_caps.audit.merkle.tiles import prune
from arx_caps.audit.merkle.verification import Trust, verify
from tests.audit.altered import LARGE, TRUST, alter, altered_leaf, flip, held, large, large_made
from tests.audit.world import LOG, Log, checkpoint_of

pytestmark = [pytest.mark.long, pytest.mark.spec("LOG 1.3")]

__all__ = ["large", "large_made"]  # fixtures


@pytest.mark.parametrize("index", [0, 255, 256, 65_535, 65_536, 69_887, 69_888, LARGE - 1])
def test_in_a_large_log_the_very_record_is_named(large: Log, index: int) -> None:
    """As long as its leaf's tile was left."""
    width = min(256, LARGE - index // 256 * 256)
    bundle = large.folder / paths.Tile(paths.ENTRIES, index // 256, width).path
    alter(bundle, lambda raw: altered_leaf(raw, index % 256))
    with pytest.raises(TamperedError) as caught:
        verify(large.folder, TRUST)
    assert (caught.value.first, caught.value.last) == (index, index)


@pytest.mark.parametrize("index", [0, 300, 65_536, LARGE - 1])
def test_altered_leaves_are_attenuated_to_their_block(large: Log, index: int) -> None:
    """Where record and leaf were altered alike, the level above names the block of 256, if it has one."""
    block = index // 256
    width = min(256, LARGE - block * 256)
    alter(large.folder / paths.Tile(paths.ENTRIES, block, width).path, lambda raw: altered_leaf(raw, index % 256))
    leaves = [tree.leaf_hash(each) for each in (*large.records[:index], large.records[index] + b".")][block * 256 :]
    whole = [*leaves, *map(tree.leaf_hash, large.records[index + 1 : block * 256 + width])]
    alter(large.folder / paths.Tile(0, block, width).path, lambda _: b"".join(whole))
    with pytest.raises(TamperedError) as caught:
        verify(large.folder, TRUST)
    first, last = caught.value.first, caught.value.last
    assert first is not None
    assert last is not None
    assert first <= index <= last
    if width == 256:
        assert (first, last) == (block * 256, block * 256 + 255)


@pytest.mark.parametrize("path", ["tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"])
def test_an_upper_tile_that_is_not_theirs_is_named(large: Log, path: str) -> None:
    """Others build their proofs from it."""
    alter(large.folder / path, flip(3))
    with pytest.raises(TamperedError, match=path):
        verify(large.folder, TRUST)


@pytest.mark.slow
def test_retention_differs_from_loss(large: Log) -> None:
    """What is gone before the index that is allowed is listed; the same loss, not allowed, is incomplete."""
    kept_from = prune(large.folder, LARGE, 1000)
    with pytest.raises(IncompleteError, match="0 to 767 are gone"):
        verify(large.folder, TRUST)
    checked = verify(large.folder, Trust(LOG.key, since=kept_from))
    assert (checked.gone, checked.first, checked.records) == (((0, 767),), 768, LARGE - 768)
    (large.folder / "tile/entries/009").unlink()
    with pytest.raises(IncompleteError, match="2304 to 2559 are gone"):
        verify(large.folder, Trust(LOG.key, since=kept_from))
    alter(large.folder / "tile/0/001", flip(0))  # the hash of a record that is gone
    with pytest.raises(TamperedError) as caught:
        verify(large.folder, Trust(LOG.key, since=2560))
    assert (caught.value.first, caught.value.last) == (256, 511)


def test_without_records_and_hashes_the_level_above_still_holds_the_rest(large: Log) -> None:
    """A block of which nothing is left is incomplete as long as a hash stands for it; without one nothing is known."""
    for path in ("tile/entries/003", "tile/0/003"):
        (large.folder / path).unlink()
    with pytest.raises(IncompleteError, match="768 to 1023 are gone"):
        verify(large.folder, held(checkpoint_of(large.records[:600])))
    with pytest.raises(IncompleteError, match="around record 900"):
        verify(large.folder, held(checkpoint_of(large.records[:900])))
    (large.folder / "tile/1/000").unlink()
    with pytest.raises(IncompleteError, match="tile/1/000"):
        verify(large.folder, TRUST)
