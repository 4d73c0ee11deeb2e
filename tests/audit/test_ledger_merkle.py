"""Merkle roots and proofs against the definition of RFC 6962, written down a second time."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtune.audit.ledger import check_proof, prove, root

leaves = st.lists(st.binary(max_size=8), min_size=1, max_size=40)


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def tree_hash(data: list[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, word for word."""
    if not data:
        return sha(b"")
    if len(data) == 1:
        return sha(b"\x00" + data[0])
    k = max(2**i for i in range(10) if 2**i < len(data))
    return sha(b"\x01" + tree_hash(data[:k]) + tree_hash(data[k:]))


def audit_path(m: int, data: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1, word for word."""
    if len(data) == 1:
        return []
    k = max(2**i for i in range(10) if 2**i < len(data))
    if m < k:
        return [*audit_path(m, data[:k]), tree_hash(data[k:])]
    return [*audit_path(m - k, data[k:]), tree_hash(data[:k])]


@given(st.lists(st.binary(max_size=8), max_size=40))
def test_the_root_is_that_of_the_rfc(data):
    assert root(data) == tree_hash(data)


def test_the_known_roots_of_certificate_transparency():
    """The test vectors that implementations of RFC 6962 share."""
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    for count, expected in roots.items():
        assert root([bytes.fromhex(text) for text in inputs[:count]]).hex() == expected


@given(leaves, st.data())
def test_proofs_are_those_of_the_rfc_and_hold(data, draw):
    index = draw.draw(st.integers(0, len(data) - 1))
    path = prove(data, index)
    assert list(path) == audit_path(index, data)
    assert check_proof(data[index], index, len(data), path, root(data))


@given(leaves, st.data())
def test_a_proof_holds_for_nothing_else(data, draw):
    """Another leaf, place, size or path proves nothing."""
    index = draw.draw(st.integers(0, len(data) - 1))
    path, top = prove(data, index), root(data)
    other = draw.draw(st.binary(max_size=8).filter(lambda leaf: leaf != data[index]))
    assert not check_proof(other, index, len(data), path, top)
    assert not check_proof(data[index], index, len(data), [*path, b"\0" * 32], top)
    if path:
        assert not check_proof(data[index], index, len(data), path[:-1], top)
        changed = [bytes([path[0][0] ^ 1]) + path[0][1:], *path[1:]]
        assert not check_proof(data[index], index, len(data), changed, top)
    for place in set(range(-1, len(data) + 1)) - {index}:
        assert not check_proof(data[index], place, len(data), path, top) or data[place] == data[index]


def test_there_is_no_proof_of_what_is_not_there():
    with pytest.raises(IndexError):
        prove([b"a"], 1)
