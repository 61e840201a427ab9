"""Upstream messages: an exchange's bytes through scanner, session, broker, books and hub.

Every kind of message of the feed, with parts replaced, dropped and doubled, in frames that are
sometimes broken, in reads of any size, on two lines; and level-3 books as in REST answers.
Subscribers of every wire form receive all topics.
"""

from random import Random

import msgspec
import trio
from trio.testing import MockClock

from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.session import UpstreamSession
from hedgehogd.domain.channel import CHANNELS
from hedgehogd.domain.errors import CLOSE_POLICY, CLOSE_UNSUPPORTED
from hedgehogd.domain.product import Catalogue
from hedgehogd.engine.chunk import Chunk
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.demand import Demand
from hedgehogd.engine.tape import Tape
from hedgehogd.fanout.broker import Broker
from hedgehogd.fanout.member import Member, MemberStatistics
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.fanout.session import Session
from hedgehogd.fanout.sessions import Sessions
from hedgehogd.feeds.order_book_bootstrap import read_book
from hedgehogd.protocol.commands import ChannelRequest, Command
from hedgehogd.protocol.frames import FrameError, FrameScanner, encode_text
from hedgehogd.protocol.wire import NDJSON, SSE, WEBSOCKET
from tests.fuzz.mutate import changed, damaged, pieces, text_of

PRODUCTS = ("BTC-USD", "ETH-USD")
_TAPE_BYTES_MAX = 100_000
_MESSAGE_BYTES_MAX = 1_000_000
_LINES = 2
_FORMS = (WEBSOCKET, SSE[True], NDJSON[True])
_NAMED = [channel.name for channel in CHANNELS]


class Sink(Member):
    """A subscriber that stores nothing."""

    __slots__ = ()

    def write(self, chunk: Chunk) -> None:
        assert chunk.size == len(chunk.data)

    def tell(self, payload: bytes) -> None:
        assert isinstance(payload, bytes)

    def end(self, code: int, reason: str, detail: str = "") -> None:
        assert code in (CLOSE_POLICY, CLOSE_UNSUPPORTED), (code, reason, detail)  # refused upstream

    def statistics(self, now: float) -> MemberStatistics:
        return MemberStatistics(0, 0, 0, 0.0)


class World:
    """The path of a message, from the exchange's bytes to the subscribers."""

    def __init__(self) -> None:
        self.pipe = Pipe.build(
            Tape(_TAPE_BYTES_MAX), Demand(), Catalogue(), trio.current_time, lambda: 10**15
        )
        sessions = Sessions()
        self._broker = Broker(self.pipe, sessions)
        self._upstream = UpstreamSession()
        self._topics = frozenset(c.topic(p) for c in CHANNELS for p in PRODUCTS)
        self._lines: dict[int, tuple[Source, FrameScanner]] = {}
        for line in range(_LINES):
            self._dial(line)
        for number, form in enumerate(_FORMS):
            member = Sink()
            session = Session(f"1.{number}", member, form, self.pipe, 1000)
            sessions.add(session)
            held = [
                "full",
                "ticker",
                "matches",
                "heartbeat",
                "status",
                "rfq_matches",
                "auctionfeed",
            ]
            held.append("level2" if number else "level2_batch")
            requests = [ChannelRequest(c, PRODUCTS) for c in CHANNELS if c.name in held]
            session.apply(Command(True, tuple(requests)))

    def _dial(self, line: int) -> None:
        source = Source(line, held=self._topics)
        self._lines[line] = (source, FrameScanner(_MESSAGE_BYTES_MAX))
        self._upstream.connected(source)

    async def receive(self, line: int, data: bytes) -> None:
        """Process the bytes of one socket read of ``line``; redial it after a broken frame."""
        source, scanner = self._lines[line]
        try:
            frames, _ = scanner.receive(data)
        except FrameError:
            await self._deliver(self._upstream.lost(source, trio.current_time()))
            self._dial(line)
            return
        await self._deliver(self._upstream.receive(source, frames, trio.current_time()))

    async def load(self, product_id: str, body: bytes) -> None:
        """Load a level-3 book from the body of a REST answer, if it can be decoded."""
        try:
            book = read_book(product_id, body)
        except msgspec.DecodeError:
            return
        await self._broker.publish([Delivery([], order_book=book)])

    async def pass_time(self, seconds: float) -> None:
        """Advance time, so that messages queued after a gap are released."""
        await trio.sleep(seconds)
        await self._deliver(self._upstream.expire(trio.current_time()))

    async def _deliver(self, received) -> None:
        delivery = Delivery(
            received.messages, received.notices, received.notices_at, received.refusals,
            ends_window=bool(received.messages) and len(received.messages) % 7 == 0,
        )  # fmt: skip
        await self._broker.publish([delivery])

    def check(self) -> None:
        """Check that memory is bounded for any input."""
        assert self.pipe.tape.bytes <= _TAPE_BYTES_MAX + _MESSAGE_BYTES_MAX


