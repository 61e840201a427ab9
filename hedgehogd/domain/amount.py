"""Prices and sizes: decimal texts, and the whole numbers that order and add them exactly.

Texts are what the exchange sent and what subscribers get; a number is made of one only to
compare or to subtract. It is the amount times 10**18: exact, an int, never a float. An amount
with more than 18 decimals is a fraction; fractions and ints compare and hash alike.
"""

import re
from fractions import Fraction
from typing import Any

DECIMALS_MAX = 18
"""Digits after the point of usual amounts; the smallest increment has fewer (FEED §13)."""
ODD_DECIMALS_MAX = 60
"""Digits after the point of any amount; numbers of other exchanges have 30."""
ODD_CHARACTERS_MAX = 100
"""Length of an amount that is written in another way: with an exponent, or many decimals."""
WHOLE_DIGITS_MAX = 20
"""Digits before the point; SHIB-like sizes have 13. What is longer is a mistake."""


Number = int | Fraction
"""An amount times 10**18; a fraction only if it has more decimals."""

_ODD = re.compile(r"([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{1,3}))?", re.ASCII)


class BadAmount(ValueError):
    """A text that is no amount, or a row or side that cannot be part of a book."""


def text_of(value: Any) -> str:
    """Return an amount as text: a text as it is, a whole JSON number in digits.

    Raises:
        BadAmount: it is neither.
    """
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    raise BadAmount(f"{type(value).__name__} is no amount")


def scaled(text: str) -> Number:
    """Return ``text`` times 10**18, exactly.

    Args:
        text: digits, and a point and digits if wanted, ``"58695.04"``; perhaps with an
            exponent, ``"6.44E-6"``, as JSON writes numbers.

    Raises:
        BadAmount: anything else: a sign, ``"NaN"``, ``"0.-10000"``, ``".5"``, digits that are
            not ASCII, more digits than the limits allow.

    Cost: 0.4 µs; 2 µs with an exponent or more than ``DECIMALS_MAX`` decimals.
    """
    whole, point, fraction = text.partition(".")
    digits = whole + fraction.ljust(DECIMALS_MAX, "0")
    if (
        digits.isdigit()
        and digits.isascii()
        and 0 < len(whole) <= WHOLE_DIGITS_MAX
        and len(digits) - len(whole) == DECIMALS_MAX
        and (fraction or not point)
    ):
        return int(digits)
    return _scaled_odd(text)


def _scaled_odd(text: str) -> Number:
    found = _ODD.fullmatch(text) if len(text) <= ODD_CHARACTERS_MAX else None
    if found is None:
        raise BadAmount(f"{text[:40]!r} is no amount")
    whole, fraction, exponent = found.group(1), found.group(2) or "", int(found.group(3) or 0)
    digits = (whole + fraction).lstrip("0")
    places = len(fraction) - exponent
    if digits and (places > ODD_DECIMALS_MAX or len(digits) - places > WHOLE_DIGITS_MAX):
        raise BadAmount(f"{text[:40]!r} has too many digits")
    if not digits:
        return 0
    number = Fraction(int(digits)) * Fraction(10) ** (DECIMALS_MAX - places)
    return number.numerator if number.denominator == 1 else number


def is_zero(text: str) -> bool:
    """Say whether an amount is zero, however spelled.

    Raises:
        BadAmount: it is none.

    Cost: 0.2 µs for up to ``DECIMALS_MAX`` characters, half of what its number costs.
    """
    digits = text.replace(".", "", 1)
    if (
        len(text) > DECIMALS_MAX  # then the digits on either side of the point are to be counted
        or not digits.isdigit()
        or not digits.isascii()
        or text[0] == "."
        or text[-1] == "."
    ):
        return not scaled(text)
    return not digits.strip("0")


def minus(text: str, other: str) -> str:
    """Return ``text`` − ``other`` in plain digits; ``"0"`` when nothing is left.

    The result has as many decimals as the longer of the two: ``"1.00"`` − ``"0.5"`` is
    ``"0.50"``.

    Raises:
        BadAmount: one of them is none.
    """
    left = scaled(text) - scaled(other)
    return plain(left, max(decimals(text), decimals(other))) if left > 0 else "0"


def total(texts: list[str]) -> str:
    """Return the sum of amounts in plain digits, with as many decimals as the longest has.

    Raises:
        BadAmount: one of them is none.
    """
    return plain(sum(map(scaled, texts)), max(map(decimals, texts), default=0))


def decimals(text: str) -> int:
    """Return how many digits an amount has after the point when it is written plainly."""
    fraction = text.partition(".")[2]
    found = _ODD.fullmatch(text)
    if found is None or found.group(3) is None:
        return len(fraction)
    places = len(found.group(2) or "") - int(found.group(3))
    return min(max(places, 0), ODD_DECIMALS_MAX)


def plain(number: Number, places: int) -> str:
    """Write a number times 10**18, not negative, with ``places`` digits after the point."""
    digits = str(int(number * 10**places // 10**DECIMALS_MAX))
    if not places:
        return digits
    digits = digits.rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}"
