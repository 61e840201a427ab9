"""The address of a subscriber, and the trusted proxies that state it."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.networks import read_networks
from hedgehogd.streaming.address import client_address, is_trusted, share_of

TRUSTED = read_networks(("127.0.0.1", "::1", "10.0.0.0/8"))


def _address(peer: str, **headers: bytes) -> str:
    found = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return client_address(peer, found, TRUSTED)


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("127.0.0.1", b"", "127.0.0.1"),
        ("127.0.0.1", b"203.0.113.9", "203.0.113.9"),
        ("::1", b"2001:db8::7", "2001:db8::7"),
        ("::ffff:127.0.0.1", b"203.0.113.9", "203.0.113.9"),
        # A port and brackets are not part of the address.
        ("127.0.0.1", b"203.0.113.9:51234", "203.0.113.9"),
        ("127.0.0.1", b"[2001:db8::7]", "2001:db8::7"),
        ("127.0.0.1", b"[2001:db8::7]:51234", "2001:db8::7"),
        ("127.0.0.1", b"2001:DB8:0::7", "2001:db8::7"),
        ("127.0.0.1", b"[::ffff:203.0.113.9]:443", "203.0.113.9"),
        # Only the entries of trusted proxies count; the client may have written those further left.
        ("127.0.0.1", b"6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", b"6.6.6.6, 203.0.113.9:80, 10.1.2.3:80", "203.0.113.9"),
        ("127.0.0.1", b"10.1.2.3", "10.1.2.3"),
        ("203.0.113.9", b"6.6.6.6", "203.0.113.9"),
        ("2001:db8::7", b"6.6.6.6", "2001:db8::7"),
        # An entry that is not an address ends the search.
        ("127.0.0.1", b"6.6.6.6, <script>", "127.0.0.1"),
        ("127.0.0.1", b"6.6.6.6, unknown", "127.0.0.1"),
        ("127.0.0.1", b"6.6.6.6, 203.0.113.9:123456", "127.0.0.1"),
        ("127.0.0.1", b"6.6.6.6, [2001:db8::7", "127.0.0.1"),
        ("127.0.0.1", b"6.6.6.6, [[2001:db8::7]]", "127.0.0.1"),
        ("127.0.0.1", b"6.6.6.6, unknown, 10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", b",", "127.0.0.1"),
        ("127.0.0.1", b"fe80::1%eth0", "127.0.0.1"),
        ("127.0.0.1", b"fe80::1%" + b"x" * 999, "127.0.0.1"),
        ("127.0.0.1", b"\xff\xfe", "127.0.0.1"),
        ("127.0.0.1", b"10.0.0.1," * 999 + b"10.0.0.2", "10.0.0.1"),
        # A unix socket belongs to the daemon's user.
        ("", b"203.0.113.9", "203.0.113.9"),
        ("", b"", ""),
    ],
)
def test_only_trusted_proxies_state_a_subscribers_address(peer, forwarded_for, address):
    """An address that every client can forge protects nothing."""
    assert _address(peer, x_forwarded_for=forwarded_for) == address


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (b"for=203.0.113.9", "203.0.113.9"),
        (b'For="203.0.113.9:47011"', "203.0.113.9"),
        (b'for="[2001:db8::7]:51234"', "2001:db8::7"),
        (b'FOR="[2001:db8::7]"', "2001:db8::7"),
        (b"for=[2001:db8::7]:51234", "2001:db8::7"),  # without quotes, as several proxies write it
        (b"by=10.0.0.1;proto=https;for=203.0.113.9 ; host=a.example", "203.0.113.9"),
        (b'host="a, for=6.6.6.6";for=203.0.113.9', "203.0.113.9"),
        (b'for=203.0.113.9;host="a, for=6.6.6.6;b=\\""', "203.0.113.9"),
        (b"for=6.6.6.6, for=203.0.113.9", "203.0.113.9"),
        (b'for=6.6.6.6,for=203.0.113.9;proto=http , for="10.1.2.3:80"', "203.0.113.9"),
        (b'for="\\203.0.113.9"', "203.0.113.9"),
        (b'for="203.0.113.9:_port"', "203.0.113.9"),
        # The client left a quote open: the element that the proxy appended still counts.
        (b'for="6.6.6.6, for="[2001:db8::7]:1"', "2001:db8::7"),
        (b'for="6.6.6.6, for=203.0.113.9', "203.0.113.9"),
        # There is no address, or none that can be parsed.
        (b"for=6.6.6.6, for=unknown", "127.0.0.1"),
        (b"for=6.6.6.6, for=_hidden", "127.0.0.1"),
        (b"for=6.6.6.6, for=_hidden, for=10.1.2.3", "10.1.2.3"),
        (b"for=6.6.6.6, proto=https", "127.0.0.1"),
        (b"for=6.6.6.6,", "127.0.0.1"),
        (b"203.0.113.9", "127.0.0.1"),
        (b'for="', "127.0.0.1"),
        (b"for=6.6.6.6, a=" + b"x" * 9999, "127.0.0.1"),
    ],
)
def test_forwarded_is_read_as_rfc_7239_writes_it(forwarded, address):
    """Quotes, ports, brackets, several elements and obfuscated names occur in practice."""
    assert _address("127.0.0.1", forwarded=forwarded) == address
    assert _address("203.0.113.1", forwarded=forwarded) == "203.0.113.1"


def test_x_forwarded_for_takes_precedence_over_forwarded():
    """A proxy that writes the first forwards the client's second unchanged."""
    both = {"x_forwarded_for": b"203.0.113.9", "forwarded": b"for=6.6.6.6"}

    assert _address("127.0.0.1", **both) == "203.0.113.9"


