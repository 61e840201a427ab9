"""Subscribers that come back: cut off, they connect again and say where they were.

They read frames, chunks and events by themselves, know nothing of hedgehogd but its
documents, and are quick enough that two hundred of them fit into one process. Each writes
down the numbers it was given; ``account`` compares them with what the exchange said.
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
ABSENCE_S = (1.0, 6.0)  # ... of those who stay away longer than an instance needs to start
_ASK_WEBSOCKET = (
    "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip


class Head(msgspec.Struct):
    """What is looked at of a message."""

    type: str = ""
    product_id: str = ""
    sequence: int | None = None


_read = msgspec.json.Decoder(Head).decode


def from_object(position: Mapping[str, Mapping[str, int]]) -> dict[Topic, int]:
    """Read a position as notices state it."""
    return {Topic(c, p): n for c, numbers in position.items() for p, n in numbers.items()}


class Ended(Exception):
    """The stream is over, or never began."""


class Subscriber:
    """One subscriber, and all its streams one after the other.

    Attributes:
        name: for people.
        topics: what it wants.
        is_patient: it stays away for a while each time.
        got: by topic, each number that came, in the order in which they came.
        notices: what it was told, by type.
        gaps: the gaps that it was told, and how many messages of the topic came before.
        wrong: what must not be, for people.
        streams: how many it had.
        cuts: how many of them ended after they had begun.
        refusals: tries that were no stream.
        resumed: how often it was told to have caught up.
        by_resume: messages that came on streams that were not live yet.
        catch_ups_s: how long each time, from the stream's begin.
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
        self.wrong: list[str] = []
        self._complaints: set[str] = set()
        self.streams = self.cuts = self.refusals = self.resumed = self.by_resume = 0
        self.catch_ups_s: list[float] = []
        self._port = port
        self._path = path
        self._random = random
        self._missing: dict[Topic, int] = {}  # all up to this is told to be missing
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
                self.cuts += 1
            else:
                self.refusals += 1
            await trio.sleep(self._random.uniform(*(ABSENCE_S if self.is_patient else PAUSE_S)))

    def position(self) -> dict[Topic, int]:
        """Return what it has got last of each topic."""
        return {topic: numbers[-1] for topic, numbers in self.got.items() if numbers}

    def has(self, until: Mapping[Topic, int]) -> bool:
        """Say whether it is as far as ``until``."""
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
                    self._take(payload)
                await self._reply()
                await self._receive()

    async def _receive(self) -> None:
        data = await self._stream.receive_some(1 << 17)
        if not data:
            raise Ended
        self._buffer += data

    def _request(self, position: dict[Topic, int]) -> Iterator[str]:
        """Yield the target and headers that ask for the stream."""
        raise NotImplementedError

    async def _begin(self, position: dict[Topic, int]) -> None:
        """Say what is to be said on a stream that has begun."""

    def _payloads(self) -> Iterator[bytes]:
        """Take whole messages from the buffer; the rest of it stays."""
        raise NotImplementedError

    async def _reply(self) -> None:
        """Say what is owed for what came."""

    def _take(self, payload: bytes) -> None:
        head = _read(payload)
        kind, product_id, number = head.type, head.product_id, head.sequence
        if kind == "ticker":
            topics = (Topic("ticker", product_id),)
        elif kind == "match":
            topics = (Topic("matches", product_id), Topic("full", product_id))
        elif kind == "last_match":
            topics = (Topic("matches", product_id),)
        elif number is None or kind == "heartbeat":
            self._hear(kind, payload)
            return
        else:
            topics = (Topic("full", product_id),)
        found = [self.got[topic] for topic in topics if topic in self.got]
        for numbers in found:
            numbers.append(number)
        if not found:
            self.wrong.append(f"not asked for: {payload[:100]}")
        if not self._is_live:
            self.by_resume += 1

    def _hear(self, kind: str, payload: bytes) -> None:
        self.notices[kind] += 1
        if kind == "resumed":
            self.resumed += 1
            self.catch_ups_s.append(trio.current_time() - self._began_at)
            self._is_live = True
        elif kind == "gap":
            self.gaps.append(gap := json.loads(payload))
            topic = Topic(gap["channel"], gap["product_id"])
            self._missing[topic] = gap.get("last_sequence") or 0
            gap["came_before"] = len(self.got[topic])
        elif kind == "error":
            self.wrong.append(payload.decode())
        elif kind == "closing":
            self._compare("farewell", from_object(json.loads(payload)["position"]))

    def _compare(self, what: str, told: Mapping[Topic, int]) -> None:
        """See that a position that it is told is its own, where it has one."""
        has = {t: max(n, self._missing.get(t, 0)) for t, n in self.position().items()}
        for topic, number in has.items():
            if told.get(topic) != number:
                self._complain(f"the {what} says {told.get(topic)} of {topic}", str(number))

    def _complain(self, what: str, more: str) -> None:
        """Write down something wrong; the same again is not worth a second line."""
        if what not in self._complaints:
            self._complaints.add(what)
            self.wrong.append(f"{what}, it has {more}")


