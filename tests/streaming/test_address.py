"""Where a subscriber is, and who is believed about that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.streaming.address import client_address, read_networks

TRUSTED = read_networks(("127.0.0.1", "::1", "10.0.0.0/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("127.0.0.1", b"", "127.0.0.1"),
        ("127.0.0.1", b"203.0.113.9", "203.0.113.9"),
        ("::1", b"2001:db8::7", "2001:db8::7"),
        ("::ffff:127.0.0.1", b"203.0.113.9", "203.0.113.9"),
        # Only what proxies of ours wrote counts: further left stands what the client says.
        ("127.0.0.1", b"6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", b"6.6.6.6, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("127.0.0.1", b"10.1.2.3", "10.1.2.3"),
        ("203.0.113.9", b"6.6.6.6", "203.0.113.9"),
        ("2001:db8::7", b"6.6.6.6", "2001:db8::7"),
        # What is no address is no address.
        ("127.0.0.1", b"6.6.6.6, <script>", "127.0.0.1"),
        ("127.0.0.1", b"6.6.6.6, 203.0.113.9:443", "127.0.0.1"),
        ("127.0.0.1", b",", "127.0.0.1"),
        ("127.0.0.1", b"fe80::1%" + b"x" * 999, "127.0.0.1"),
        ("127.0.0.1", b"\xff\xfe", "127.0.0.1"),
        # A unix socket is our own.
        ("", b"203.0.113.9", "203.0.113.9"),
        ("", b"", ""),
    ],
)
def test_proxies_of_ours_are_believed_and_nobody_else(peer, forwarded_for, address):
    """An address that anybody could forge would be worth nothing against abuse."""
    assert client_address(peer, forwarded_for, TRUSTED) == address


@given(st.binary(max_size=200))
def test_whatever_is_claimed_an_address_comes_out(claimed):
    """The header is the client's to write."""
    found = client_address("127.0.0.1", claimed, TRUSTED)
    assert read_networks([found])
    assert client_address("203.0.113.9", claimed, TRUSTED) == "203.0.113.9"


@pytest.mark.parametrize("text", ["proxy", "10.0.0.0/33", "", "10.0.0.1,10.0.0.2"])
def test_a_network_that_is_none_is_refused(text):
    """At start, not when the first subscriber comes."""
    with pytest.raises(ValueError, match=r"address|network|does not appear"):
        read_networks([text])
