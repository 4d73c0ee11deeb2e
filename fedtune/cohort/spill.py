"""Tensors of rows on disk: one file without a name, which is gone when its process is, however that ends.

A row's record: `FTROWS01`, BLAKE2b-128 of all that follows, how many tensors (u32); for each its dtype (u8), how many
axes (u8) and their lengths (u64); then the numbers, tensor after tensor, in the machine's own byte order.
"""

import hashlib
import logging
import math
import struct
import tempfile
from collections.abc import Hashable, Sequence
from io import FileIO
from pathlib import Path

import torch

log = logging.getLogger(__name__)

MAGIC = b"FTROWS01"
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""By their number in a file."""


class Spill:
    """A file on the disk that `place` is on, with a record a row, up to `room_bytes`; made at the first record.

    It has no name (where the system knows no such files, it loses its name at once) and is for its owner alone: whoever
    kills the process frees its room. What cannot be written is left out, and what cannot be read back whole is not
    there: both only cost time.
    """

    def __init__(self, place: Path, room_bytes: int, device: torch.device) -> None:
        self._place, self._room, self._device = place, room_bytes, device
        self._file: FileIO | None = None
        self._records: dict[Hashable, tuple[int, int]] = {}
        self._end = 0

    def write(self, key: Hashable, tensors: Sequence[torch.Tensor]) -> bool:
        """Are the tensors on disk now? Not where there is no room, or the disk has failed before."""
        if key in self._records:
            return True
        if not self._room:
            return False
        data = to_bytes(tensors)
        if self._end + len(data) > self._room:
            return False
        try:
            self._append(data)
        except OSError as error:
            log.warning("nothing more is kept of rows on the disk of %s: %s", self._place, error)
            self._room = 0
            return False
        self._records[key] = (self._end, len(data))
        self._end += len(data)
        return True

    def read(self, key: Hashable) -> tuple[torch.Tensor, ...] | None:
        """The tensors of a record, on the device; None where there is none, or it is damaged."""
        if self._file is None or key not in self._records:
            return None
        start, size = self._records[key]
        try:
            self._file.seek(start)
            return tuple(tensor.to(self._device) for tensor in from_bytes(self._file.read(size)))
        except (OSError, ValueError) as error:
            log.warning("what was kept of a row under %s is damaged, and is computed anew: %s", self._place, error)
            del self._records[key]
            return None

    def clear(self) -> None:
        """Forget all records; their room can be used again."""
        self._records.clear()
        self._end = 0

    def close(self) -> None:
        """Forget all records; the file is gone."""
        self.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._file = unnamed(self._place)
        self._file.seek(self._end)
        written = self._file.write(data)
        if written != len(data):
            raise OSError("the disk is full")


def unnamed(place: Path) -> FileIO:
    """A file without a name on the disk of a folder, mode 0600; raises OSError where it cannot be made."""
    file = tempfile.TemporaryFile(prefix="rows-", dir=place, buffering=0)  # noqa: SIM115 - the caller closes it
    if not isinstance(file, FileIO):
        raise OSError("the system has no files without a name")
    return file


def to_bytes(tensors: Sequence[torch.Tensor]) -> bytes:
    """A record's bytes."""
    head = [struct.pack("<I", len(tensors))]
    for tensor in tensors:
        head.append(struct.pack(f"<BB{tensor.ndim}Q", DTYPES.index(tensor.dtype), tensor.ndim, *tensor.shape))
    numbers = [t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() for t in tensors]
    body = b"".join((*head, *numbers))
    return MAGIC + _checksum(body) + body


def from_bytes(data: bytes) -> tuple[torch.Tensor, ...]:
    """The tensors of a record; raises ValueError where a byte of it is another than was written."""
    head, body = data[:24], data[24:]
    if head != MAGIC + _checksum(body):
        raise ValueError("its checksum is another")
    (count,) = struct.unpack_from("<I", body)
    at, shapes = 4, []
    for _ in range(count):
        kind, axes = struct.unpack_from("<BB", body, at)
        shapes.append((DTYPES[kind], struct.unpack_from(f"<{axes}Q", body, at + 2)))
        at += 2 + 8 * axes
    tensors = []
    for dtype, shape in shapes:
        size = math.prod(shape) * dtype.itemsize
        read = torch.frombuffer(bytearray(body[at : at + size]), dtype=dtype) if size else torch.empty(0, dtype=dtype)
        tensors.append(read.reshape(shape))
        at += size
    return tuple(tensors)


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
