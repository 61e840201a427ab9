"""The address of a feed, and connecting to it, TLS included."""

import ssl

import pytest
import trio

from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.feeds import dial as module
from hedgehogd.feeds.dial import FeedAddress, dial, parse_url

# A self-signed certificate for localhost, valid until 2126.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBnDCCAUGgAwIBAgIUAoFMRawAD9Fie3bk17YtetdPpJUwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNDEzNTgwMloYDzIxMjYxMDMx
MTM1ODAyWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARVdXORCELb1/nUmScpSd0pzc/tRrtjkkpaErbAJ1QF6SxkhRIGqmb6
gkjBr9wsbzVaB5bYMkKh514x3piZ6XYEo28wbTAdBgNVHQ4EFgQUnH4ti/R2RKHS
HQEzWqT6NUhdgYgwHwYDVR0jBBgwFoAUnH4ti/R2RKHSHQEzWqT6NUhdgYgwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSQAwRgIhAID4Wf1lqqtjqc3sQP6PLjj45B2oAk4c/Z37QwdM/BP8AiEA
lHFSM77uuR0rSscC2W53XTx4NZpoINMpUyyIDrQrPFA=
-----END CERTIFICATE-----
"""
PRIVATE_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgk6wg6TOCazIDVjf7
gcJ+K1AtDOwFePPeTppQSvwS7pWhRANCAARVdXORCELb1/nUmScpSd0pzc/tRrtj
kkpaErbAJ1QF6SxkhRIGqmb6gkjBr9wsbzVaB5bYMkKh514x3piZ6XYE
-----END PRIVATE KEY-----
"""


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
    """The REST service is expected at the same host and port."""
    assert parse_url(url) == expected


@pytest.mark.parametrize("url", ["ws://a", "wss://a:8443/ws", "ws://[::1]:9/x"])
def test_an_address_names_its_url_again(url):
    """The log shows the URL as the operator wrote it."""
    assert parse_url(url + ("/" if url.count("/") == 2 else "")).url.rstrip("/") == url


def test_an_address_sends_its_secrets_and_shows_none():
    """The URL's password is a header of the handshake; printing the address is harmless."""
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
    """The message reaches a terminal, and from there a bug report."""
    with pytest.raises(OperatorError) as caught:
        parse_url(url)
    assert "cret" not in str(caught.value)


def test_rest_may_be_elsewhere():
    """Coinbase has its REST service on another host."""
    assert parse_url(module.COINBASE_URL, module.COINBASE_REST_URL).rest_url == (
        "https://api.exchange.coinbase.com"
    )


@pytest.mark.parametrize(
    "url",
    ["http://a", "ws://", "ws:///x", "ws://a:99999", "ws://a:x", "ws://a:0", "ws://[a", "", "coin"],
)
def test_an_invalid_url_is_named(url):
    """A typing mistake ends with exit status 78, without a traceback."""
    with pytest.raises(OperatorError, match="is not a feed") as caught:
        parse_url(url)
    assert caught.value.exit_status == EXIT_CONFIG


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """Make the test's certificate the only trusted one."""
    path = tmp_path / "cert.pem"
    path.write_text(CERTIFICATE + PRIVATE_KEY)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


async def serve_echo(nursery, certificate=None):
    """Echo the first bytes of each connection; return the port."""

    async def echo(stream):
        try:
            async with stream:
                await stream.send_all(await stream.receive_some())
                await stream.receive_some()
        except trio.BrokenResourceError:
            pass

    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        listeners = await trio.open_ssl_over_tcp_listeners(
            0, context, host="0.0.0.0", https_compatible=True
        )
        port = listeners[0].transport_listener.socket.getsockname()[1]
    else:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
    nursery.start_soon(trio.serve_listeners, echo, listeners)
    return port


async def test_a_plain_address_is_a_plain_connection(nursery):
    """Relays in one network need no TLS."""
    port = await serve_echo(nursery)
    async with await dial(parse_url(f"ws://127.0.0.1:{port}")) as stream:
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"


async def test_a_secure_address_is_a_secure_connection(nursery, certificate):
    """The certificate and its name are checked before the first byte is sent."""
    port = await serve_echo(nursery, certificate)
    stream = await dial(parse_url(f"wss://localhost:{port}"))
    await stream.wait_send_all_might_not_block()
    await stream.send_all(b"hello")
    assert await stream.receive_some(100) == b"hello"
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")


@pytest.mark.parametrize("trusted", [True, False])
async def test_an_invalid_certificate_prevents_the_connection(
    nursery, certificate, monkeypatch, trusted
):
    """Prices from an attacker in between are worse than none."""
    port = await serve_echo(nursery, certificate)
    host = "127.0.0.2" if trusted else "localhost"
    if not trusted:
        monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(trio.BrokenResourceError) as caught:
        await dial(parse_url(f"wss://{host}:{port}"))
    assert "certificate verify failed" in str(caught.value.__cause__)


async def test_an_unreachable_host_is_an_os_error():
    """The feed treats it as an outage and dials again."""
    with pytest.raises(OSError, match="all attempts"):
        await dial(parse_url("ws://127.0.0.1:1"))
