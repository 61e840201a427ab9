"""The address of a feed: its parts, its REST service, and its secrets."""

import pytest

from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.domain.feed_address import FeedAddress, parse_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://example", FeedAddress("example", 80, "/", False, "http://example")),
        ("wss://example", FeedAddress("example", 443, "/", True, "https://example")),
        ("ws://a:8001/ws?x=1", FeedAddress("a", 8001, "/ws?x=1", False, "http://a:8001")),
        ("wss://a:80/", FeedAddress("a", 80, "/", True, "https://a:80")),
        ("ws://[::1]:9/x", FeedAddress("::1", 9, "/x", False, "http://[::1]:9")),
        ("WS://Example:80", FeedAddress("example", 80, "/", False, "http://example")),
        ("ws://a?channels=x", FeedAddress("a", 80, "/?channels=x", False, "http://a")),
    ],
)
def test_a_url_is_read_into_parts(url, expected):
    """REST is expected at the same host and port."""
    assert parse_url(url) == expected


@pytest.mark.parametrize("url", ["ws://a", "wss://a:8443/ws", "ws://[::1]:9/x"])
def test_an_address_names_its_url_again(url):
    """A log line shows the URL as the operator wrote it."""
    assert parse_url(url + ("/" if url.count("/") == 2 else "")).url.rstrip("/") == url


def test_an_address_sends_its_secrets_and_shows_none():
    """The URL's password is a header of the handshake; the text of the address has none."""
    address = parse_url("wss://reader:p%2Fw-s3cret@a/ws?token=t0ken-s3cret")

    assert address.host_header == "a"
    assert address.resource == "/ws?token=t0ken-s3cret"
    assert address.headers == [(b"Authorization", b"Basic cmVhZGVyOnAvdy1zM2NyZXQ=")]
    assert address.rest_url == "https://a"
    assert address.url == "wss://a/ws?***"
    assert "s3cret" not in repr(address)
    assert address.secrets.hide("p%2fw-s3cret p/w-s3cret t0ken-s3cret") == "*** *** ***"
    assert parse_url("ws://a").headers == []


@pytest.mark.parametrize(
    "url", ["http://u:s3cret@a/?t=s3cret", "ws://u:s3/cret@a", "ws://u:s3cret@"]
)
def test_a_url_that_is_refused_is_named_without_its_secrets(url):
    """The error reaches a terminal, and from there a bug report."""
    with pytest.raises(OperatorError) as caught:
        parse_url(url)
    assert "cret" not in str(caught.value)


def test_rest_may_be_at_another_host():
    """Coinbase's REST service is."""
    assert parse_url("wss://ws-feed.a", "https://api.a").rest_url == "https://api.a"


@pytest.mark.parametrize(
    "url",
    ["http://a", "ws://", "ws:///x", "ws://a:99999", "ws://a:x", "ws://a:0", "ws://[a", "", "coin"],
)
def test_a_text_that_is_not_a_feed_is_named(url):
    """The operator corrects the typo: exit status 78, and no traceback."""
    with pytest.raises(OperatorError, match="is not a feed") as caught:
        parse_url(url)
    assert caught.value.exit_status == EXIT_CONFIG
