"""Numbers as people read them: bytes, seconds, scores."""

import math

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def bytes_text(count: float) -> str:
    """Decimal units, three significant digits: `0 B`, `812 B`, `1.24 MB`."""
    power = min(int(math.log10(count) / 3), len(_BYTE_UNITS) - 1) if count >= 1 else 0
    scaled = float(f"{count / 1000**power:.3g}")
    if scaled >= 1000 and power < len(_BYTE_UNITS) - 1:
        scaled, power = scaled / 1000, power + 1
    return f"{scaled:.{_places(scaled) if power else 0}f} {_BYTE_UNITS[power]}"


def seconds_text(seconds: float) -> str:
    """`0.42 s`, `3.1 s`, `4 min 05 s`, `2 h 03 min`."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent_text(share: float) -> str:
    """`83.4 %`; `–` where it is not a number."""
    return f"{share * 100:.1f} %" if math.isfinite(share) else "–"


def number_text(value: float) -> str:
    """Three or four significant digits for a loss or perplexity: `0.432`, `12.3`, `1,240`; `–` for NaN."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{max(_places(value), 0)}f}"


def percent_tick(share: float) -> str:
    """A round share on an axis: `80 %`, `82.5 %`."""
    return f"{share * 100:.6g} %"


def plain_tick(value: float) -> str:
    """A round number on an axis: `0.4`, `12.5`, `2,000`."""
    return f"{value:,.6g}"


def _places(value: float) -> int:
    """Decimals that leave three significant digits of a number under 1000, at most three."""
    if abs(value) >= 100:
        return 0
    if abs(value) >= 10:
        return 1
    return 2 if abs(value) >= 1 else 3
