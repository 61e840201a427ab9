"""The first head of a connection."""

import pytest

from hedgehogd.streaming.head import HEAD_END, BadHead, is_not_http, read_head, without_upgrade


def test_only_header_lines_of_the_head_are_dropped() -> None:
    """A body that looks like a header is a body; a folded line belongs to its header."""
    head = b"POST / HTTP/1.1\r\nUPGRADE : h2c,\r\n more\r\nA: b\r\n\r\n"
    body = b"Upgrade: h2c\r\n"

    assert b"POST / HTTP/1.1\r\nA: b\r\n\r\n" + body == without_upgrade(head + body, len(head))


def test_a_head_of_another_protocol_is_no_request() -> None:
    """An answer, or half a head, is nothing to route."""
    with pytest.raises(BadHead):
        read_head(b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("data", "hopeless"),
    [
        (b"", False),
        (b"GET / HT", False),
        (b"GET / HTTP/1.1\r\nHost", False),
        (b"GET /\r\n", True),
        (b"SSH-2.0-x\r\n", True),
        (b"\x16\x03\x01", True),
        (b"PRI * HTTP/2.0\r\n", True),
    ],
)
def test_what_cannot_become_a_head_is_known_at_once(data: bytes, hopeless: bool) -> None:
    """Whoever speaks another protocol should not wait ten seconds to hear it."""
    assert hopeless is is_not_http(data)


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\n\r\n"])
def test_a_head_ends_at_an_empty_line_of_either_kind(end: bytes) -> None:
    """h11 takes bare line feeds, so we find them."""
    found = HEAD_END.search(b"GET / HTTP/1.1" + end + b"rest")

    assert found is not None
    assert b"rest" == found.string[found.end() :]
