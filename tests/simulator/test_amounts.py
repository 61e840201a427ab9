"""Whole numbers and the texts that stand for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.simulator.amounts import fixed, parse, time_text, trimmed


@pytest.mark.parametrize(
    ("value", "decimals", "book_text", "trade_text"),
    [
        (4350000, 8, "0.04350000", "0.0435"),
        (9, 8, "0.00000009", "0.00000009"),
        (7757287, 2, "77572.87", "77572.87"),
        (9850, 1, "985.0", "985"),
        (0, 8, "0.00000000", "0"),
        (120, 0, "120", "120"),
    ],
)
def test_books_keep_trailing_zeros_and_trades_drop_them(value, decimals, book_text, trade_text):
    """Clients compare texts; ours must look like the exchange's."""
    assert book_text == fixed(value, decimals)
    assert trade_text == trimmed(value, decimals)


@given(st.integers(min_value=0, max_value=10**18), st.integers(min_value=0, max_value=8))
def test_what_was_written_is_read_back(value, decimals):
    """Money that changes by being written would make every comparison a lie."""
    assert value == parse(fixed(value, decimals), decimals)
    assert value == parse(trimmed(value, decimals), decimals)


def test_times_have_six_digits_and_a_z():
    """FEED §6: clients of today parse exactly this form."""
    assert time_text(1788335050_004422_999) == "2026-09-02T07:44:10.004422Z"