class Market:
    """Messages of every kind, with numbers that mostly rise."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._sequence = 1000
        self._trade_id = 10

    def order_book(self):
        """Return a level-3 book as in a REST answer, as a value."""
        random = self._random
        bids, asks = (
            [
                [f"{low + n}.5", "1", f"o{random.randint(1, 30)}"]
                for n in range(random.randint(0, 8))
            ]
            for low in (1, 30)
        )
        return {"bids": bids, "asks": asks, "sequence": self._sequence - random.randint(0, 5)}

    def message(self):
        """Return one valid message as a value."""
        random = self._random
        self._sequence += random.choice((1, 1, 1, 1, 2, 0, -3, 50))
        product_id, sequence = random.choice(PRODUCTS), self._sequence
        common = {"product_id": product_id, "time": "2026-01-31T12:00:00.123456Z"}
        numbered = {**common, "sequence": sequence}
        price, size = (
            f"{random.randint(1, 40)}.{random.randint(0, 99):02}",
            str(random.randint(0, 3)),
        )
        side = random.choice(("buy", "sell"))
        order = f"o{random.randint(1, 30)}"
        kind = random.randrange(16)
        match kind:
            case 0 | 1:
                self._trade_id += random.choice((1, 1, 1, 2, 0, -1))
                return {"type": random.choice(("match", "match", "last_match")), **numbered,
                    "trade_id": self._trade_id, "maker_order_id": order, "taker_order_id": "t",
                    "side": side, "price": price, "size": size}  # fmt: skip
            case 2:
                return {"type": "ticker", **numbered, "price": price, "trade_id": self._trade_id,
                    "last_size": size, "best_bid": price, "side": side}  # fmt: skip
            case 3 | 4 | 5:
                rows = [
                    [side, f"{random.randint(1, 40)}.5", size] for _ in range(random.randint(1, 4))
                ]
                return {"type": "l2update", **common, "changes": rows}
            case 6:
                sides = {
                    name: [[f"{low + n}.5", "1"] for n in range(random.randint(0, 5))]
                    for name, low in (("bids", 1), ("asks", 30))
                }
                return {"type": "snapshot", **common, **sides}
            case 7:
                return {"type": "heartbeat", **numbered, "last_trade_id": self._trade_id}
            case 8:
                return {"type": "received", **numbered, "order_id": order, "order_type": "limit",
                    "size": size, "price": price, "side": side, "client_oid": "c"}  # fmt: skip
            case 9:
                return {"type": "open", **numbered, "order_id": order, "price": price,
                    "remaining_size": size, "side": side}  # fmt: skip
            case 10:
                return {"type": "done", **numbered, "order_id": order, "price": price,
                    "remaining_size": "0", "reason": "filled", "side": side}  # fmt: skip
            case 11:
                return {"type": "change", **numbered, "order_id": order, "old_size": "2",
                    "new_size": size, "price": price, "side": side, "reason": "STP"}  # fmt: skip
            case 12:
                return {"type": "status", "products": [{"id": product_id, "status": "online"}],
                    "currencies": [{"id": "BTC", "details": {}}]}  # fmt: skip
            case 13:
                return {"type": "subscriptions", "channels": [
                    {"name": random.choice(_NAMED), "product_ids": [product_id]}]}  # fmt: skip
            case 14 if random.random() < 0.02:  # refused products are not sent any more
                reason = random.choice((f"{product_id} is delisted", "level2 needs a key"))
                return {"type": "error", "message": "Failed to subscribe", "reason": reason}
            case _:
                return random.choice((
                    ["open", product_id, str(sequence), order, side, price, size, "t"],
                    {"type": "rfq_match", **common, "trade_id": self._trade_id, "price": price},
                    {"type": "auction", **numbered, "auction_state": "collection"},
                    {"type": "stale", "stale": bool(sequence % 2), "reason": "x"},
                    {"type": "gap", "channel": "matches", "product_id": product_id,
                        "first_trade_id": 1, "last_trade_id": self._trade_id},
                    {"type": "backfilled", "product_id": product_id, "trades": [{"trade_id": 1}]},
                    {"type": "activate", **numbered, "order_id": order},
                ))  # fmt: skip


async def _run(random: Random, inputs: int) -> int:
    world, market = World(), Market(random)
    rate = random.choice((0.0, 0.01, 0.05, 0.3))
    fed = 0
    while fed < inputs:
        stream = b""
        for _ in range(random.randint(1, 6)):
            payload = text_of(random, changed(random, market.message(), rate)).encode(
                "utf-8", "surrogatepass"
            )
            if random.random() < rate:
                payload = damaged(random, payload)
            stream += encode_text(payload)
            fed += 1
        for line in range(_LINES):
            if random.random() < 0.8:
                sent = damaged(random, stream) if random.random() < 0.02 else stream
                for data in pieces(random, sent):
                    await world.receive(line, data)
        if random.random() < 0.05:
            book = changed(random, market.order_book(), rate)
            body = text_of(random, book).encode("utf-8", "surrogatepass")
            await world.load(random.choice(PRODUCTS), body)
        if random.random() < 0.05:
            await world.pass_time(random.choice((0.1, 1.0, 40.0)))
    world.check()
    return fed


def fuzz_upstream(random: Random, inputs: int) -> int:
    """Feed ``inputs`` messages to one world."""
    return trio.run(_run, random, inputs, clock=MockClock(autojump_threshold=0))
