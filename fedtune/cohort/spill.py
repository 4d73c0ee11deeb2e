"""Tensors of rows on disk: plain files of raw numbers behind a header with a checksum, gone when the process is.

A file: `FTROWS01`, BLAKE2b-128 of all that follows, how many tensors (u32); for each its dtype (u8), how many axes
(u8) and their lengths (u64); then the numbers, tensor after tensor, in the machine's own byte order.
"""

import hashlib
import logging
import math
import shutil
import struct
import tempfile
import weakref
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch

log = logging.getLogger(__name__)

MAGIC = b"FTROWS01"
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""By their number in a file."""


class Spill:
    """A folder of its own inside of `place`, with a file a row up to `room_bytes`; removed by `close` or at exit.

    What cannot be written is left out, and what cannot be read back whole is not there: both only cost time.
    """

    def __init__(self, place: Path, room_bytes: int, device: torch.device) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="rows-", dir=place))
        self._room, self._device = room_bytes, device
        self._files: dict[Hashable, Path] = {}
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def write(self, key: Hashable, tensors: Sequence[torch.Tensor]) -> None:
        """Put tensors into a file, unless they are in one already or there is no room left."""
        if key in self._files or not self._room:
            return
        data = to_bytes(tensors)
        if len(data) > self._room:
            return
        path = self.folder / f"{len(self._files)}.rows"
        try:
            path.write_bytes(data)
        except OSError as error:
            log.warning("nothing more is kept on disk under %s: %s", self.folder, error)
            self._room = 0
            path.unlink(missing_ok=True)
            return
        self._room -= len(data)
        self._files[key] = path

    def read(self, key: Hashable) -> tuple[torch.Tensor, ...] | None:
        """The tensors of a file, on the device; None where there is none, or it is damaged."""
        path = self._files.get(key)
        if path is None:
            return None
        try:
            return tuple(tensor.to(self._device) for tensor in from_bytes(path.read_bytes()))
        except (OSError, ValueError) as error:
            log.warning("%s is damaged, and is computed anew: %s", path, error)
            del self._files[key]
            return None

    def close(self) -> None:
        """Remove the folder."""
        self._files.clear()
        self._remove()


def to_bytes(tensors: Sequence[torch.Tensor]) -> bytes:
    """A file's bytes."""
    head = [struct.pack("<I", len(tensors))]
    for tensor in tensors:
        head.append(struct.pack(f"<BB{tensor.ndim}Q", DTYPES.index(tensor.dtype), tensor.ndim, *tensor.shape))
    numbers = [t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() for t in tensors]
    body = b"".join((*head, *numbers))
    return MAGIC + _checksum(body) + body


def from_bytes(data: bytes) -> tuple[torch.Tensor, ...]:
    """The tensors of a file; raises ValueError where a byte of it is another than was written."""
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
