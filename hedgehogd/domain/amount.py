"""Prices and sizes: decimal texts, and exact whole numbers to compare and add them.

The exchange sends an amount as text, and subscribers get the same text. A text is converted to
a number only to compare, add or subtract. The number is the amount times 10**18: exact, an int,
never a float. For an amount with more than 18 decimals it is a ``Fraction``; fractions and ints
compare and hash alike.
"""

import re
from fractions import Fraction
from typing import Any

DECIMALS_MAX = 18
"""Decimals of an amount in the usual form: the exchange's smallest increment has fewer
(COINBASE §13)."""
GENERAL_DECIMALS_MAX = 60
"""Decimals of an amount in the general form: numbers of other exchanges have 30."""
GENERAL_CHARACTERS_MAX = 100
"""Characters of an amount in the general form: with an exponent, or with many decimals."""
WHOLE_DIGITS_MAX = 20
"""Digits before the point: sizes of products like SHIB have 13, a longer number is an error."""


Number = int | Fraction
"""An amount times 10**18; a fraction only if the amount has more decimals."""

_GENERAL = re.compile(r"([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{1,3}))?", re.ASCII)


class BadAmount(ValueError):
    """An invalid amount, row, side or order, or one that exceeds a limit of its book."""


def text_of(value: Any) -> str:
    """Return an amount as text: a text unchanged and unchecked, an int in digits.

    Raises:
        BadAmount: ``value`` has another type (a bool or a float, for example).
    """
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    raise BadAmount(f"{type(value).__name__} is not an amount")


def scaled(text: str) -> Number:
    """Return ``text`` times 10**18, exactly.

    Args:
        text: digits, optionally a point and further digits, ``"58695.04"``, optionally an
            exponent as in a JSON number, ``"6.44E-6"``.

    Raises:
        BadAmount: ``text`` has another form (a sign, ``"NaN"``, ``"0.-10000"``, ``".5"``, digits
            that are not ASCII) or more digits than the limits allow.

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
    return _scaled_general(text)


def _scaled_general(text: str) -> Number:
    found = _GENERAL.fullmatch(text) if len(text) <= GENERAL_CHARACTERS_MAX else None
    if found is None:
        raise BadAmount(f"{text[:40]!r} is not an amount")
    whole, fraction, exponent = found.group(1), found.group(2) or "", int(found.group(3) or 0)
    digits = (whole + fraction).lstrip("0")
    places = len(fraction) - exponent
    if digits and (places > GENERAL_DECIMALS_MAX or len(digits) - places > WHOLE_DIGITS_MAX):
        raise BadAmount(f"{text[:40]!r} has too many digits")
    if not digits:
        return 0
    number = Fraction(int(digits)) * Fraction(10) ** (DECIMALS_MAX - places)
    return number.numerator if number.denominator == 1 else number


def is_zero(text: str) -> bool:
    """Return True if an amount is zero in any spelling, such as ``"0.00"``.

    Raises:
        BadAmount: ``text`` is not an amount.

    Cost: 0.2 µs for up to ``DECIMALS_MAX`` characters, half the cost of ``scaled``.
    """
    digits = text.replace(".", "", 1)
    if (
        len(text) > DECIMALS_MAX  # scaled() then checks the digits on each side of the point
        or not digits.isdigit()
        or not digits.isascii()
        or text[0] == "."
        or text[-1] == "."
    ):
        return not scaled(text)
    return not digits.strip("0")


def minus(text: str, other: str) -> str:
    """Return ``text`` − ``other`` without exponent; ``"0"`` if the difference is not positive.

    The result has as many decimals as the amount with more of them: ``"1.00"`` − ``"0.5"`` is
    ``"0.50"``.

    Raises:
        BadAmount: ``text`` or ``other`` is not an amount.
    """
    left = scaled(text) - scaled(other)
    return plain(left, max(decimals(text), decimals(other))) if left > 0 else "0"


def total(texts: list[str]) -> str:
    """Return the sum of amounts without exponent, with the largest number of decimals in them.

    Raises:
        BadAmount: one of ``texts`` is not an amount.
    """
    return plain(sum(map(scaled, texts)), max(map(decimals, texts), default=0))


def decimals(text: str) -> int:
    """Return the number of decimals of an amount when it is written without an exponent.

    ``text`` must be an amount, which is not checked. With an exponent the result is at most
    ``GENERAL_DECIMALS_MAX``.
    """
    fraction = text.partition(".")[2]
    found = _GENERAL.fullmatch(text)
    if found is None or found.group(3) is None:
        return len(fraction)
    places = len(found.group(2) or "") - int(found.group(3))
    return min(max(places, 0), GENERAL_DECIMALS_MAX)


def plain(number: Number, places: int) -> str:
    """Format ``number``, an amount times 10**18 and not negative, with ``places`` decimals.

    The result is rounded down.
    """
    digits = str(int(number * 10**places // 10**DECIMALS_MAX))
    if not places:
        return digits
    digits = digits.rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}"
