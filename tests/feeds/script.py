"""A scripted exchange at the other end of the feed's stream, down to the byte."""

import base64
import hashlib
import json
from random import Random

import trio
from trio.testing import memory_stream_pair

from hedgehogd.domain.errors import FeedError
from hedgehogd.feeds.disconnects import cause_of
from hedgehogd.protocol.frames import encode_close, encode_pong, encode_text

_ACCEPT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A


def heartbeat(product="BTC-USD", sequence=1):
    return json.dumps({"type": "heartbeat", "sequence": sequence, "product_id": product}).encode()


def ticker(product="BTC-USD", sequence=1):
    return json.dumps({"type": "ticker", "sequence": sequence, "product_id": product}).encode()


def match(trade_id, product="BTC-USD"):
    return json.dumps(
        {"type": "match", "trade_id": trade_id, "sequence": trade_id, "product_id": product}
    ).encode()


def full(sequence, product="BTC-USD", trade_id=None):
    """An event of ``full``: a trade when it has an id, else a new order."""
    kind = "match" if trade_id else "received"
    event = {"type": kind, "product_id": product, "sequence": sequence, "trade_id": trade_id}
    return json.dumps({key: value for key, value in event.items() if value is not None}).encode()


def level2(kind, product="BTC-USD", **more):
    """A ``snapshot`` or an ``l2update``."""
    return json.dumps({"type": kind, "product_id": product, **more}).encode()


def error(reason, message="Failed to subscribe"):
    return json.dumps({"type": "error", "message": message, "reason": reason}).encode()


def ack(**channels):
    """Return an acknowledgement that lists ``channels`` as the connection's subscriptions."""
    rows = [{"name": name, "product_ids": list(ids)} for name, ids in channels.items()]
    return json.dumps({"type": "subscriptions", "channels": rows}).encode()


def asked(request):
    """Return the type of a request, and its products by channel."""
    channels = {row["name"]: row.get("product_ids", []) for row in request["channels"]}
    return request["type"], channels


