"""Money as whole numbers: ticks of price, units of size, and the texts they have on the wire.

The simulated market reckons in multiples of a product's increments, so no float ever
touches a price or a size. Coinbase writes book rows with all decimals of the increment
and trades without trailing zeros (FEED §6); both ways are here.
"""

from datetime import UTC, datetime
from functools import lru_cache

NS_PER_S = 1_000_000_000


def fixed(value: int, decimals: int) -> str:
    """Write ``value`` × 10^-``decimals`` with exactly that many decimals; not negative.

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
    """Read a decimal text as a multiple of 10^-``decimals``; more decimals than that are cut.

    >>> parse("0.0435", 8)
    4350000
    """
    whole, _, rest = text.partition(".")
    return int(whole + rest[:decimals].ljust(decimals, "0"))


def time_text(time_ns: int) -> str:
    """Write ns since the epoch as the exchange does: RFC 3339, UTC, six digits."""
    seconds, rest = divmod(time_ns, NS_PER_S)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
