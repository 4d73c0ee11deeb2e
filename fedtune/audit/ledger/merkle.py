"""Merkle trees with the prefixes of RFC 6962: the root over a round, and proofs that something is in it."""

import hashlib
from collections.abc import Sequence


def root(leaves: Sequence[bytes]) -> bytes:
    """The root of a tree over `leaves`, any bytes each; SHA-256 of nothing where there are none."""
    if not leaves:
        return hashlib.sha256().digest()
    return _root([_leaf(leaf) for leaf in leaves])


def prove(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The audit path of a leaf, lowest sibling first; raises IndexError where there is no such leaf."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"the tree has no leaf {index}")
    return tuple(_path([_leaf(leaf) for leaf in leaves], index))


def check_proof(leaf: bytes, index: int, count: int, path: Sequence[bytes], claimed: bytes) -> bool:
    """Is `leaf` leaf number `index` of the `count` whose root is `claimed`? (RFC 9162, 2.1.3.2)"""
    if not 0 <= index < count:
        return False
    node, last, found = index, count - 1, _leaf(leaf)
    for sibling in path:
        if last == 0:
            return False
        if node % 2 or node == last:
            found = _node(sibling, found)
            while node and not node % 2:
                node, last = node // 2, last // 2
        else:
            found = _node(found, sibling)
        node, last = node // 2, last // 2
    return last == 0 and found == claimed


def _leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def _root(hashes: Sequence[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    k = _split(len(hashes))
    return _node(_root(hashes[:k]), _root(hashes[k:]))


def _path(hashes: Sequence[bytes], index: int) -> list[bytes]:
    if len(hashes) == 1:
        return []
    k = _split(len(hashes))
    if index < k:
        return [*_path(hashes[:k], index), _root(hashes[k:])]
    return [*_path(hashes[k:], index - k), _root(hashes[:k])]
