"""Lists, element by element: what cannot be read costs itself alone."""

import msgspec
import pytest

from hedgehogd.domain.rows import decode_exactly, read_list, read_rows

DEEP = b"[" * 100_000
HUGE = b"9" * 5000


class Item(msgspec.Struct):
    id: str


decode_item = msgspec.json.Decoder(Item).decode


def test_numbers_stay_the_texts_that_they_were():
    """No float is made of a price."""
    assert decode_exactly(b'[1.10, 2E-8, 3, "4"]') == ["1.10", "2E-8", 3, "4"]


@pytest.mark.parametrize("odd", [b"null", b"7", b"{}", b'{"id":7}', b'{"id":"\xff"}', b"[]"])
def test_an_element_that_cannot_be_read_costs_itself(odd):
    """One of 838 products must not make all others unknown."""
    read = read_list(b'[{"id":"a"},' + odd + b',{"id":"b"}]', decode_item)

    assert ([item.id for item in read.items], read.unreadable) == (["a", "b"], 1)


@pytest.mark.parametrize("body", [b"", b"{}", b"7", b"null", b'[{"id":"a"}', b"<html>", DEEP])
def test_what_is_no_list_is_an_error(body):
    """A proxy's page is not an exchange without products."""
    with pytest.raises(msgspec.DecodeError):
        read_list(body, decode_item)


@pytest.mark.parametrize(
    ("raw", "rows"),
    [
        (b"[]", []),
        (b"null", []),
        (b"7", [None]),
        (b'{"a":1}', [None]),
        (b"[1", [None]),
        (b'[["1",2.50],null,{}]', [["1", "2.50"], None, {}]),
        (b'[["1"],[%b],["\xff"],["2"]]' % HUGE, [["1"], None, None, ["2"]]),
    ],
)
def test_rows_that_cannot_be_read_are_none_in_their_places(raw, rows):
    """So that each other row is found at its own place."""
    assert read_rows(raw) == rows
