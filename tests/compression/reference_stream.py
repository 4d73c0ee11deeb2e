"""The streams of `entropy`, decoded as the documentation says and in nothing but Python's whole numbers."""

import hashlib

WHOLE = 2**24


def decode(stream):
    """The symbols of a stream of format 0x11, as a list."""
    stream = bytes(stream)
    assert stream[0] == 0x11
    count, at = _varint(stream, 9)
    mode, at = stream[at], at + 1
    read = _ternary if mode < 4 else {4: _counted, 5: _plain}[mode]
    symbols, checked, fields_end = read(stream, at, count, mode)
    hashed = stream[:1] + stream[9:fields_end] + checked
    assert stream[1:9] == hashlib.blake2b(hashed, digest_size=8).digest()
    return symbols


def _plain(stream, at, count, mode):
    raw = stream[at:]
    return [_signed(byte) for byte in raw], raw, at


def _counted(stream, at, count, mode):
    least, size = _signed(stream[at]), stream[at + 1] + 1
    at, counts = at + 2, []
    for _ in range(size):
        value, at = _varint(stream, at)
        counts.append(value)
    assert sum(counts) == count
    state = _State(stream[at:])
    shifted = [0] * count if size == 1 else state.take(_weights(counts), count)
    assert state.at_start
    symbols = [least + value for value in shifted]
    return symbols, bytes(value % 256 for value in symbols), at


def _ternary(stream, at, count, mode):
    nonzeros, at = _varint(stream, at)
    negatives, at = _varint(stream, at)
    fields_end = at
    wanted = [(count, nonzeros), (nonzeros, negatives)]
    planes = [None, None]
    for i, (bits, _) in enumerate(wanted):
        if mode >> i & 1:
            planes[i], at = stream[at : at + -(-bits // 8)], at + -(-bits // 8)
    state = _State(stream[at:])
    for i, (bits, ones) in enumerate(wanted):
        if planes[i] is None and ones in {0, bits}:
            planes[i] = _packed([int(ones > 0)] * bits)
        elif planes[i] is None:
            shares = [ones ** byte.bit_count() * (bits - ones) ** (8 - byte.bit_count()) for byte in range(256)]
            planes[i] = bytes(state.take(_weights(shares), -(-bits // 8)))
    assert state.at_start
    signs = iter(_unpacked(planes[1], nonzeros))
    symbols = [(-1 if next(signs) else 1) if place else 0 for place in _unpacked(planes[0], count)]
    return symbols, planes[0] + planes[1], fields_end


class _State:
    """An ANS coder of 32-bit words, a 64-bit state and 24 bits of precision."""

    def __init__(self, raw):
        self.words = [int.from_bytes(raw[i : i + 4], "little") for i in range(0, len(raw), 4)]
        self.state = 0
        while self.words and self.state < 2**32:
            self.state = self.state << 32 | self.words.pop()

    @property
    def at_start(self):
        """Is it where coding began, or was there nothing coded?"""
        return self.state in {0, 2**32} and not self.words

    def take(self, weights, count):
        starts = [sum(weights[:i]) for i in range(len(weights))]
        found = []
        for _ in range(count):
            quantile = self.state % WHOLE
            symbol = max(i for i, start in enumerate(starts) if start <= quantile)
            self.state = (self.state >> 24) * weights[symbol] + quantile - starts[symbol]
            if self.state < 2**32 and self.words:
                self.state = self.state << 32 | self.words.pop()
            found.append(symbol)
        return found


def _weights(shares):
    spare = WHOLE - len(shares)
    weights = [1 + spare * share // sum(shares) for share in shares]
    weights[weights.index(max(weights))] += WHOLE - sum(weights)
    return weights


def _varint(stream, at):
    value = shift = 0
    while True:
        value |= (stream[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if stream[at - 1] < 0x80:
            return value, at


def _signed(byte):
    return byte - 256 * (byte > 127)


def _unpacked(plane, bits):
    return [plane[i // 8] >> 7 - i % 8 & 1 for i in range(bits)]


def _packed(bits):
    padded = bits + [0] * (-len(bits) % 8)
    return bytes(sum(bit << 7 - j for j, bit in enumerate(padded[i : i + 8])) for i in range(0, len(padded), 8))
