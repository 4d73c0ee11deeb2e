"""Random bits that nobody can foresee: the keystream of AES-256 in counter mode under a key of the operating system."""

import os
from typing import NoReturn

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

BITS = 53
"""Of each number: as many as a double holds without rounding."""
_KEY_BYTES, _BLOCK_BYTES, _WORD_BYTES = 32, 16, 8


class Keystream:
    """A stream of uniform integers, each below 2⁵³.

    Guarantees: every object draws a key of its own from `os.urandom`, a forked process draws a new one before its first
    number, and an object can be neither copied nor pickled: no two streams are the same. No seed of a recipe has a say.
    Whoever sees part of a stream can tell the rest only by breaking AES-256. One thread at a time.
    """

    def __init__(self) -> None:
        self._process = -1
        self._encryptor: CipherContext

    def integers(self, count: int) -> torch.Tensor:
        """The next `count` integers, uniform on 0 … 2⁵³−1: (count,) int64."""
        if not count:
            return torch.zeros(0, dtype=torch.int64)
        if self._process != os.getpid():
            self._rekey()
        raw = bytearray(self._encryptor.update(bytes(_WORD_BYTES * count)))
        words = torch.frombuffer(raw, dtype=torch.int64)
        return words.bitwise_and_(2**BITS - 1)

    def _rekey(self) -> None:
        # The counter starts at zero: a key is used for one stream alone, so that no two blocks are encrypted alike.
        cipher = Cipher(AES(os.urandom(_KEY_BYTES)), CTR(bytes(_BLOCK_BYTES)))
        self._encryptor, self._process = cipher.encryptor(), os.getpid()

    def __copy__(self) -> NoReturn:
        raise TypeError("a keystream cannot be copied: noise that is drawn twice hides nothing")

    def __deepcopy__(self, _: object) -> NoReturn:
        self.__copy__()

    def __reduce__(self) -> NoReturn:
        self.__copy__()