class WebSocketSubscriber(Subscriber):
    """On ``/ws``, or on another path as far as that says the same."""

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
                self.wrong.append(f"a frame of kind {kind:#x}")
        del raw[:at]

    async def _reply(self) -> None:
        if self._owes_pong:
            self._owes_pong = False
            await self._send(10, b"")


class Witness(WebSocketSubscriber):
    """A client of the exchange's own: what it got is the truth."""

    def __init__(self, port: int, topics: Iterable[Topic]) -> None:
        super().__init__("witness", port, topics, Random(), "/")

    def _asked(self) -> frozenset[Topic]:
        # Who asks the exchange for both gets trades twice.
        return frozenset(topic for topic in self.topics if topic.channel != "matches")


class _HttpSubscriber(Subscriber):
    """A long answer in chunks."""

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
    """An EventSource: it says the id of the last event that it has got."""

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
    """Lines without notices; it may have one topic only, since a number is of one."""

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
    """What is to be said of what somebody got, in numbers.

    Attributes:
        due: what there was between its first message and the end.
        lost: how many of them did not come.
        repeated: how many came again.
        disordered: how many came behind one with a higher number.
        invented: how many the exchange never said.
    """

    due: int = 0
    lost: int = 0
    repeated: int = 0
    disordered: int = 0
    invented: int = 0

    def add(self, other: "Account") -> None:
        """Add another one to this."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def account(numbers: Iterable[int], truth: list[int], until: int) -> Account:
    """Compare what came of a topic with all there was, which begins no later, up to ``until``."""
    came = [number for number in numbers if number <= until]
    due = [number for number in truth if came[0] <= number <= until]
    if came == due:
        return Account(len(due))
    seen, real = set(came), set(due)
    return Account(
        due=len(due),
        lost=len(real - seen),
        repeated=len(came) - len(seen),
        disordered=sum(b < a for a, b in pairwise(came)),
        invented=sum(number >= truth[0] for number in seen - real),
    )


def settle(
    subscribers: Iterable[Subscriber], truth: Mapping[Topic, list[int]], until: Mapping[Topic, int]
) -> tuple[dict[str, Account], list[str]]:
    """Return the accounts by channel, and what was wrong with whom."""
    accounts: dict[str, Account] = defaultdict(Account)
    faults: list[str] = []
    for subscriber in subscribers:
        for topic, numbers in subscriber.got.items():
            one = account(numbers, truth[topic], until[topic])
            accounts[topic.channel].add(one)
            if one != Account(one.due):
                faults.append(f"{subscriber.name} {topic}: {one}")
        faults += [f"{subscriber.name}: {each}" for each in subscriber.wrong]
        faults += [f"{subscriber.name}: {each}" for each in subscriber.gaps]
    return dict(accounts), faults
