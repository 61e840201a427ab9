"""The same streams over TLS, with HTTP/1.1 and with HTTP/2."""

import base64
import json
import os
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import pytest
import trio
from wsproto.frame_protocol import FrameProtocol, Opcode

from tests.cluster.harness import Proxy
from tests.e2e.harness import PATIENCE_S, subscribe

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.xdist_group("cluster")]
NDJSON = "/api/v1/subscribe/BTC-USD"


@pytest.fixture(scope="module")
def secure(running, certificate, tmp_path_factory):
    """A second HAProxy in front of the same instances, with a certificate."""
    proxy = Proxy(tmp_path_factory.mktemp("https"), running.numbers, certificate=str(certificate))
    try:
        proxy.wait_all_up()
        yield proxy
    finally:
        proxy.stop()


@pytest.mark.parametrize(("flag", "version"), [("--http2", "2"), ("--http1.1", "1.1")])
@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
async def test_curl_gets_a_stream(secure, flag, version, accept):
    """A TLS client gets HTTP/2 by default; a stream must flow over it too."""
    port = secure.cluster.https_port
    command = ["curl", "-sSkN", flag, "-H", f"Accept: {accept}", "-D", "-"]
    process = await trio.lowlevel.open_process(
        [*command, f"https://localhost:{port}{NDJSON}"], stdout=subprocess.PIPE
    )
    said = b""
    with trio.fail_after(PATIENCE_S):
        while said.count(b'"type"') < 5:
            data = await process.stdout.receive_some()
            assert data, said
            said += data
    process.kill()
    await process.wait()

    assert said.startswith(b"HTTP/%s 200" % version.encode())
    assert b"hedgehog-session: " in said.lower()


class Http2:
    """A client of one HTTP/2 connection."""

    def __init__(self, stream: trio.SSLStream) -> None:
        self._stream = stream
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))

    async def greet(self) -> None:
        """Exchange settings."""
        self._http.initiate_connection()
        await self._flush()
        while not self._http.remote_settings.enable_connect_protocol:
            await self.events()

    async def ask(self, headers: list[tuple[str, str]], *, ends: bool) -> int:
        """Start a request; return its stream's number."""
        number = self._http.get_next_available_stream_id()
        self._http.send_headers(number, headers, end_stream=ends)
        await self._flush()
        return number

    async def send(self, number: int, data: bytes) -> None:
        """Send part of a request's body."""
        self._http.send_data(number, data)
        await self._flush()

    async def events(self) -> list[h2.events.Event]:
        """Return the next events from the server."""
        data = await self._stream.receive_some()
        assert data, "the server closed the connection"
        events = self._http.receive_data(data)
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        await self._flush()
        return events

    async def _flush(self) -> None:
        if data := self._http.data_to_send():
            await self._stream.send_all(data)


@asynccontextmanager
async def http2(port: int) -> AsyncIterator[Http2]:
    """Connect by TLS and agree on HTTP/2."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    stream = await trio.open_ssl_over_tcp_stream(
        "127.0.0.1", port, ssl_context=context, https_compatible=True
    )
    async with stream:
        await stream.do_handshake()
        assert stream.selected_alpn_protocol() == "h2"
        client = Http2(stream)
        await client.greet()
        yield client


async def test_a_websocket_and_a_request_share_an_http2_connection(secure):
    """Browsers do so if the server permits (RFC 8441): HAProxy turns it into an upgrade."""
    where = [(":scheme", "https"), (":authority", "localhost")]
    connect = [(":method", "CONNECT"), (":protocol", "websocket"), (":path", "/ws-feed"), *where,
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", base64.b64encode(os.urandom(16)).decode())]  # fmt: skip
    frames = FrameProtocol(client=True, extensions=[])
    types: set[str] = set()
    status: dict[int, str] = {}
    answer = b""
    async with http2(secure.cluster.https_port) as client:
        with trio.fail_after(PATIENCE_S):
            websocket = await client.ask(connect, ends=False)
            request = await client.ask([(":method", "GET"), (":path", "/time"), *where], ends=True)
            while types != {"subscriptions", "ticker"} or not answer:
                for event in await client.events():
                    if isinstance(event, h2.events.ResponseReceived):
                        status[event.stream_id] = dict(event.headers)[":status"]
                        if event.stream_id == websocket:  # not before: RFC 8441 §5
                            text = subscribe(["BTC-USD"], ["ticker"])
                            await client.send(websocket, frames.send_data(text))
                    elif not isinstance(event, h2.events.DataReceived):
                        continue
                    elif event.stream_id == request:
                        answer += event.data
                    else:
                        frames.receive_bytes(event.data)
                        types |= {
                            json.loads(frame.payload)["type"]
                            for frame in frames.received_frames()
                            if frame.opcode is Opcode.TEXT
                        }

    assert status == {websocket: "200", request: "200"}
    assert "epoch" in json.loads(answer)
