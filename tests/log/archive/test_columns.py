"""Columns: packed numbers are unpacked, and other bytes are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.log.archive import columns
from hedgehogd.log.archive.columns import BadColumn

numbers = st.lists(st.integers(-(2**61), 2**61))
optional = st.lists(st.none() | st.integers(0, 2**53))


@given(numbers, st.booleans(), st.binary(max_size=5))
def test_a_column_is_read_as_written(values, rising, before):
    """At any place in other bytes."""
    data = before + columns.pack(values, rising=rising) + b"after"
    found, end = columns.unpack(data, len(before), rising=rising)

    assert values == list(found)
    assert b"after" == data[end:]


@given(optional)
def test_absent_numbers_stay_absent(values):
    """Zero is a number."""
    data = columns.pack_optional(values)

    assert (values, len(data)) == (
        list(columns.unpack_optional(data, 0, len(values))[0]),
        columns.unpack_optional(data, 0, len(values))[1],
    )


def test_small_differences_take_one_byte_each():
    """For any first number."""
    assert 100 + 13 == len(columns.pack(range(10**15, 10**15 + 300, 3)))


def test_a_number_that_does_not_fit_is_refused():
    """A difference has at most 64 bits."""
    with pytest.raises(OverflowError):
        columns.pack([-(2**62), 2**63], rising=False)


@pytest.mark.parametrize("at", range(13))
def test_a_column_that_is_cut_off_is_refused(at):
    """By its length."""
    with pytest.raises(BadColumn):
        columns.unpack(columns.pack([1, 2])[:at], 0)


@pytest.mark.parametrize("width", [0, 3, 9])
def test_an_impossible_width_is_refused(width):
    """Widths are 1, 2, 4 and 8."""
    data = bytearray(columns.pack([1, 2]))
    data[0] = width
    with pytest.raises(BadColumn):
        columns.unpack(bytes(data), 0)


def test_sums_beyond_64_bits_are_refused():
    """Damaged differences."""
    data = columns.pack([2**62 - 1, 2**62])
    with pytest.raises(BadColumn):
        columns.unpack(data[:5] + b"\xff" * 7 + b"\x7f" + data[13:], 0)


def test_a_column_of_another_length_is_refused():
    """Every message has one number in each column."""
    with pytest.raises(BadColumn):
        columns.unpack_optional(columns.pack_optional([1, 2]), 0, 3)
