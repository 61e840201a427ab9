"""The first head of a connection."""

import pytest

from hedgehogd.streaming.head import HEAD_END, BadHead, is_not_http, read_head, without_upgrade


def test_only_header_lines_of_the_head_are_dropped() -> None:
    """A body may look like a header; a folded line belongs to its header."""
    head = b"POST / HTTP/1.1\r\nUPGRADE : h2c,\r\n more\r\nA: b\r\n\r\n"
    body = b"Upgrade: h2c\r\n"

    assert b"POST / HTTP/1.1\r\nA: b\r\n\r\n" + body == without_upgrade(head + body, len(head))


def test_bytes_of_another_protocol_are_no_request() -> None:
    """A response or half a head cannot be routed."""
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
def test_bytes_that_cannot_become_a_head_are_recognized_at_once(
    data: bytes, hopeless: bool
) -> None:
    """A client of another protocol should not wait ten seconds for the error."""
    assert hopeless is is_not_http(data)


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\n\r\n"])
def test_a_head_ends_at_an_empty_line_of_either_kind(end: bytes) -> None:
    """h11 accepts bare line feeds, so the door accepts them too."""
    found = HEAD_END.search(b"GET / HTTP/1.1" + end + b"rest")

    assert found is not None
    assert b"rest" == found.string[found.end() :]


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "3.0"])
def test_another_version_is_refused(version: str) -> None:
    """An HTTP/1.1 response to an HTTP/2.0 request would be invalid."""
    with pytest.raises(BadHead, match=f"not HTTP/{version}$") as caught:
        read_head(f"GET / HTTP/{version}\r\nHost: x\r\n\r\n".encode())

    assert (caught.value.status, caught.value.code) == (505, "http_version")


@pytest.mark.parametrize("method", ["get", "Get", "GEt", "delete", "x"])
def test_a_method_in_small_letters_is_refused(method: str) -> None:
    """Methods are case-sensitive (RFC 9110 §9.1); Hypercorn read ``get`` as GET."""
    with pytest.raises(BadHead, match="capital letters") as caught:
        read_head(f"{method} / HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    assert (caught.value.status, caught.value.code) == (400, "bad_request")


@pytest.mark.parametrize("method", ["GET", "M-SEARCH", "PROPFIND"])
def test_a_method_in_capital_letters_is_read(method: str) -> None:
    """The routes decide whether they support it."""
    head = read_head(f"{method} / HTTP/1.0\r\n\r\n".encode())

    assert head.method == method.encode()


@pytest.mark.parametrize(
    ("method", "target", "is_read"),
    [
        ("GET", "/", True),
        ("GET", "//x", True),
        ("GET", "http://h", True),
        ("GET", "HTTPS://h:1?x", True),
        ("OPTIONS", "*", True),
        ("GET", "*", False),
        ("GET", "?format=csv", False),
        ("GET", "products", False),
        ("GET", "http:///x", True),
        ("GET", "ftp://h/", False),
        ("CONNECT", "h:80", False),
    ],
)
def test_a_target_is_a_path_or_an_absolute_url(method: str, target: str, is_read: bool) -> None:
    """Hypercorn answered a query without a path with a 500."""
    data = f"{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
    if is_read:
        assert read_head(data).target == target.encode()
        return
    with pytest.raises(BadHead, match="begins with /") as caught:
        read_head(data)

    assert (caught.value.status, caught.value.code) == (400, "bad_request")
