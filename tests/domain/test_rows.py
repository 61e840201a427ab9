"""Lists decoded element by element: an unreadable element loses only itself."""

import msgspec
import pytest

from hedgehogd.domain.rows import decode_exactly, read_list, read_rows

DEEP = b"[" * 100_000
HUGE = b"9" * 5000


class Item(msgspec.Struct):
    id: str


decode_item = msgspec.json.Decoder(Item).decode


def test_numbers_with_a_point_or_exponent_become_texts():
    """A price is never converted to a float."""
    assert decode_exactly(b'[1.10, 2E-8, 3, "4"]') == ["1.10", "2E-8", 3, "4"]


@pytest.mark.parametrize("unreadable", [b"null", b"7", b"{}", b'{"id":7}', b'{"id":"\xff"}', b"[]"])
def test_an_unreadable_element_does_not_affect_other_elements(unreadable):
    """One invalid product must not make 837 valid ones unknown."""
    read = read_list(b'[{"id":"a"},' + unreadable + b',{"id":"b"}]', decode_item)

    assert ([item.id for item in read.items], read.unreadable) == (["a", "b"], 1)


@pytest.mark.parametrize("body", [b"", b"{}", b"7", b"null", b'[{"id":"a"}', b"<html>", DEEP])
def test_a_body_that_is_not_a_list_is_an_error(body):
    """An error page of a proxy must not be read as an empty list of products."""
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
def test_an_unreadable_row_is_none_at_its_index(raw, rows):
    """So every other row keeps its index."""
    assert read_rows(raw) == rows
