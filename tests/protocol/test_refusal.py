"""Error bodies have the form that the clients of a path expect."""

import pytest

from hedgehogd.protocol.refusal import asked_path, error_object, wants_no_body

OURS = {"error": {"code": "not_found", "message": "no"}}
COINBASES = {"message": "no"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/products", COINBASES),
        ("/products/BTC-USD/book", COINBASES),
        ("/products/", COINBASES),
        ("/currencies/BTC", COINBASES),
        ("/time", COINBASES),
        ("/time/", COINBASES),
        ("/timeline", OURS),
        ("/productsx", OURS),
        ("/api/v1/products", OURS),
        ("/", OURS),
        ("", OURS),
    ],
)
def test_the_path_decides_the_form_of_an_error(path, expected):
    """Coinbase's clients read only ``message``."""
    assert error_object(path, "not_found", "no") == expected


@pytest.mark.parametrize(
    ("head", "path"),
    [
        (b"GET /products HTTP/1.1\r\nHost: x", "/products"),
        (b"GET /products?a=/b HTTP/1.1\r\n", "/products"),
        (b"GET http://x/products/A?b HTTP/1.1\r\n", "/products/A"),
        (b"GET HTTPS://x:1/time HTTP/1.1\r\n", "/time"),
        (b"GET http://x HTTP/1.1\r\n", ""),
        (b"GET /%70roducts HTTP/1.1\r\n", "/products"),
        (b"get /time HTTP/2.0\r\n", "/time"),
        (b"GET /products", "/products"),
        (b"GET /a\xff\r\n", "/a\xff"),
        (b"GET", ""),
        (b"", ""),
        (b"\x16\x03\x01 /products", "/products"),
        (b"\r\nGET /products", ""),
    ],
)
def test_the_path_is_parsed_from_any_head(head, path):
    """A too large, too slow or invalid head is refused in the form of its path."""
    assert asked_path(head) == path


def test_only_a_head_request_has_no_body_in_its_answer():
    """A client would read a body as the next answer."""
    assert [wants_no_body(each) for each in (b"HEAD / ", b"GET / ", b"HEADS / ")] == [
        True, False, False,
    ]  # fmt: skip
