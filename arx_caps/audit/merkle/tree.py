# SPDX-License-Identifier: Apache-2.0
"""The Merkle tree of RFC 9162 2.1 (as RFC 6962): hashes, growth, proofs and their verification.  LOG 1.1.

Proofs are made from hashes of complete subtrees, which a ``Subtrees`` function returns.  Nothing here reads a file or
parses a record.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from arx_caps.audit.merkle.errors import TamperedError

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()  # RFC 9162 2.1.1: the tree without leaves
MAX_PROOF: Final = 64  # hashes; no tree of 2^63 leaves has a longer path

# Returns the hash of the complete subtree over the leaves [index * 2**level, (index + 1) * 2**level).
Subtrees = Callable[[int, int], bytes]


def leaf_hash(record: bytes) -> bytes:
    """Return the hash of a leaf, over the record's bytes as they were logged.  RFC 9162 2.1.1."""
    return hashlib.sha256(b"\0" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node.  RFC 9162 2.1.1."""
    return hashlib.sha256(b"\1" + left + right).digest()


class Frontier:
    """The right edge of a tree: enough to append leaves and to compute the root.

    Attributes:
        size: Number of leaves.
    """

    __slots__ = ("_edge", "size")

    def __init__(self, size: int = 0, edge: Iterable[bytes] = ()) -> None:
        """Make an empty tree, or continue a known one.

        Args:
            size: Its number of leaves.
            edge: Its complete subtrees, largest first, as ``edge`` returned them.

        Raises:
            TamperedError: No tree of this size has such an edge.
        """
        self.size, self._edge = size, list(edge)
        if size < 0 or len(self._edge) != size.bit_count() or any(len(subtree) != HASH_BYTES for subtree in self._edge):
            raise TamperedError(f"invalid edge for a tree of {size} leaves")

    @classmethod
    def of(cls, leaves: Iterable[bytes]) -> "Frontier":
        """Return the frontier of a tree with these leaf hashes."""
        frontier = cls()
        frontier.extend(leaves)
        return frontier

    @property
    def edge(self) -> tuple[bytes, ...]:
        """The complete subtrees that the tree consists of, largest first."""
        return tuple(self._edge)

    def append(self, leaf: bytes) -> None:
        """Append a leaf by its hash."""
        size, edge = self.size, self._edge
        while size & 1:
            leaf = node_hash(edge.pop(), leaf)
            size >>= 1
        edge.append(leaf)
        self.size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append leaves by their hashes."""
        # Level by level: half the time of one leaf after another.
        new = list(leaves)
        self.size += len(new)
        size, edge, sha256 = self.size - len(new), self._edge, hashlib.sha256
        grown: list[bytes] = []  # the new edge, smallest first
        while size or new:
            if size & 1:
                new = [edge.pop(), *new]
            if len(new) & 1:
                grown.append(new[-1])
            pairs = zip(new[::2], new[1::2], strict=False)
            new = [sha256(b"\1" + left + right).digest() for left, right in pairs]
            size >>= 1
        self._edge = grown[::-1]

    def root(self) -> bytes:
        """Return the tree's root."""
        if not self._edge:
            return EMPTY_ROOT
        root = self._edge[-1]
        for left in self._edge[-2::-1]:
            root = node_hash(left, root)
        return root

    def copy(self) -> "Frontier":
        """Return an independent copy."""
        return Frontier(self.size, self._edge)


class Tree:
    """A whole tree in memory, with the hash of every complete subtree.

    Attributes:
        size: Number of leaves.
    """

    __slots__ = ("_levels",)

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        """Build a tree from its leaf hashes."""
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Append a leaf by its hash."""
        level, hashes = 0, self._levels[0]
        hashes.append(leaf)
        while not len(hashes) & 1:
            level += 1
            if level == len(self._levels):
                self._levels.append([])
            above = self._levels[level]
            above.append(node_hash(hashes[-2], hashes[-1]))
            hashes = above

    def subtree(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree; a ``Subtrees``."""
        return self._levels[level][index]

    def root(self, size: int | None = None) -> bytes:
        """Return the root over all leaves, or over the first ``size``."""
        return root_of(self.subtree, self.size if size is None else size)


def root_of(subtrees: Subtrees, size: int) -> bytes:
    """Return the root over the first ``size`` leaves."""
    return range_hash(subtrees, 0, size) if size else EMPTY_ROOT


def edge_of(subtrees: Subtrees, size: int) -> Iterator[bytes]:
    """Yield the complete subtrees of the tree over the first ``size`` leaves, largest first."""
    at = 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            yield subtrees(level, at >> level)
            at += 1 << level


def range_hash(subtrees: Subtrees, start: int, end: int) -> bytes:
    """Return MTH(D[start:end]) of a range that occurs in the recursion of RFC 9162 2.1.1."""
    count = end - start
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return subtrees(level, start >> level)
    middle = start + _split(count)
    return node_hash(range_hash(subtrees, start, middle), range_hash(subtrees, middle, end))


def inclusion_proof(subtrees: Subtrees, index: int, size: int) -> list[bytes]:
    """Return PATH(index, D[size]) of RFC 9162 2.1.3.1, the leaf's sibling first.

    Raises:
        ValueError: A tree of this size has no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(range_hash(subtrees, middle, end))
            end = middle
        else:
            proof.append(range_hash(subtrees, start, middle))
            start = middle
    return proof[::-1]


def consistency_proof(subtrees: Subtrees, old: int, size: int) -> list[bytes]:
    """Return PROOF(old, D[size]) of RFC 9162 2.1.4.1; empty if ``old`` is 0 or ``size``.

    Raises:
        ValueError: The older tree is larger.
    """
    if not 0 <= old <= size:
        raise ValueError(f"invalid older size: expected 0 to {size}, got {old}")
    proof: list[bytes] = []
    start, end = 0, size if old else 0
    whole = True  # SUBPROOF's flag: the verifier has the older root, so the proof omits it
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(range_hash(subtrees, middle, end))
            end = middle
        else:
            proof.append(range_hash(subtrees, start, middle))
            start, whole = middle, False
    if not whole:
        proof.append(range_hash(subtrees, start, end))
    return proof[::-1]


# The two algorithms below follow the RFC step by step, with its names.  Do not simplify them: logs with proof schemes
# of their own have been broken.
def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Verify that a leaf is in a tree.  RFC 9162 2.1.3.2.

    Args:
        leaf: The leaf's hash.
        index: Its index.
        size: The tree's number of leaves.
        proof: The inclusion path.
        root: The tree's root.

    Raises:
        TamperedError: The proof does not verify.
    """
    no = TamperedError(f"record {index} is not in the log of {size} records that was signed", index)
    if not 0 <= index < size or any(len(digest) != HASH_BYTES for digest in (leaf, root, *proof)):  # 1
        raise no
    fn, sn, r = index, size - 1, leaf  # 2, 3
    for p in proof:  # 4
        if sn == 0:
            raise no
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or r != root:  # 5
        raise no


def check_consistency(old: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Verify that one tree is the beginning of another.  RFC 9162 2.1.4.2.

    Args:
        old: The older tree's number of leaves.
        old_root: Its root.
        size: The newer tree's number of leaves.
        root: Its root.
        proof: The consistency proof.

    Raises:
        TamperedError: The proof does not verify.
    """
    no = TamperedError(f"the log of {size} records does not begin with the {old} records that were signed before")
    if not 0 <= old <= size or any(len(digest) != HASH_BYTES for digest in (old_root, root, *proof)):
        raise no
    # The RFC omits two cases: the empty tree is the beginning of every tree, and a tree of itself; both need no proof.
    if old in (0, size):
        begins = old_root == (root if old == size else EMPTY_ROOT)
        if proof or not begins or (size == 0 and root != EMPTY_ROOT):
            raise no
        return
    if not proof:  # 1
        raise no
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)  # 2
    fn, sn = old - 1, size - 1  # 3
    while fn & 1:  # 4
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]  # 5
    for c in path[1:]:  # 6
        if sn == 0:
            raise no
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or fr != old_root or sr != root:  # 7
        raise no


def _split(count: int) -> int:
    """Return the largest power of two smaller than ``count``."""
    return 1 << ((count - 1).bit_length() - 1)