@given(st.binary(max_size=200))
def test_any_header_yields_an_address(claimed):
    """The client can choose the header's bytes."""
    for name in ("x_forwarded_for", "forwarded"):
        found = _address("127.0.0.1", **{name: claimed})
        assert read_networks([found])
        assert _address("203.0.113.9", **{name: claimed}) == "203.0.113.9"


_V4 = st.integers(0, 2**32 - 1).map(IPv4Address)
_V6 = st.integers(2**64, 2**128 - 1).map(IPv6Address)
_SPACE = st.sampled_from(["", " ", "\t"])
_PORT = st.one_of(st.just(""), st.integers(0, 65535).map(":{}".format))


@st.composite
def _written(draw) -> tuple[str, str, str]:
    """Return an address as text, and in the form that a proxy writes into either header."""
    address = draw(st.one_of(_V4, _V6))
    port = draw(_PORT)
    if address.version == 6:
        plain = f"[{address}]{port}" if port or draw(st.booleans()) else str(address)
        node = f'"[{address}]{port}"'
    else:
        plain = f"{address}{port}"
        node = f'"{plain}"' if port or draw(st.booleans()) else plain
    pairs = draw(
        st.lists(
            st.sampled_from(["proto=https", 'host="a,b;for=6.6.6.6"', "by=_x", 'by="[::1]:80"']),
            max_size=3,
        )
    )
    pairs.insert(draw(st.integers(0, len(pairs))), draw(st.sampled_from(["for=", "For="])) + node)
    return str(address), plain, f"{draw(_SPACE)};{draw(_SPACE)}".join(pairs)


@given(_written(), st.text(alphabet='for="6.;,[]:_\\ ', max_size=60), _SPACE)
def test_the_element_of_a_trusted_proxy_counts_after_any_text(written, claimed, space):
    """It holds for each form of the grammar, after any text that a client may have sent."""
    address, plain, element = written
    expected = address
    for name, text in (("x_forwarded_for", plain), ("forwarded", element)):
        listed = f"{claimed},{space}{text}".encode()
        found = _address("127.0.0.1", **{name: listed})
        if not is_trusted(expected, TRUSTED):
            assert found == expected
        assert ip_address(_address("127.0.0.1", **{name: text.encode()})) == ip_address(expected)


@pytest.mark.parametrize(
    ("address", "share"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_whole_64_counts_as_one_address(address, share):
    """One machine has 2^64 IPv6 addresses; limits on single addresses would have no effect."""
    assert share_of(address) == share
