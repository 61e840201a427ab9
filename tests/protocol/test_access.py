"""``Host`` and ``Origin``: served names and pages, and refusals of all similar ones."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hedgehogd.domain.errors import SubscriberError
from hedgehogd.protocol.access import (
    Access,
    Authority,
    CrossOrigins,
    Origin,
    read_authority,
    read_origin,
)

NAMES = st.from_regex(r"[a-z0-9_-][a-z0-9_-]{0,9}(\.[a-z0-9-]{1,9}){0,3}", fullmatch=True)
ADDRESSES = st.ip_addresses(v=4).map(str)
PORTS = st.integers(0, 65535)


def verdict(access: Access, authority: str | None, origin: str | None) -> int:
    """Return the status of the refusal; 200 if the request is served."""
    codes = {"bad_origin": 403, "bad_host": 421}
    try:
        access.check(authority, origin)
    except SubscriberError as error:
        return error.status if codes[error.code] == error.status else 0
    return 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost", Authority("localhost", None)),
        ("LOCALHOST.:8001", Authority("localhost", 8001)),
        ("relay.example:", Authority("relay.example", None)),
        ("my_relay-1.lan:0", Authority("my_relay-1.lan", 0)),
        ("127.0.0.1:65535", Authority("127.0.0.1", 65535)),
        ("[::1]", Authority("::1", None)),
        ("[0:0:0:0:0:0:0:1]:80", Authority("::1", 80)),
        ("[2001:DB8::A]:00443", Authority("2001:db8::a", 443)),
        ("[::ffff:127.0.0.1]", Authority("::ffff:7f00:1", None)),
        ("xn--80ak6aa92e.example", Authority("xn--80ak6aa92e.example", None)),
    ],
)
def test_an_authority_is_normalised(text, expected):
    """Two spellings of one host must compare as equal."""
    assert read_authority(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", ".", ":", ":80", "a:b", "a:-1", "a:+1", "a:65536", "a:000080", "a:8 0", "a b", " a", "a ",
     "a\n", "a,b", "a, a", "user@a", "user:password@a:1", "localhost@evil", "evil@localhost", "a/b",
     "a?b", "a#b", "a\\b", "a%2e", "*", "é", "\u0130", "a:\u0661", "::1", "::1:80", "[::1",
     "::1]", "[::1]x", "[::1]:x", "[::1%lo]", "[fe80::1%25eth0]", "[127.0.0.1]", "[]", "[::1]]",
     "[localhost]", "[:]", "[1::2::3]", "http://a", ".localhost", "\x00"],
)  # fmt: skip
def test_an_invalid_authority_is_refused(text):
    """Userinfo, lists, zones and spaces have misled other servers."""
    assert read_authority(text) is None


@given(host=st.one_of(NAMES, ADDRESSES), port=st.none() | PORTS)
def test_a_formatted_authority_is_parsed_to_the_same_value(host, port):
    """This holds with capitals and with a trailing dot too."""
    tail = "" if port is None else f":{port}"
    for text in (host, host.upper(), f"{host}."):
        assert read_authority(text + tail) == Authority(host, port)


@given(address=st.ip_addresses(v=6), port=st.none() | PORTS)
def test_an_ipv6_authority_is_normalised(address, port):
    """The long form of an address equals its short form."""
    tail = "" if port is None else f":{port}"
    for text in (str(address), address.exploded, address.exploded.upper()):
        assert read_authority(f"[{text}]{tail}") == Authority(str(address), port)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("::ffff:7f00:1", True),
        ("::ffff:a00:1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("127.1", False),
        ("2130706433", False),
        ("0x7f.0.0.1", False),
        ("127.0.0.1.nip.io", False),
        ("localhost.evil.example", False),
        ("foo.localhost", False),
        ("localhost.", False),
    ],
)
def test_loopback_hosts_cannot_be_redirected_by_dns(host, expected):
    """Browsers normalise addresses, so other forms of an address are names."""
    assert Authority(host, 8001).is_loopback is expected


@given(address=st.ip_addresses())
def test_an_address_is_loopback_by_its_network(address):
    """The oracle compares the bits of the address."""
    if isinstance(address, IPv4Address):
        expected = int(address) >> 24 == 127
    else:
        number = int(address)
        is_mapped = number >> 32 == 0xFFFF
        expected = number == 1 or (is_mapped and number >> 24 & 0xFF == 127)
        assert isinstance(address, IPv6Address)
    assert Authority(str(address), None).is_loopback is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a.example", Origin("https", "a.example", 443)),
        ("HTTP://A.EXAMPLE.:8001", Origin("http", "a.example", 8001)),
        ("http://[::1]:8001", Origin("http", "::1", 8001)),
        ("http://a:0", Origin("http", "a", 0)),
        ("wss://a", Origin("wss", "a", 443)),
        ("chrome-extension://abcdef", Origin("chrome-extension", "abcdef", None)),
        *((text, None) for text in (
            "", "null", "NULL", "a.example", "//a", "https:a", "https:/a", "https://", "http://a/",
            "http://a/b", "http://user@a", "http://a:b@a", "http://a, http://a", "http://a http://b",
            " http://a", "http://a ", "http://a?b", "http://a#b", "http://::1", "http://a:99999",
            "*", "1http://a", "http ://a", "é://a",
        )),
    ],
)  # fmt: skip
def test_an_origin_is_scheme_host_and_port(text, expected):
    """``null``, lists, and origins with a path or a user are refused."""
    assert read_origin(text) == expected


@pytest.mark.parametrize(
    ("origin", "authority", "expected"),
    [
        ("http://127.0.0.1:8001", "127.0.0.1:8001", True),
        ("https://127.0.0.1:8001", "127.0.0.1:8001", True),  # TLS ends at a proxy
        ("http://127.0.0.1:8002", "127.0.0.1:8001", False),
        ("http://localhost:8001", "127.0.0.1:8001", False),
        ("https://relay.example", "relay.example", True),
        ("http://relay.example", "relay.example", True),
        ("https://relay.example", "relay.example:443", True),
        ("http://relay.example", "relay.example:80", True),
        ("https://relay.example", "relay.example:80", False),
        ("http://relay.example:8080", "relay.example", False),
        ("https://relay.example.", "Relay.Example:443", True),
        ("https://relay.example.evil.example", "relay.example", False),
        ("https://evil-relay.example", "relay.example", False),
        ("http://[::1]:8001", "[0::1]:8001", True),
        ("chrome-extension://relay.example", "relay.example", False),
        ("chrome-extension://relay.example:80", "relay.example:80", True),
        ("null", "null", False),
        ("null", "127.0.0.1:8001", False),
        ("", "", False),
        ("http://user@relay.example", "relay.example", False),
        ("http://relay.example, http://relay.example", "relay.example", False),
        ("http://relay.example", None, False),
        ("http://relay.example", "evil@relay.example", False),
    ],
)
def test_a_page_is_served_if_it_comes_from_the_named_host_and_port(origin, authority, expected):
    """The scheme is not compared, and a missing port matches both defaults."""
    access = Access(CrossOrigins())
    assert verdict(access, authority, origin) == (200 if expected else 403)
    assert verdict(access, authority, None) == 200


AUTHORITIES = st.tuples(st.sampled_from(["a", "A.", "b", "[::1]", "127.0.0.1"]),
    st.sampled_from(["", ":", ":80", ":443", ":8001"])).map("".join)  # fmt: skip
SCHEMES = st.sampled_from(["http", "HTTPS", "moz-extension"])


@given(scheme=SCHEMES, page=AUTHORITIES, named=AUTHORITIES)
@example(scheme="http", page="a:443", named="a")
def test_the_same_origin_has_the_host_and_port_of_the_connection(scheme, page, named):
    """The oracle lists all ports that each side can refer to."""

    def ports(text, defaults):
        port = text.rpartition(":")[2] if not text.endswith("]") and ":" in text else ""
        return {int(port)} if port else defaults

    def host(text):
        bare = text if text.endswith("]") else text.rpartition(":")[0] or text
        return bare.lower().rstrip(".")

    page_ports = ports(page, {"http": {80}, "HTTPS": {443}}.get(scheme, set()))
    expected = host(page) == host(named) and bool(page_ports & ports(named, {80, 443}))

    assert verdict(Access(CrossOrigins()), named, f"{scheme}://{page}") == (
        200 if expected else 403
    )


@pytest.mark.parametrize(
    ("admitted", "origin", "expected"),
    [
        (("https://a.example",), "https://a.example", "https://a.example"),
        (("https://A.example:443",), "https://a.example", "https://a.example"),
        (("https://a.example",), "http://a.example", ""),
        (("https://a.example",), "https://a.example:444", ""),
        (("https://a.example",), "https://b.a.example", ""),
        (("https://a.example",), "null", ""),
        (("null",), "null", ""),
        (("chrome-extension://abc",), "chrome-extension://abc", "chrome-extension://abc"),
        (("https://a.example", "*"), "https://b.example", "*"),
        (("*",), "null", "*"),
        (("*",), "", "*"),
        ((), "https://a.example", ""),
        ((), "null", ""),
    ],
)
def test_an_admitted_origin_is_compared_with_its_scheme(admitted, origin, expected):
    """``Access-Control-Allow-Origin`` repeats the origin as the browser sent it."""
    cross_origins = CrossOrigins(admitted)
    assert cross_origins.answer(origin) == expected
    assert verdict(Access(cross_origins), "r:1", origin) == (200 if expected else 403)


@pytest.mark.parametrize(
    ("hosts", "authority", "expected"),
    [
        ((), "localhost:8001", 200),
        ((), "LOCALHOST.", 200),
        ((), "127.9.9.9:1", 200),
        ((), "[::1]:8001", 200),
        ((), "[::ffff:127.0.0.1]", 200),
        ((), None, 200),
        ((), "", 421),
        ((), "evil.example", 421),
        ((), "127.0.0.1.evil.example:8001", 421),
        ((), "0.0.0.0:8001", 421),
        ((), "user@localhost", 421),
        ((), "localhost@evil.example", 421),
        ((), "localhost, evil.example", 421),
        ((), "x" * 500, 421),
        (("relay.example",), "Relay.Example.:8443", 200),
        (("relay.example",), "a.relay.example", 421),
        (("relay.example",), "localhost", 200),
        (("*",), "evil.example", 200),
        (("*",), "", 200),
        (None, "evil.example", 200),
        (None, "user@odd", 200),
    ],
)
def test_a_loopback_listener_serves_loopback_names_and_listed_ones(hosts, authority, expected):
    """A page that resolves its own name to 127.0.0.1 has equal ``Origin`` and ``Host``."""
    access = Access(CrossOrigins(["*"]), hosts)
    assert verdict(access, authority, None) == expected
    assert verdict(access, authority, f"http://{authority}") == expected


def test_a_refusal_shows_only_the_beginning_of_a_header():
    """The refusal is logged."""
    access = Access(CrossOrigins(), ())
    for authority, origin in (("x" * 9999, None), ("localhost", "x" * 9999)):
        with pytest.raises(SubscriberError) as caught:
            access.check(authority, origin)
        assert len(str(caught.value)) < 300
