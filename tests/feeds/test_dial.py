"""Connect to a feed, TLS included."""

import ssl

import pytest
import trio

from hedgehogd.domain.feed_address import parse_url
from hedgehogd.feeds.dial import dial

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
