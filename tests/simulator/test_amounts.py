"""Integers and their decimal texts."""

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
    """Clients compare texts; those of the simulator must equal the exchange's."""
    assert book_text == fixed(value, decimals)
    assert trade_text == trimmed(value, decimals)


@given(st.integers(min_value=0, max_value=10**18), st.integers(min_value=0, max_value=8))
def test_reading_inverts_writing(value, decimals):
    """A value that writing changes would invalidate every comparison."""
    assert value == parse(fixed(value, decimals), decimals)
    assert value == parse(trimmed(value, decimals), decimals)


def test_times_have_six_decimals_and_a_z():
    """Current clients parse exactly this form (docs/COINBASE.md §6)."""
    assert time_text(1788335050_004422_999) == "2026-09-02T07:44:10.004422Z"
