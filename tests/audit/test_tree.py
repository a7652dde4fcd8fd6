# SPDX-License-Identifier: Apache-2.0
"""The tree agrees with RFC 9162's own definitions, and its verification takes nothing but the right proof."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.audit.merkle import tree
from arx_caps.audit.merkle.errors import TamperedError
from tests.support import QUICK
from tests.vectors import naive_tree as naive

pytestmark = pytest.mark.spec("LOG 1.1")

RECORDS = [b"record %d" % number for number in range(70)]
LEAVES = [tree.leaf_hash(record) for record in RECORDS]
WHOLE = tree.Tree(LEAVES)
ROOTS = [naive.mth(RECORDS[:size]) for size in range(len(RECORDS) + 1)]
SIZES = st.integers(0, len(RECORDS))


def test_every_root_is_that_of_the_definition() -> None:
    """The frontier, the tree in memory and MTH agree at every size, also when the frontier was stored and read back."""
    frontier = tree.Frontier()
    for size, root in enumerate(ROOTS):
        assert frontier.root() == root == WHOLE.root(size)
        assert (frontier.size, len(frontier.edge)) == (size, size.bit_count())
        frontier = tree.Frontier(frontier.size, frontier.edge)
        if size < len(LEAVES):
            frontier.append(LEAVES[size])


@QUICK
@given(SIZES, SIZES)
def test_many_leaves_at_once_are_as_one_after_another(one: int, other: int) -> None:
    """From any size to any other: the same root, the same edge."""
    before, size = sorted((one, other))
    frontier = tree.Frontier.of(LEAVES[:before])
    frontier.extend(LEAVES[before:size])
    assert (frontier.size, frontier.root()) == (size, ROOTS[size])
    assert tree.Frontier(size, frontier.edge).root() == ROOTS[size]


def test_an_edge_that_is_none_is_refused() -> None:
    """A stored frontier with too few, too many or too short hashes builds nothing."""
    for size, edge in ((3, [LEAVES[0]]), (2, LEAVES[:2]), (1, [b"short"]), (-1, [])):
        with pytest.raises(TamperedError):
            tree.Frontier(size, edge)


def test_every_proof_is_that_of_the_definition() -> None:
    """PATH and PROOF of every leaf and older size, of some sizes, and each verifies."""
    for size in (1, 2, 3, 7, 8, 13, 31, 33, 64, 70):
        for index in range(size):
            made = tree.inclusion_proof(WHOLE.subtree, index, size)
            assert made == naive.path(index, RECORDS[:size])
            tree.check_inclusion(LEAVES[index], index, size, made, ROOTS[size])
            made = tree.consistency_proof(WHOLE.subtree, index + 1, size)
            assert made == naive.proof(index + 1, RECORDS[:size])
            tree.check_consistency(index + 1, ROOTS[index + 1], size, ROOTS[size], made)


def test_the_empty_tree_begins_every_tree() -> None:
    """Nothing is sent for it, something sent is refused, and no other root is that of no records."""
    for size in (0, 1, 5):
        assert tree.consistency_proof(WHOLE.subtree, 0, size) == []
        tree.check_consistency(0, tree.EMPTY_ROOT, size, ROOTS[size], [])
        for root, proof in ((LEAVES[0], []), (tree.EMPTY_ROOT, [LEAVES[0]])):
            with pytest.raises(TamperedError):
                tree.check_consistency(0, root, size, ROOTS[size], proof)
    with pytest.raises(TamperedError):
        tree.check_consistency(0, LEAVES[0], 0, LEAVES[0], [])


@QUICK
@given(st.data())
def test_no_other_inclusion_is_taken(data: st.DataObject) -> None:
    """Another leaf, index, size or root, and a proof with one hash changed, dropped, added or moved, proves nothing."""
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    proof = tree.inclusion_proof(WHOLE.subtree, index, size)
    changed = data.draw(st.sampled_from(("leaf", "index", "size", "root", "flip", "drop", "add", "swap")))
    leaf, at, of, root = LEAVES[index], index, size, ROOTS[size]
    if changed == "leaf":
        leaf = tree.leaf_hash(b"another")
    elif changed == "index":
        at = data.draw(st.integers(-1, size + 1).filter(lambda other: other != index))
    elif changed == "size":
        of = data.draw(SIZES.filter(lambda other: other != size))
    elif changed == "root":
        root = ROOTS[size - 1]
    else:
        proof = damaged(data, proof, changed)
    # Another size can have the same shape above a leaf; with the root of this size it must then be a wrong size.
    if changed == "size" and same_shape(index, size, of):
        return
    with pytest.raises(TamperedError) as caught:
        tree.check_inclusion(leaf, at, of, proof, root)
    assert caught.value.first == at


@QUICK
@given(st.data())
def test_no_other_consistency_is_taken(data: st.DataObject) -> None:
    """Another size or root, and a proof with one hash changed, dropped, added or moved, proves nothing."""
    size = data.draw(st.integers(2, 70))
    old = data.draw(st.integers(1, size - 1))
    proof = tree.consistency_proof(WHOLE.subtree, old, size)
    changed = data.draw(st.sampled_from(("old", "old root", "root", "flip", "drop", "add", "swap")))
    before, old_root, root = old, ROOTS[old], ROOTS[size]
    if changed == "old":
        before, old_root = size, ROOTS[size - 1]
    elif changed == "old root":
        old_root = ROOTS[old - 1]
    elif changed == "root":
        root = ROOTS[size - 1]
    else:
        proof = damaged(data, proof, changed)
    with pytest.raises(TamperedError):
        tree.check_consistency(before, old_root, size, root, proof)


def same_shape(index: int, size: int, other: int) -> bool:
    """Whether the verification of a path takes the same steps in both sizes."""
    return index < other and steps(index, size) == steps(index, other)


def steps(index: int, size: int) -> list[bool]:
    """Which side each hash of a path is on."""
    sides, start, end = [], 0, size
    while end - start > 1:
        middle = start + naive.split(end - start)
        sides.append(index < middle)
        start, end = (start, middle) if index < middle else (middle, end)
    return sides


def damaged(data: st.DataObject, proof: list[bytes], how: str) -> list[bytes]:
    """Return a proof that differs from a right one."""
    if how == "add" or not proof:
        place = data.draw(st.integers(0, len(proof)))
        return [*proof[:place], data.draw(st.sampled_from(LEAVES)), *proof[place:]]
    place = data.draw(st.integers(0, len(proof) - 1))
    if how == "drop":
        return proof[:place] + proof[place + 1 :]
    if how == "swap" and len(proof) > 1:
        other = (place + 1) % len(proof)
        proof = list(proof)
        proof[place], proof[other] = proof[other], proof[place]
        return proof
    flipped = bytes((proof[place][0] ^ 1,)) + proof[place][1:]
    return [*proof[:place], flipped, *proof[place + 1 :]]
