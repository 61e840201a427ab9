"""Prices and sizes: decimal texts, and the whole numbers that order and add them exactly.

Texts are what the exchange sent and what subscribers get; a number is made of one only to
compare or to subtract. It is the amount times 10**18: exact, an int, never a float.
"""

DECIMALS_MAX = 18
"""Digits after the point; the smallest increment of any product has fewer (FEED §13)."""
WHOLE_DIGITS_MAX = 20
"""Digits before the point; SHIB-like sizes have 13. What is longer is a mistake."""


class BadAmount(ValueError):
    """A text that is no amount, or a row or side that cannot be part of a book."""


def scaled(text: str) -> int:
    """Return ``text`` times 10**18, exactly.

    Args:
        text: digits, and a point and 1 to ``DECIMALS_MAX`` digits if wanted, ``"58695.04"``.

    Raises:
        BadAmount: anything else: a sign, an exponent, ``"NaN"``, ``"0.-10000"``, ``".5"``,
            digits that are not ASCII, more digits than the two limits allow.

    Cost: 0.4 µs.
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
    raise BadAmount(f"{text[:40]!r} is no amount")


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
    """Return how many digits an amount has after the point."""
    return len(text.partition(".")[2])


def plain(number: int, places: int) -> str:
    """Write a number times 10**18, not negative, with ``places`` digits after the point."""
    digits = str(number // 10 ** (DECIMALS_MAX - places))
    if not places:
        return digits
    digits = digits.rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}"
