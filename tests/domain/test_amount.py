"""Amounts: numbers are exact, and a text that is not an amount is refused."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hedgehogd.domain.amount import (
    BadAmount,
    decimals,
    is_zero,
    minus,
    plain,
    scaled,
    text_of,
    total,
)

amounts = st.from_regex(r"[0-9]{1,20}(\.[0-9]{1,18})?", fullmatch=True).filter(str.isascii)

MALFORMED = [
    "", ".", "0.-10000", "NaN", "Infinity", "-1", "+1", "1e", "e5", "1e5.0", "1_000", "1.", ".5",
    "1.2.3", " 1", "1 ", "1\n", "1,5", "٣", "²", "1.²", "0x10", "1" * 21, "1." + "1" * 61,
    "9" * 10_000, "null", "1e20", "1e999", "1E-61", "1e-9999", "0" * 101,
]  # fmt: skip


@given(amounts)
@example("0.00000000")
@example("99999999999999999999.999999999999999999")
def test_a_scaled_number_equals_its_amount_exactly(text):
    """A difference of one unit in the last decimal is another level of the book."""
    assert Decimal(text).scaleb(18).compare(scaled(text)) == 0 or (
        int(text.replace(".", "")) * 10 ** (18 - decimals(text)) == scaled(text)
    )
    assert Decimal(plain(scaled(text), decimals(text))) == Decimal(text)
    assert is_zero(text) == (Decimal(text) == 0)


@pytest.mark.parametrize(
    ("text", "number", "places"),
    [("1.50", "1.5", 2), ("2E-3", "0.002", 3), ("1.5e1", "15", 0), ("1e-18", "1e-18", 18)],
)
def test_an_amount_is_read_in_any_spelling(text, number, places):
    """An exponent moves the decimals, and zero has no digits but places."""
    assert scaled(text) == Fraction(number) * 10**18
    assert decimals(text) == places
    assert scaled("0e9") == scaled("0.000e-30") == 0


@pytest.mark.parametrize("text", MALFORMED)
def test_a_text_that_is_not_an_amount_is_refused(text):
    """A YFI-USD snapshot had "0.-10000" (COINBASE §6.6); int() and Decimal() accept other forms."""
    for read in (scaled, is_zero):
        with pytest.raises(BadAmount):
            read(text)


@given(st.text(alphabet="0123456789.-+eE_ ٣²", max_size=45))
def test_any_text_is_an_amount_or_refused(text):
    """No text from the exchange may raise another error."""
    try:
        number = scaled(text)
    except BadAmount:
        with pytest.raises(BadAmount):
            is_zero(text)
        return
    assert is_zero(text) == (number == 0)
    assert Fraction(text) * 10**18 == number


general_amounts = st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,30})?([eE][+-]?[0-9])?", fullmatch=True)


@given(general_amounts.filter(str.isascii), general_amounts.filter(str.isascii))
@example("6.44E-6", "0.00000644")
@example("1e0", "1.0000000000000000000000000")
@example("0E-8", "0")
def test_amounts_with_exponents_and_many_decimals_are_exact(text, other):
    """JSON numbers have these forms; equal amounts are equal in any spelling, and all sort."""
    one, two = scaled(text), scaled(other)
    assert (one < two, one == two) == (
        Fraction(text) < Fraction(other),
        Fraction(text) == Fraction(other),
    )
    assert one != two or hash(one) == hash(two)
    assert is_zero(text) == (Fraction(text) == 0)
    assert Fraction(plain(one, decimals(text))) == Fraction(text)
    assert Fraction(total([text, other])) == Fraction(text) + Fraction(other)
    assert Fraction(minus(text, other)) == max(Fraction(text) - Fraction(other), 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [("1.50", "1.50"), (7, "7"), (True, None), (None, None), (1.5, None), (["1"], None)],
)
def test_json_numbers_become_texts(value, text):
    """An amount is never converted to a float, and a boolean is not a number."""
    if text is not None:
        assert text_of(value) == text
        return
    with pytest.raises(BadAmount):
        text_of(value)


@pytest.mark.parametrize("text", ["0", "0.0", "000", "0.00000000", "0." + "0" * 18, "0" * 20])
def test_zero_is_zero_in_any_spelling(text):
    """A removal read as a size would leave a level in the book that does not exist."""
    assert is_zero(text)
    assert not is_zero(text[:-1] + "1")


@pytest.mark.parametrize(
    ("text", "other", "left"),
    [
        ("1.00", "0.5", "0.50"),
        ("1", "0.00000001", "0.99999999"),
        ("10", "3", "7"),
        ("0.3", "0.1", "0.2"),
        ("1", "1.00", "0"),
        ("1", "2", "0"),
    ],
)
def test_a_difference_is_plain_and_exact(text, other, left):
    """The remaining size of a maker's order must be exact to the last decimal."""
    assert left == minus(text, other)


@pytest.mark.parametrize(
    ("texts", "sum_"), [([], "0"), (["1", "0.50"], "1.50"), (["0.1"] * 3, "0.3"), (["7"], "7")]
)
def test_a_sum_is_plain_and_exact(texts, sum_):
    """The size of a level is the sum of its orders."""
    assert sum_ == total(texts)
