"""The URLs of the exchange, and the connection to a feed."""

import ssl

import trio

from hedgehogd.domain.feed_address import FeedAddress

COINBASE_URL = "wss://ws-feed.exchange.coinbase.com"
COINBASE_REST_URL = "https://api.exchange.coinbase.com"
SANDBOX_URL = "wss://ws-feed-public.sandbox.exchange.coinbase.com"
SANDBOX_REST_URL = "https://api-public.sandbox.exchange.coinbase.com"


async def dial(address: FeedAddress) -> trio.abc.Stream:
    """Connect to ``address``; the caller limits the time and closes the stream.

    Raises:
        OSError: no route, refused, no such name.
        trio.BrokenResourceError: the TLS handshake failed, for example because of the certificate.
    """
    stream = await trio.open_tcp_stream(address.host, address.port)
    if not address.is_tls:
        return stream
    tls = trio.SSLStream(
        stream,
        ssl.create_default_context(),
        server_hostname=address.host,
        https_compatible=True,
    )
    try:
        await tls.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return tls