class Line:
    """One connection, seen from the exchange."""

    def __init__(self, stream, far_end):
        self.stream = stream
        self.far_end = far_end  # the feed's own end, for hooks
        self.head = b""
        self.requests = []  # type and channels of each, in the order of ``answer_pings``
        self.raw_requests = []  # the same requests, as JSON objects
        self.held = set()  # (channel, product) subscribed to by all requests so far
        self.is_over = False
        self._read = b""

    async def _more(self):
        data = await self.stream.receive_some()
        if not data:
            raise EOFError
        self._read += data

    async def receive_head(self):
        while b"\r\n\r\n" not in self._read:
            await self._more()
        self.head, _, self._read = self._read.partition(b"\r\n\r\n")
        return self.head

    async def shake_hands(self, after=b"", *, accept=None, headers=b""):
        """Accept the upgrade; ``after`` travels in the same packet.

        Another ``accept`` than the right token, or unexpected ``headers``, make it invalid.
        """
        head = await self.receive_head()
        key = next(
            line.split(b": ")[1]
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key")
        )
        accept = accept or base64.b64encode(hashlib.sha1(key + _ACCEPT).digest())
        await self.stream.send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n" + headers + b"\r\n" + after
        )

    async def send(self, *payloads):
        """Send messages, all in one packet."""
        await self.stream.send_all(b"".join(map(encode_text, payloads)))

    async def receive_frame(self):
        """Return the feed's next frame: first byte and unmasked payload."""
        while True:
            frame = self._next_frame()
            if frame:
                return frame
            await self._more()

    def _next_frame(self):
        data = self._read
        if len(data) < 2:
            return None
        size, at = data[1] & 0x7F, 2
        if size > 125:
            width = 2 if size == 126 else 8
            at += width
            size = int.from_bytes(data[2:at], "big")
        if len(data) < at + 4 + size:
            return None
        mask = (data[at : at + 4] * (size // 4 + 1))[:size]
        masked = data[at + 4 : at + 4 + size]
        self._read = data[at + 4 + size :]
        payload = (int.from_bytes(masked, "big") ^ int.from_bytes(mask, "big")).to_bytes(
            size, "big"
        )
        return data[0], payload

    async def receive_request(self):
        """Return the feed's next request."""
        first, payload = await self.receive_frame()
        assert first == TEXT
        return json.loads(payload)

    async def answer_pings(self):
        """Answer pings and record requests until the connection ends."""
        try:
            while True:
                first, payload = await self.receive_frame()
                if first == PING:
                    await self.stream.send_all(encode_pong(payload))
                elif first == TEXT:
                    self.note(json.loads(payload))
        except (EOFError, trio.BrokenResourceError):
            pass

    def note(self, request):
        """Record a request, and the subscriptions after it."""
        self.raw_requests.append(request)
        kind, channels = asked(request)
        self.requests.append((kind, channels))
        for name, products in channels.items():
            topics = {(name, product) for product in products}
            self.held = self.held | topics if kind == "subscribe" else self.held - topics

    async def serve(self):
        """Do the handshake, answer pings and record requests until the connection ends."""
        await self.shake_hands()
        await self.answer_pings()
        self.is_over = True

    async def receive_until_closed(self, *, answer=True):
        """Return all frames that the feed sends, up to its close frame."""
        frames = []
        try:
            while True:
                frames.append(await self.receive_frame())
                if frames[-1][0] == CLOSE and answer:
                    await self.stream.send_all(encode_close(1000))
        except (EOFError, trio.BrokenResourceError):
            return frames

    def break_next_read(self):
        """Reset the connection at the feed's next read."""

        async def reset():
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError

        self.far_end.receive_stream.receive_some_hook = reset


class Exchange:
    """Answers dials with scripted connections, or with the errors in ``failures``."""

    def __init__(self):
        self.dialled_at = []
        self.failures = []
        self.served = []
        self._lines_tx, self._lines_rx = trio.open_memory_channel(1000)

    async def open_stream(self, address):
        await trio.lowlevel.checkpoint()
        self.dialled_at.append(trio.current_time())
        if self.failures:
            raise self.failures.pop(0)
        near, far = memory_stream_pair()
        self._lines_tx.send_nowait(Line(far, near))
        return near

    async def serve(self, nursery):
        """Serve all connections; see ``lines_with``."""
        while True:
            line = await self.dialled()
            self.served.append(line)
            nursery.start_soon(line.serve)

    async def lines_with(self, channel, product="BTC-USD", count=1):
        """Wait until ``count`` served lines hold a topic; return them, the oldest first."""
        with trio.fail_after(100):
            while True:
                found = [
                    line
                    for line in self.served
                    if (channel, product) in line.held and not line.is_over
                ]
                if len(found) >= count:
                    return found
                await trio.sleep(0.01)

    async def dialled(self):
        """Return the next connection, before its handshake."""
        return await self._lines_rx.receive()

    async def connected(self):
        """Return the next connection, after its handshake."""
        line = await self.dialled()
        await line.shake_hands()
        return line

    async def subscribed(self):
        """Return the next connection after its first request, and that request."""
        line = await self.connected()
        return line, await line.receive_request()


class LongestPauses(Random):
    """Jitter at its upper bound, so that pauses are predictable."""

    def uniform(self, a, b):
        return b


class Inbox:
    """A feed's inbox; deliveries that only state the flowing topics go to ``flows``."""

    def __init__(self, inbox):
        self._inbox = inbox
        self.flows = []

    def __getattr__(self, name):
        return getattr(self._inbox, name)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        self._inbox.close()

    def __aiter__(self):
        return self

    async def __anext__(self):
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def receive(self):
        while True:
            delivery = await self._inbox.receive()
            if not self._is_report(delivery):
                return delivery

    def receive_nowait(self):
        while True:
            delivery = self._inbox.receive_nowait()
            if not self._is_report(delivery):
                return delivery

    def _is_report(self, delivery):
        if delivery.flows is None:
            return False
        self.flows.append(delivery.flows)
        return True


class Running:
    """A running feed, with its exchange, instance and inbox."""

    def __init__(self, exchange, instance, feed, inbox):
        self.exchange = exchange
        self.instance = instance
        self.feed = feed
        self.inbox = Inbox(inbox)
        self.ended_by = None
        self.read = []
        self.inbox_ended = False

    @property
    def demand(self):
        return self.instance.pipe.demand

    @property
    def health(self):
        return self.instance.health

    async def run(self, task_status=trio.TASK_STATUS_IGNORED):
        try:
            await self.feed.run(task_status=task_status)
        except* FeedError as group:
            self.ended_by = cause_of(group)

    async def messages(self):
        """Return the payloads of the next delivery with messages."""
        while True:
            delivery = await self.inbox.receive()
            if delivery.messages:
                return [message.payload for message in delivery.messages]

    def received(self):
        """Return the payloads and the notices that wait in the inbox, each in order."""
        payloads, notices = [], []
        while True:
            try:
                delivery = self.inbox.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return payloads, notices
            payloads += [message.payload for message in delivery.messages]
            notices += [json.loads(each.payload) for each in delivery.notices if each.payload]

    def notices(self):
        """Return the notices that wait in the inbox."""
        return self.received()[1]
