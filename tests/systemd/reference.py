"""Messages of the exchange, received by one connection of the test, to compare streams with.

A relay owes its subscribers, per topic, an exact section of them: the same bytes, in the same
order, none missing, none repeated.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

import msgspec
import trio

from tests.systemd.subscriber import Subscriber

SIMULATOR_PORT = 9000
CHANNELS = ("ticker", "matches")
_CHANNEL_OF = {"ticker": "ticker", "match": "matches", "last_match": "last_match"}
HARMLESS = frozenset({"session", "subscriptions", "stale", "resumed", "closing", "heartbeat"})
CATCH_UP_S = 5.0
DELAY_S = 2.0  # longest time of a message to a subscriber, or of a subscribe

Topic = tuple[str, str]


class _Head(msgspec.Struct):
    type: str
    product_id: str = ""
    sequence: int = 0


_decode_head = msgspec.json.Decoder(_Head).decode


class Reference:
    """All data messages of some pairs, in the exchange's order.

    Attributes:
        places: topic → message → its place in the topic.
        arrived: topic → place → time of arrival, in seconds of ``trio.current_time``.
        may_end: the simulator is about to be stopped.
    """

    def __init__(self, pairs: Sequence[str]) -> None:
        self.pairs = tuple(pairs)
        self.places: dict[Topic, dict[bytes, int]] = defaultdict(dict)
        self.arrived: dict[Topic, list[float]] = defaultdict(list)
        self.may_end = False
        self._by_sequence: dict[Topic, dict[int, int]] = defaultdict(dict)
        self._heads: dict[bytes, _Head] = {}
        self._known: dict[bytes, bytes] = {}
        self._grown = trio.Condition()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Receive the exchange's messages until cancelled.

        Raises:
            EOFError: the exchange closed the connection.
        """
        async with await Subscriber.open("strict", self.pairs, CHANNELS, SIMULATOR_PORT) as line:
            while (messages := await line.receive()) is not None:
                for raw in messages:
                    topic = self.topic_of(raw)
                    if topic is not None and topic[0] in CHANNELS:
                        self._add(topic, raw)
                async with self._grown:
                    self._grown.notify_all()
                if all((c, p) in self.places for c in CHANNELS for p in self.pairs):
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
        if not self.may_end:
            raise EOFError("the simulator closed the connection of the reference")

    def _add(self, topic: Topic, raw: bytes) -> None:
        places = self.places[topic]
        place = places.setdefault(self.known(raw), len(places))
        if place == len(self.arrived[topic]):
            self.arrived[topic].append(trio.current_time())
        self._by_sequence[topic].setdefault(self.head(raw).sequence, place)

    def known(self, raw: bytes) -> bytes:
        """Return the shared copy of ``raw``."""
        return self._known.setdefault(raw, raw)

    def head(self, raw: bytes) -> _Head:
        """Return the head of a message."""
        head = self._heads.get(raw)
        if head is None:
            head = self._heads[self.known(raw)] = _decode_head(raw)
        return head

    def topic_of(self, raw: bytes) -> Topic | None:
        """Return channel and product of a data message; None for hedgehogd's own messages.

        Raises:
            ValueError: the message reports a fault.
        """
        if raw.startswith(b'{"type":"session"'):  # different on every stream: keep no copy
            return None
        head = self.head(raw)
        if head.type in _CHANNEL_OF:
            return _CHANNEL_OF[head.type], head.product_id
        if head.type not in HARMLESS:
            raise ValueError(raw.decode(errors="replace")[:300])
        return None

    async def wait_for(self, raw: bytes) -> None:
        """Wait until the reference has received ``raw``.

        Raises:
            trio.TooSlowError: it has not, within ``CATCH_UP_S``.
        """
        topic = self.topic_of(raw)
        assert topic is not None
        with trio.fail_after(CATCH_UP_S):
            async with self._grown:
                while self._place(topic, raw, is_first=True) is None:
                    await self._grown.wait()

    def _place(self, topic: Topic, raw: bytes, *, is_first: bool) -> int | None:
        """Return the place of ``raw`` in its topic.

        The exchange's first ticker on a new connection has the sequence of an earlier one, but
        the day's figures are current. An instance that has just started sends it to its first
        subscribers.
        """
        place = self.places[topic].get(raw)
        if place is None and is_first and topic[0] == "ticker":
            place = self._by_sequence[topic].get(self.head(raw).sequence)
        return place

    def fault(self, topic: Topic, received: Sequence[bytes], span: tuple[float, float]) -> str:
        """Return why ``received`` is no exact section of ``topic``; empty when it is one.

        Args:
            topic: topic of all messages.
            received: the messages, in order of arrival.
            span: opening and end of their stream, which must have all messages in between.
        """
        last = None
        for index, raw in enumerate(received):
            place = self._place(topic, raw, is_first=index == 0)
            if place is None:
                return f"{topic}: number {index} is no message of the exchange: {raw[:200]!r}"
            if last is not None and place != last + 1:
                return f"{topic}: place {place} follows place {last} (number {index})"
            last = place
        arrived, (opened, ended) = self.arrived[topic], span
        begin = bisect_left(arrived, opened + DELAY_S)
        end = bisect_left(arrived, ended - DELAY_S)
        if begin >= end:  # the stream was too short
            return ""
        first = self._place(topic, received[0], is_first=True) if received else None
        if first is None or last is None or first > begin or last < end - 1:
            return f"{topic}: it has places {first} to {last}, and owes {begin} to {end - 1}"
        return ""
