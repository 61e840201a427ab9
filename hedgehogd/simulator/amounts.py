"""Money as integers: ticks of price, units of size, and their texts on the wire.

The simulated market computes in multiples of a product's increments, so no price or size is
ever a float. Coinbase writes book rows with all decimals of the increment and trades without
trailing zeros (docs/COINBASE.md §6); ``fixed`` and ``trimmed`` write these two forms.
"""

from datetime import UTC, datetime
from functools import lru_cache

NS_PER_S = 1_000_000_000


def fixed(value: int, decimals: int) -> str:
    """Write ``value`` × 10^-``decimals`` with exactly ``decimals`` decimals; not negative.

    >>> fixed(4350000, 8)
    '0.04350000'
    """
    if not decimals:
        return str(value)
    whole, rest = divmod(value, 10**decimals)
    return f"{whole}.{rest:0{decimals}d}"


def trimmed(value: int, decimals: int) -> str:
    """Write ``value`` × 10^-``decimals`` without trailing zeros.

    >>> trimmed(4350000, 8)
    '0.0435'
    """
    text = fixed(value, decimals)
    return text.rstrip("0").rstrip(".") if decimals else text


def parse(text: str, decimals: int) -> int:
    """Read a decimal text as a multiple of 10^-``decimals``; further decimals are dropped.

    >>> parse("0.0435", 8)
    4350000

    Raises:
        ValueError: ``text`` is not a decimal number.
    """
    whole, _, rest = text.partition(".")
    return int(whole + rest[:decimals].ljust(decimals, "0"))


def time_text(time_ns: int) -> str:
    """Write ns since the epoch as the exchange does: RFC 3339, UTC, rounded down to µs."""
    seconds, rest = divmod(time_ns, NS_PER_S)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
