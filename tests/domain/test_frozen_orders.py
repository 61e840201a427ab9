"""REST answers from a frozen level-3 book, byte for byte."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.frozen_orders import book_parts
from tests.domain.test_orders import ready, rest_rows, rows

TIME = "2021-04-02T01:29:51.329865Z"
BIDS = [("2.00", "0.50", "a"), ("2.00", "1", "b"), ("1", "7", "c")]
ASKS = [("3", "0.1", "d")]
END = b',"sequence":100,"auction_mode":false,"auction":null,"time":"' + TIME.encode() + b'"}'


@pytest.mark.parametrize(
    ("level", "bids", "asks"),
    [
        (3, b'["2.00","0.50","a"],["2.00","1","b"],["1","7","c"]', b'["3","0.1","d"]'),
        (2, b'["2.00","1.50",2],["1","7",1]', b'["3","0.1",1]'),
        (1, b'["2.00","1.50",2]', b'["3","0.1",1]'),
    ],
)
@pytest.mark.parametrize("rows_per_slice", [1, 2, 100])
def test_the_bytes_of_answers(level, bids, asks, rows_per_slice):
    """The count is a number, all other elements are texts (COINBASE §13)."""
    parts = book_parts(
        ready(BIDS, ASKS).freeze(), level=level, time=TIME, rows_per_slice=rows_per_slice
    )

    assert b'{"bids":[' + bids + b'],"asks":[' + asks + b"]" + END == b"".join(parts)


@given(rest_rows, rest_rows, st.integers(1, 5))
def test_joined_parts_are_the_book(bids, asks, rows_per_slice):
    """The joined answer loads as the same book."""
    frozen = ready(bids, asks).freeze()
    read = json.loads(b"".join(book_parts(frozen, rows_per_slice=rows_per_slice)))

    assert rows(frozen) == rows(ready(read["bids"], read["asks"]).freeze())
    assert {"bids", "asks", "sequence", "auction_mode", "auction"} == set(read)
