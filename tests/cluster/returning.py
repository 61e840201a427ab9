"""Subscribers that resume: after each end of a stream they reconnect with their position.

They parse frames, chunks and events themselves, use only the documented protocol, and are fast
enough that two hundred of them fit into one process. Each records the numbers it received;
``account`` compares them with the messages of the exchange.
"""

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from random import Random

import msgspec
import trio

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.position import from_text

PAUSE_S = (0.02, 0.3)  # between an end and the next try ...
ABSENCE_S = (1.0, 6.0)  # ... of subscribers that stay away longer than an instance needs to start
_ASK_WEBSOCKET = (
    "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip


class Head(msgspec.Struct):
    """The fields of a message that the subscribers read."""

    type: str = ""
    product_id: str = ""
    sequence: int | None = None


_read = msgspec.json.Decoder(Head).decode


def from_object(position: Mapping[str, Mapping[str, int]]) -> dict[Topic, int]:
    """Read a position as notices state it."""
    return {Topic(c, p): n for c, numbers in position.items() for p, n in numbers.items()}


class Ended(Exception):
    """The stream has ended, or never began."""


class Subscriber:
    """One subscriber, and all its streams one after the other.

    Attributes:
        name: shown in failures.
        topics: its subscription.
        is_patient: it stays away for a while each time.
        got: by topic, the received numbers in order of arrival.
        notices: number of received notices, by type.
        gaps: received gap notices, and the number of messages of the topic before each.
        faults: violations of the protocol, as text.
        streams: number of its streams.
        ended: number of streams that ended after they had begun.
        refusals: requests that opened no stream.
        resumed: number of ``resumed`` notices.
        by_resume: messages received on streams that were not live yet.
        catch_ups_s: duration of each catch-up, from the start of the stream.
    """

    form = ""

    def __init__(
        self, name: str, port: int, topics: Iterable[Topic], random: Random, path: str = "/ws"
    ) -> None:
        self.name = name
        self.topics = frozenset(topics)
        self.is_patient = False
        self.got: dict[Topic, array[int]] = {topic: array("Q") for topic in sorted(self.topics)}
        self.notices: Counter[str] = Counter()
        self.gaps: list[dict[str, object]] = []
        self.faults: list[str] = []
        self._known_faults: set[str] = set()
        self.streams = self.ended = self.refusals = self.resumed = self.by_resume = 0
        self.catch_ups_s: list[float] = []
        self._port = port
        self._path = path
        self._random = random
        self._missing: dict[Topic, int] = {}  # last number reported missing
        self._is_live = True
        self._began_at = 0.0
        self._buffer = bytearray()
        self._stream: trio.SocketStream | None = None

    async def run(self) -> None:
        """Subscribe, again and again, until cancelled."""
        while True:
            count = self.streams
            with suppress(OSError, trio.BrokenResourceError, Ended):
                await self._visit()
            if self.streams > count:
                self.ended += 1
            else:
                self.refusals += 1
            await trio.sleep(self._random.uniform(*(ABSENCE_S if self.is_patient else PAUSE_S)))

    def position(self) -> dict[Topic, int]:
        """Return the last received number of each topic."""
        return {topic: numbers[-1] for topic, numbers in self.got.items() if numbers}

    def has(self, until: Mapping[Topic, int]) -> bool:
        """Return whether it has received all topics up to ``until``."""
        return all(numbers and numbers[-1] >= until[t] for t, numbers in self.got.items())

    async def _visit(self) -> None:
        position = self.position()
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
            target, *headers = self._request(position)
            rows = "".join(f"{row}\r\n" for row in ("Host: localhost", *headers))
            await stream.send_all(f"GET {target} HTTP/1.1\r\n{rows}\r\n".encode())
            self._stream, self._buffer = stream, bytearray()
            while (end := self._buffer.find(b"\r\n\r\n")) < 0:
                await self._receive()
            head = bytes(self._buffer[:end]).decode()
            if head.split(" ", 2)[1] not in {"101", "200"}:
                raise Ended(head)
            del self._buffer[: end + 4]
            self.streams += 1
            self._is_live = not position
            self._began_at = trio.current_time()
            await self._begin(position)
            while True:
                for payload in self._payloads():
                    self._read_payload(payload)
                await self._reply()
                await self._receive()

    async def _receive(self) -> None:
        data = await self._stream.receive_some(1 << 17)
        if not data:
            raise Ended
        self._buffer += data

    def _request(self, position: dict[Topic, int]) -> Iterator[str]:
        """Yield the target and headers of the request for the stream."""
        raise NotImplementedError

    async def _begin(self, position: dict[Topic, int]) -> None:
        """Send the first client messages of a stream."""

    def _payloads(self) -> Iterator[bytes]:
        """Remove and yield complete messages; the rest stays in the buffer."""
        raise NotImplementedError

    async def _reply(self) -> None:
        """Send the answers that received messages require."""

    def _read_payload(self, payload: bytes) -> None:
        head = _read(payload)
        kind, product_id, number = head.type, head.product_id, head.sequence
        if kind == "ticker":
            topics = (Topic("ticker", product_id),)
        elif kind == "match":
            topics = (Topic("matches", product_id), Topic("full", product_id))
        elif kind == "last_match":
            topics = (Topic("matches", product_id),)
        elif number is None or kind == "heartbeat":
            self._read_notice(kind, payload)
            return
        else:
            topics = (Topic("full", product_id),)
        found = [self.got[topic] for topic in topics if topic in self.got]
        for numbers in found:
            numbers.append(number)
        if not found:
            self.faults.append(f"not subscribed: {payload[:100]}")
        if not self._is_live:
            self.by_resume += 1

    def _read_notice(self, kind: str, payload: bytes) -> None:
        self.notices[kind] += 1
        if kind == "resumed":
            self.resumed += 1
            self.catch_ups_s.append(trio.current_time() - self._began_at)
            self._is_live = True
        elif kind == "gap":
            self.gaps.append(gap := json.loads(payload))
            topic = Topic(gap["channel"], gap["product_id"])
            self._missing[topic] = gap.get("last_sequence") or 0
            gap["messages_before"] = len(self.got[topic])
        elif kind == "error":
            self.faults.append(payload.decode())
        elif kind == "closing":
            self._compare("farewell", from_object(json.loads(payload)["position"]))

    def _compare(self, source: str, stated: Mapping[Topic, int]) -> None:
        """Compare a received position with its own, where it has one."""
        has = {t: max(n, self._missing.get(t, 0)) for t, n in self.position().items()}
        for topic, number in has.items():
            if stated.get(topic) != number:
                self._add_fault(f"the {source} states {stated.get(topic)} of {topic}", str(number))

    def _add_fault(self, fault: str, own: str) -> None:
        """Record a fault, once for each text."""
        if fault not in self._known_faults:
            self._known_faults.add(fault)
            self.faults.append(f"{fault}, it has {own}")


class WebSocketSubscriber(Subscriber):
    """A WebSocket on ``/ws``, or on a path with the same messages."""

    form = "websocket"
    _owes_pong = False

    def _request(self, position: dict[Topic, int]) -> Iterator[str]:
        yield self._path
        yield from _ASK_WEBSOCKET

    async def _begin(self, position: dict[Topic, int]) -> None:
        channels: dict[str, dict[str, object]] = {}
        for topic in sorted(self._asked()):
            channel = channels.setdefault(
                topic.channel, {"name": topic.channel, "product_ids": [], "since": {}}
            )
            channel["product_ids"].append(topic.product_id)
            if topic in position:
                channel["since"][topic.product_id] = position[topic]
        command = {"type": "subscribe", "channels": list(channels.values())}
        await self._send(1, json.dumps(command).encode())

    def _asked(self) -> frozenset[Topic]:
        return self.topics | {Topic("heartbeat", topic.product_id) for topic in self.topics}

    async def _send(self, kind: int, payload: bytes) -> None:
        size = bytes((0x80 | 126, *len(payload).to_bytes(2, "big")))
        if len(payload) < 126:
            size = bytes((0x80 | len(payload),))
        await self._stream.send_all(bytes((0x80 | kind,)) + size + bytes(4) + payload)  # mask 0

    def _payloads(self) -> Iterator[bytes]:
        raw, at, end = self._buffer, 0, len(self._buffer)
        while at + 2 <= end:
            size, start = raw[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(raw[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, start = int.from_bytes(raw[at + 2 : at + 10], "big"), at + 10
            if start > end or start + size > end:
                break
            kind = raw[at]
            at = start + size
            if kind == 0x81:
                yield bytes(raw[start:at])
            elif kind == 0x88:
                raise Ended
            elif kind == 0x89:
                self._owes_pong = True
            else:
                self.faults.append(f"a frame of kind {kind:#x}")
        del raw[:at]

    async def _reply(self) -> None:
        if self._owes_pong:
            self._owes_pong = False
            await self._send(10, b"")


class Witness(WebSocketSubscriber):
    """A client of the exchange itself; its messages are the reference."""

    def __init__(self, port: int, topics: Iterable[Topic]) -> None:
        super().__init__("witness", port, topics, Random(), "/")

    def _asked(self) -> frozenset[Topic]:
        # A client of both channels gets trades twice from the exchange.
        return frozenset(topic for topic in self.topics if topic.channel != "matches")


class _HttpSubscriber(Subscriber):
    """A stream over HTTP, in chunks."""

    media = ""
    separator = b""

    def __init__(self, *arguments: object, **more: object) -> None:
        super().__init__(*arguments, **more)
        self._body = bytearray()

    async def _begin(self, position: dict[Topic, int]) -> None:
        self._body = bytearray()

    def _target(self) -> str:
        pairs = ",".join(sorted({topic.product_id for topic in self.topics}))
        channels = ",".join(sorted({topic.channel for topic in self.topics}))
        return f"/api/v1/stream?pairs={pairs}&channels={channels}"

    def _payloads(self) -> Iterator[bytes]:
        raw, at = self._buffer, 0
        while (line_end := raw.find(b"\r\n", at)) >= 0:
            size = int(raw[at:line_end], 16)
            start = line_end + 2
            if start + size + 2 > len(raw):
                break
            at = start + size + 2
            if not size:
                raise Ended
            self._body += raw[start : start + size]
        del raw[:at]
        whole, separator, rest = self._body.rpartition(self.separator)
        self._body = rest
        if separator:
            for part in bytes(whole).split(self.separator):
                yield from self._payload_of(part)

    def _payload_of(self, part: bytes) -> Iterator[bytes]:
        raise NotImplementedError


class SseSubscriber(_HttpSubscriber):
    """An EventSource: it sends the id of its last event."""

    form = "sse"
    separator = b"\n\n"

    def __init__(self, *arguments: object, **more: object) -> None:
        super().__init__(*arguments, **more)
        self._last_id = ""

    def _request(self, position: dict[Topic, int]) -> Iterator[str]:
        yield self._target()
        yield "Accept: text/event-stream"
        if self._last_id:
            yield f"Last-Event-ID: {self._last_id}"

    def _payload_of(self, part: bytes) -> Iterator[bytes]:
        fields = dict(line.partition(b": ")[::2] for line in part.split(b"\n"))
        if b"data" in fields:
            yield fields[b"data"]
        if b"id" in fields:
            self._last_id = fields[b"id"].decode()
            self._compare("id", from_text(self._last_id))


class NdjsonSubscriber(_HttpSubscriber):
    """Lines without notices; it has one topic only, since a sequence belongs to one."""

    form = "ndjson"
    separator = b"\n"

    def _request(self, position: dict[Topic, int]) -> Iterator[str]:
        since = "".join(f"&since={number}" for number in position.values())
        yield self._target() + since + "&notices=none"
        yield "Accept: application/x-ndjson"

    def _payload_of(self, part: bytes) -> Iterator[bytes]:
        if part:
            yield part


class Account(msgspec.Struct):
    """Counts of a subscriber's messages against the reference.

    Attributes:
        due: messages of the exchange between its first one and the end.
        lost: those that it did not receive.
        repeated: those that it received again.
        disordered: messages received after one with a higher number.
        invented: messages that the exchange never sent.
    """

    due: int = 0
    lost: int = 0
    repeated: int = 0
    disordered: int = 0
    invented: int = 0

    def add(self, other: "Account") -> None:
        """Add another account to this one."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def account(numbers: Iterable[int], truth: list[int], until: int) -> Account:
    """Compare received numbers with the reference, which begins no later, up to ``until``."""
    received = [number for number in numbers if number <= until]
    due = [number for number in truth if received[0] <= number <= until]
    if received == due:
        return Account(len(due))
    seen, real = set(received), set(due)
    return Account(
        due=len(due),
        lost=len(real - seen),
        repeated=len(received) - len(seen),
        disordered=sum(b < a for a, b in pairwise(received)),
        invented=sum(number >= truth[0] for number in seen - real),
    )


def settle(
    subscribers: Iterable[Subscriber], truth: Mapping[Topic, list[int]], until: Mapping[Topic, int]
) -> tuple[dict[str, Account], list[str]]:
    """Return the accounts by channel, and the faults by subscriber."""
    accounts: dict[str, Account] = defaultdict(Account)
    faults: list[str] = []
    for subscriber in subscribers:
        for topic, numbers in subscriber.got.items():
            one = account(numbers, truth[topic], until[topic])
            accounts[topic.channel].add(one)
            if one != Account(one.due):
                faults.append(f"{subscriber.name} {topic}: {one}")
        faults += [f"{subscriber.name}: {each}" for each in subscriber.faults]
        faults += [f"{subscriber.name}: {each}" for each in subscriber.gaps]
    return dict(accounts), faults
