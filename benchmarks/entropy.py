"""The lossless coders on random symbols: size over the entropy, and speed, beside constriction alone, zlib and zstd.

    python benchmarks/entropy.py [--count 1000000] [--runs 9]

Millions of symbols a CPU second of one thread, the best of the runs, tensor to stream and back: checks, checksum and
all for fedtune's own coders, the bare code for the others, which are given symbols packed in two bits (zlib, zstd) or
as int32 (constriction alone: one model of three symbols). The entropy is that of the symbols' own counts.
"""

import argparse
import time
import zlib
from collections.abc import Callable
from typing import Any

import constriction
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from fedtune.compression import STAGES
from fedtune.compression.ans import Decoder, encode
from fedtune.compression.base import Form
from fedtune.compression.plane_code import PlaneCode
from fedtune.recipe.compression import CompressionSection

DENSITIES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5)
SMALL = 4096
BAR_SPEED, BAR_SHARE, BAR_BYTES = 100, 0.005, 64
Symbols = NDArray[np.int8]
Codec = tuple[Callable[[Symbols], Any], Callable[[Any, int], Symbols]]


def cpu_s(work: Callable[[], object], runs: int) -> float:
    """The least CPU seconds of a call, the first call left out."""
    times = []
    work()
    for _ in range(runs):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def stage_codec(name: str) -> Codec:
    stage = STAGES[name](CompressionSection())

    def code(symbols: Symbols) -> torch.Tensor:
        return stage.encode({"w": torch.from_numpy(symbols)}, seed=0)["w"]

    def decode(stream: torch.Tensor, count: int) -> Symbols:
        return stage.decode({"w": stream}, {"w": Form((count,), torch.int8)}, seed=0)["w"].numpy()

    return code, decode


def constriction_alone(symbols: Symbols) -> Codec:
    counts = np.bincount(symbols.astype(np.int64) + 1, minlength=3)
    model = constriction.stream.model.Categorical(counts / len(symbols), perfect=False)

    def code(symbols: Symbols) -> Any:
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(symbols.astype(np.int32) + 1, model)
        return coder.get_compressed()

    def decode(words: Any, count: int) -> Symbols:
        decoded: Symbols = constriction.stream.stack.AnsCoder(words).decode(model, count).astype(np.int8)
        decoded -= 1
        return decoded

    return code, decode


def two_bits(symbols: Symbols) -> NDArray[np.uint8]:
    codes = (symbols + 1).view(np.uint8).reshape(-1, 4)
    return codes[:, 0] | codes[:, 1] << 2 | codes[:, 2] << 4 | codes[:, 3] << 6


FOUR = ((np.arange(256)[:, None] >> np.array([0, 2, 4, 6]) & 3) - 1).astype(np.int8)


def general(pack: Callable[[Any], bytes], unpack: Callable[[bytes, int], Any]) -> Codec:
    def decode(raw: bytes, count: int) -> Symbols:
        return FOUR[np.frombuffer(unpack(raw, count // 4), np.uint8)].reshape(-1)

    return lambda symbols: pack(two_bits(symbols)), decode


def zstd(level: int) -> Codec:
    codec = pa.Codec("zstd", compression_level=level)
    return general(lambda raw: codec.compress(raw, asbytes=True), lambda raw, size: codec.decompress(raw, size, True))


def entropy_bytes(symbols: NDArray[Any]) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    return float((counts * np.log2(len(symbols) / counts)).sum()) / 8


def ternary(count: int, density: float) -> Symbols:
    draw = np.random.default_rng(0)
    signs = draw.choice(np.array([-1, 1], np.int8), count)
    return np.where(draw.random(count) < density, signs, 0).astype(np.int8)


def row(name: str, codec: Codec, symbols: Symbols, runs: int) -> None:
    code, decode = codec
    sent, count, entropy = code(symbols), len(symbols), entropy_bytes(symbols)
    assert np.array_equal(decode(sent, count), symbols)
    size = len(sent) if isinstance(sent, bytes) else sent.nbytes
    up, down = (count / 1e6 / cpu_s(work, runs) for work in (lambda: code(symbols), lambda: decode(sent, count)))
    verdict = ""
    if name == "entropy" and count > SMALL:
        small = size <= entropy * (1 + BAR_SHARE) + BAR_BYTES
        verdict = f"size {'kept' if small else 'MISSED'}, speed {'kept' if min(up, down) >= BAR_SPEED else 'MISSED'}"
    over = f"{size / entropy - 1:>+9.2%}" if size < 10 * entropy else f"{size / entropy:>8.0f}x"
    print(f"{name:<26}{size:>10}{8 * size / count:>8.4f}{over}{up:>9.0f}{down:>9.0f}   {verdict}".rstrip(), flush=True)


def what_bounds(symbols: Symbols, runs: int) -> None:
    """Where the time of `entropy` goes: nanoseconds a symbol of the tensor, by part."""
    count, places = len(symbols), np.packbits(symbols != 0)
    code = PlaneCode(count, int(np.count_nonzero(symbols)))
    model = code.model()
    words = encode([(places, model)])
    whole_up, whole_down = stage_codec("entropy")
    sent = whole_up(symbols)
    parts = {
        "encode": lambda: whole_up(symbols),
        "  coding the places, a byte a step": lambda: encode([(places, model)]),
        "decode": lambda: whole_down(sent, count),
        "  decoding the places, a byte a step": lambda: Decoder(words).take(len(places), model),
        "  finding the places again": lambda: np.flatnonzero(np.unpackbits(places).view(np.bool_)),
    }
    for name, work in parts.items():
        print(f"{name:<40}{1e9 * cpu_s(work, runs) / count:>7.2f} ns")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="symbols, a multiple of four")
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{options.count} symbols, best of {options.runs} runs, one thread; encode and decode in M symbols a CPU second"
    )
    print(f"bar of entropy: size <= entropy + {BAR_SHARE:.1%} + {BAR_BYTES} B, {BAR_SPEED} M/s each way")
    for density in DENSITIES:
        symbols = ternary(options.count, density)
        print(f"\n{density:.1%} not zero{'':<14}{'bytes':>10}{'bits':>8}{'over':>9}{'encode':>9}{'decode':>9}")
        codecs = {name: stage_codec(name) for name in ("entropy", "rice", "bitmask")}
        codecs["constriction alone"] = constriction_alone(symbols)
        codecs["2 bits, zlib 6"] = general(lambda raw: zlib.compress(raw, 6), lambda raw, _: zlib.decompress(raw))
        codecs |= {f"2 bits, zstd {level}": zstd(level) for level in (3, 19)}
        for name, codec in codecs.items():
            row(name, codec, symbols, 1 if name.endswith("19") else options.runs)
    for title, steps in (("int4", 7), ("int8", 127)):
        numbers = np.random.default_rng(0).normal(scale=steps / 3, size=options.count)
        print(f"\n{title}, normally distributed")
        row("entropy", stage_codec("entropy"), np.clip(numbers.round(), -steps, steps).astype(np.int8), options.runs)
    print(f"\n{SMALL} symbols, 10 % not zero")
    for name in ("entropy", "rice", "bitmask"):
        row(name, stage_codec(name), ternary(SMALL, 0.1), options.runs)
    for density in (0.05, 0.3):
        print(f"\nwhere the time goes at {density:.0%}, a symbol")
        what_bounds(ternary(options.count, density), options.runs)


if __name__ == "__main__":
    main()
