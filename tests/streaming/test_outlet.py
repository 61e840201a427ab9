"""The outlet: slow consumers, their backlogs and farewells, and no effect on other subscribers."""

import socket
from random import Random

import msgspec
import pytest
import trio
from wsproto.events import Ping, Pong

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.engine.chunk import Chunk
from hedgehogd.fanout.instance import StreamCounts
from hedgehogd.protocol.frames import encode_text
from hedgehogd.protocol.wire import NDJSON, WEBSOCKET
from hedgehogd.streaming.outlet import Outlet, OutletSettings
from tests.streaming.conftest import Served, match, read_all, read_to, serve, ticker
from tests.streaming.test_connection import SUBSCRIBE, Client

PAD = 20_000
SMALL_WINDOW = {"SO_RCVBUF": 4096}


def _outlet(served: Served) -> Outlet:
    return next(reversed(served.plane.outlets))


async def _slow(served: Served, path: str, subscribe: str = SUBSCRIBE) -> tuple[Client, Outlet]:
    """Return a client that has subscribed and does not read, and its outlet."""
    client = Client(await served.upgrade(path, **SMALL_WINDOW))
    if path == "/ws":
        await client.next_json()
    await client.say(subscribe)
    await client.next_json()
    return client, _outlet(served)


async def _fill(served: Served, outlet: Outlet, first: int = 1) -> int:
    """Publish until the outlet's socket refuses bytes; return the next sequence."""
    number = first
    while not outlet.waiting_bytes and not outlet.is_ending:
        await served.publish(ticker(number, pad=PAD))
        number += 1
    return number


async def test_a_subscriber_that_reads_late_gets_everything_in_order(served: Served) -> None:
    """Bytes that the socket refuses wait, and are sent when it is writable."""
    client, outlet = await _slow(served, "/ws-feed")
    last = await _fill(served, outlet) + 50
    for number in range(last - 50, last):
        await served.publish(ticker(number, pad=PAD))
    waited = outlet.statistics(trio.current_time())
    got = [(await client.next_json())["sequence"] for _ in range(last - 1)]

    assert list(range(1, last)) == got
    assert waited.waiting_bytes > 50 * PAD
    assert last - 1 == outlet.delivered
    assert outlet.waiting_bytes == 0
    await client.stream.aclose()


async def test_pongs_and_answers_precede_waiting_data(served: Served) -> None:
    """coinbase-api allows one second for the answer to a ping (COINBASE §15.3)."""
    client, outlet = await _slow(served, "/ws-feed")
    last = await _fill(served, outlet) + 100
    for number in range(last - 100, last):
        await served.publish(ticker(number, pad=PAD))
    await client.send(Ping(payload=b"now"))
    with trio.fail_after(5):
        while not outlet._backlog.control_bytes:
            await trio.sleep(0.001)
    before = 0
    while not isinstance(event := await client.next(), Pong):
        before += event.message_finished

    assert event.payload == b"now"
    assert before < last - 90
    await client.stream.aclose()


async def test_a_subscriber_over_the_bound_of_bytes_gets_an_error_and_is_closed(
    nursery: trio.Nursery,
) -> None:
    """The error has the resume position: exactly the messages that were sent."""
    served = await serve(nursery, backlog_bytes_max=10 * PAD)
    client, outlet = await _slow(served, "/ws")
    number = await _fill(served, outlet)
    while not outlet.is_ending:
        await served.publish(ticker(number, pad=PAD))
        number += 1
    got = []
    while (message := await client.next_json())["type"] == "ticker":
        got.append(message["sequence"])

    assert list(range(1, len(got) + 1)) == got
    assert (message["type"], message["code"], message["name"]) == ("error", 4001, "slow_consumer")
    assert {"ticker": {"BTC-USD": got[-1]}} == message["position"]
    assert await client.closed() == 4001
    assert {"slow_consumer": number - 1 - len(got)} == served.instance.counts.drops
    assert await read_all(client.stream) == b""
    assert served.instance.counts.ends == {"slow_consumer": 1}


async def test_a_subscriber_over_the_bound_of_age_is_closed_without_new_messages(
    served: Served, autojump_clock: trio.testing.MockClock
) -> None:
    """A price of ten seconds ago is worth nothing, and no further message may arrive."""
    client, outlet = await _slow(served, "/ws-feed")
    number = await _fill(served, outlet)
    begin = trio.current_time()
    while not outlet.is_ending:
        await trio.sleep(0.1)

    assert pytest.approx(trio.current_time() - begin, abs=0.3) == limits.BACKLOG_AGE_MAX_S
    assert served.instance.counts.drops["slow_consumer"] <= number
    await client.stream.aclose()


async def test_a_subscriber_that_never_reads_is_closed_after_its_farewell(
    served: Served, autojump_clock: trio.testing.MockClock
) -> None:
    """An unread farewell must not keep the connection open."""
    client, outlet = await _slow(served, "/ws-feed")
    await _fill(served, outlet)
    with trio.fail_after(limits.UNACKED_MAX_S):
        while served.plane.outlets:
            await trio.sleep(0.1)

    assert len(served.instance.sessions) == 0
    await client.stream.aclose()


async def test_a_slow_reader_receives_its_farewell(
    served: Served, autojump_clock: trio.testing.MockClock
) -> None:
    """It reads slowly: the bytes in the kernel's buffer must not be discarded."""
    client, outlet = await _slow(served, "/ws")
    await _fill(served, outlet)
    while not outlet.is_ending:
        await trio.sleep(0.5)
    await trio.sleep(limits.FAREWELL_S * 3)  # and then it reads slowly
    while "ticker" == (message := await client.next_json())["type"]:
        pass

    assert "slow_consumer" == message["name"]
    assert 4001 == await client.closed()
    assert b"" == await read_all(client.stream)


async def test_other_subscribers_are_served_while_one_is_stuck(served: Served) -> None:
    """The feed waits for no subscriber (ARCHITECTURE, Invariants)."""
    stuck, outlet = await _slow(served, "/ws-feed")
    quick = Client(await served.upgrade("/ws-feed"))
    await quick.say(SUBSCRIBE)
    await quick.next_json()
    for number in range(1, 200):
        await served.publish(ticker(number, pad=PAD))
        assert number == (await quick.next_json())["sequence"]

    assert outlet.waiting_bytes > 0
    await stuck.stream.aclose()
    await quick.stream.aclose()


CONFLATE = (
    '{"type":"subscribe","product_ids":["BTC-USD"],'
    '"channels":[{"name":"ticker","policy":"conflate"},"matches"]}'
)


async def test_a_conflating_subscriber_keeps_the_newest_ticker_and_every_trade(
    nursery: trio.Nursery,
) -> None:
    """It gets a notice with the number of skipped tickers."""
    served = await serve(nursery, backlog_bytes_max=10 * PAD)
    client, outlet = await _slow(served, "/ws", CONFLATE)
    number = await _fill(served, outlet)
    trades = 0
    begin = number
    for number in range(begin, begin + 60):
        trades += 1
        await served.publish(ticker(number, pad=PAD), match(number, trades))
    tickers, matches, told = [], [], 0
    while not (tickers and tickers[-1] == number and len(matches) == trades):
        message = await client.next_json()
        if message["type"] == "skipped":
            told += message["messages"]
            assert {"ticker:BTC-USD": message["messages"]} == message["topics"]
        else:
            (tickers if message["type"] == "ticker" else matches).append(message["sequence"])

    assert sorted(set(tickers)) == tickers
    assert sorted(set(matches)) == matches
    assert number - len(tickers) == told == outlet.skipped
    assert {"conflated": told} == served.instance.counts.drops
    await client.stream.aclose()


CONFLATE_BOOK = CONFLATE.replace("ticker", "level2")


class Book:
    """The bids of a market, and the book that a client builds from its messages."""

    def __init__(self) -> None:
        self.truth: dict[str, str] = {}
        self.kept: dict[str, str] | None = None
        self.skipped = 0
        self.snapshots = 0

    def snapshot(self) -> bytes:
        """Return a snapshot of the bids."""
        body = {"type": "snapshot", "product_id": "BTC-USD", "asks": []}
        return msgspec.json.encode({**body, "bids": list(self.truth.items())})

    def change(self, price: str, size: str, pad: int) -> bytes:
        """Change a level; return the exchange's update, with ``pad`` additional bytes."""
        if float(size):
            self.truth[price] = size
        else:
            del self.truth[price]
        body = {"type": "l2update", "product_id": "BTC-USD", "pad": "x" * pad}
        return msgspec.json.encode({**body, "changes": [["buy", price, size]]})

    def apply(self, message: dict) -> None:
        """Apply a message as a client does; fail on an inconsistent one."""
        if message["type"] == "snapshot":
            self.kept = dict(message["bids"])
            self.snapshots += 1
        elif message["type"] == "skipped":
            assert list(message["topics"]) == ["level2:BTC-USD"]
            self.skipped += message["messages"]
        elif message["type"] == "l2update":
            assert self.kept is not None
            for _, price, size in message["changes"]:
                if float(size):
                    self.kept[price] = size
                else:
                    del self.kept[price]


async def _apply_all(book: Book, client: Client) -> None:
    with trio.fail_after(5):
        while book.kept != book.truth:
            book.apply(await client.next_json())


async def test_a_conflating_subscriber_of_a_book_gets_a_fresh_snapshot_when_there_is_room(
    nursery: trio.Nursery,
) -> None:
    """Updates are cumulative, so all waiting ones are dropped, and a notice reports them."""
    served = await serve(nursery, backlog_bytes_max=10 * PAD)
    nursery.start_soon(served.instance.pipe.snapshots.run)
    client, outlet = await _slow(served, "/ws", CONFLATE_BOOK)
    book = Book()
    await served.publish(book.snapshot())
    trades = 0
    while not outlet.skipped:
        trades += 1
        await served.publish(book.change(str(trades), "1", PAD), match(trades, trades))
    await served.publish(book.change("1", "0", PAD))
    assert outlet.waiting_bytes <= 10 * PAD
    await _apply_all(book, client)

    assert book.skipped == outlet.skipped > 5
    assert book.snapshots == 2
    assert {"conflated": book.skipped} == served.instance.counts.drops
    await served.publish(book.change("2", "0", 0), book.change("3", "7", 0))
    await _apply_all(book, client)
    assert book.snapshots == 2
    await client.stream.aclose()


@pytest.mark.random
@pytest.mark.parametrize("seed", range(6))
async def test_a_book_is_right_at_any_speed_of_reading(nursery: trio.Nursery, seed: int) -> None:
    """This holds for any dropped updates and any new snapshots of the exchange."""
    random = Random(seed)
    served = await serve(nursery, backlog_bytes_max=4 * PAD)
    nursery.start_soon(served.instance.pipe.snapshots.run)
    client, outlet = await _slow(served, "/ws", CONFLATE_BOOK)
    book, may_read = Book(), trio.Event()

    async def read(cancelled: trio.CancelScope) -> None:
        with cancelled:
            while True:
                await may_read.wait()
                book.apply(await client.next_json())

    reading = trio.CancelScope()
    nursery.start_soon(read, reading)
    await served.publish(book.snapshot())
    for _ in range(120):
        price = str(random.randint(1, 9))
        if random.random() < 0.05:
            await served.publish(book.snapshot())
        size = "0" if price in book.truth and random.random() < 0.4 else str(random.randint(1, 9))
        await served.publish(book.change(price, size, random.choice([0, PAD, PAD])))
        if random.random() < 0.1:
            may_read.set()
        await trio.sleep(random.choice([0, 0, 0.001]))
        if random.random() < 0.6 and may_read.is_set():
            may_read = trio.Event()
    may_read.set()
    with trio.fail_after(5):
        while book.kept != book.truth or outlet.waiting_bytes:
            await trio.sleep(0.001)
    reading.cancel()

    assert outlet.skipped > 0
    assert not outlet.is_ending
    await client.stream.aclose()


async def test_insufficient_conflation_ends_the_stream(nursery: trio.Nursery) -> None:
    """Trades are never conflated, so a backlog of trades only grows."""
    served = await serve(nursery, backlog_bytes_max=2000)
    client, outlet = await _slow(served, "/ws", CONFLATE)
    number = await _fill(served, outlet)
    begin = number
    for number in range(begin, begin + 50):
        await served.publish(match(number, number))

    assert outlet.is_ending
    assert served.instance.counts.ends["slow_consumer"] == 1
    await client.stream.aclose()


async def test_a_peer_that_does_not_read_its_pongs_is_closed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control bytes have a bound too."""
    monkeypatch.setattr(limits, "CONTROL_BYTES_MAX", 1000)
    client, outlet = await _slow(served, "/ws-feed")
    await _fill(served, outlet)
    for _ in range(20):
        outlet.control(b"\x8a\x7d" + b"x" * 125)

    assert outlet.is_ending
    await client.stream.aclose()


async def test_thousands_of_errors_are_few_writes_within_the_bound(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command may cause an error for each of its topics, and a peer may read none of them."""
    client, outlet = await _slow(served, "/ws-feed")
    sent: list[int] = []

    def send(data: bytes) -> int:
        sent.append(len(data))
        return len(data)

    monkeypatch.setattr(outlet, "_send", send)
    outlet.tell_all([b"x" * 100] * 1000)
    assert (sum(sent), len(sent)) == (102 * 1000, 4)

    def refuse(data: bytes) -> int:
        raise BlockingIOError

    monkeypatch.setattr(outlet, "_send", refuse)
    outlet.tell_all([b"x" * 1000] * 1000)
    assert outlet.is_ending
    assert outlet._backlog is not None
    assert outlet._backlog.control_bytes < limits.CONTROL_BYTES_MAX + 40_000
    await client.stream.aclose()


async def test_a_slow_sse_stream_gets_an_error_and_a_slow_ndjson_stream_breaks_off(
    nursery: trio.Nursery,
) -> None:
    """SSE has an error event and its last chunk; NDJSON has neither: its end is unplanned."""
    served = await serve(nursery, backlog_bytes_max=3 * PAD)
    bodies = {}
    for accept in ("text/event-stream", "application/x-ndjson"):
        stream = await served.ask(
            f"GET /api/v1/subscribe/BTC-USD HTTP/1.1\nHost: x\nAccept: {accept}", **SMALL_WINDOW
        )
        await read_to(stream, b"\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        outlet, number = _outlet(served), 1
        while not outlet.is_ending:
            await served.publish(ticker(number, pad=PAD))
            number += 1
        bodies[accept] = await read_all(stream)

    sse, ndjson = bodies["text/event-stream"], bodies["application/x-ndjson"]
    assert b'event: hedgehogd\ndata: {"type":"error","code":4001,"name":"slow_consumer"' in sse
    assert sse.endswith(b"0\r\n\r\n")
    assert not ndjson.endswith(b"0\r\n\r\n")


async def test_a_stream_that_ends_in_a_drain_has_its_resume_position(served: Served) -> None:
    """/ws gets a notice and 1012, SSE an event, NDJSON a line, both with their last chunk."""
    client = Client(await served.upgrade("/ws"))
    await client.next_json()
    await client.say(SUBSCRIBE)
    await client.next_json()
    bodies = {}
    for accept in ("text/event-stream", "application/x-ndjson"):
        stream = await served.ask(
            f"GET /api/v1/subscribe/BTC-USD HTTP/1.1\nHost: x\nAccept: {accept}"
        )
        await read_to(stream, b"\r\n\r\n")
        bodies[accept] = stream
    await trio.testing.wait_all_tasks_blocked()
    await served.publish(ticker(7), match(8, 1))
    for outlet in list(served.plane.outlets):
        outlet.end(1012, "restart")
        outlet.end(1012, "restart")
    sse, ndjson = [await read_all(stream) for stream in bodies.values()]
    await client.next_json()
    await client.next_json()
    closing = await client.next_json()

    position = {"matches": {"BTC-USD": 8}, "ticker": {"BTC-USD": 7}}
    assert ("closing", position) == (closing["type"], closing["position"])
    assert await client.closed() == 1012
    assert b"event: hedgehogd\ndata: " + msgspec.json.encode(closing) in sse
    assert b"retry: 1000\n\n" in sse
    assert sse.endswith(b"0\r\n\r\n")
    last = NDJSON[True].tell(msgspec.json.encode(closing)) + b"0\r\n\r\n"
    assert ndjson.endswith(match(8, 1) + b"\n\r\n" + last)
    await client.stream.aclose()


async def test_a_broken_connection_is_detected_at_the_next_write(
    served: Served,
) -> None:
    """The reading task may not have detected it yet."""
    client, outlet = await _slow(served, "/ws-feed")
    outlet._socket.shutdown(1)
    await served.publish(ticker(1))

    assert outlet.is_ending
    assert served.instance.counts.ends == {"peer_gone": 1}
    await client.stream.aclose()
    await served.all_gone()


async def test_a_reset_while_data_waits_ends_quietly(served: Served) -> None:
    """The flush task finds the socket broken or closed, and ends."""
    client, outlet = await _slow(served, "/ws-feed")
    await _fill(served, outlet)
    client.stream.socket.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER 0: a reset
    await client.stream.aclose()
    await served.all_gone()

    assert served.instance.counts.ends.total() == 1


class StubbornSocket:
    """A fake socket that accepts ``room`` bytes and refuses all other bytes."""

    def __init__(self) -> None:
        self.taken = b""
        self.room = 0

    def send(self, data: bytes) -> int:
        """Accept the bytes that there is room for."""
        if not self.room:
            raise BlockingIOError
        sent = min(self.room, len(data))
        self.room -= sent
        self.taken += bytes(data[:sent])
        return sent

    def shutdown(self, how: int) -> None:
        """Do nothing: no test reads the effect."""

    def fileno(self) -> int:
        """Return the descriptor of a closed socket."""
        return -1


def _chunk(*payloads: bytes) -> Chunk:
    topic = Topic("ticker", "BTC-USD")
    messages = [Message(topic, "ticker", encode_text(p), p, 1) for p in payloads]
    return Chunk([m.frame for m in messages], messages, list(range(1, len(messages) + 1)))


async def test_a_frame_that_has_begun_is_finished_before_any_other_byte(
    nursery: trio.Nursery,
) -> None:
    """This holds for the farewell too, even if the socket becomes writable at that moment."""
    sock = StubbornSocket()
    settings = OutletSettings(nursery, StreamCounts(), backlog_bytes_max=1000)
    outlet = Outlet(sock, WEBSOCKET, settings)
    chunk = _chunk(b"x" * 100, b"y" * 2000, b"z" * 2000)
    sock.room = 50
    original = sock.send

    def send_then_drain(data: bytes) -> int:
        sent = original(data)
        sock.room = 100_000  # the kernel drains between this write and the next
        return sent

    outlet._send = send_then_drain
    outlet.write(chunk)
    outlet._send_waiting()

    assert outlet.is_ending
    first = chunk.ends[0]
    assert chunk.data[:first] == sock.taken[:first]
    assert b'"slow_consumer"' in sock.taken[first:]
    outlet.close()


class Turns(trio.abc.Instrument):
    """Counts the slow consumers that end in each turn of the loop."""

    def __init__(self, counts: StreamCounts) -> None:
        self.ended: list[int] = []
        self._counts = counts
        self._before = 0

    def after_io_wait(self, timeout: float) -> None:
        """Count those of the turn before."""
        now = self._counts.ends["slow_consumer"]
        self.ended.append(now - self._before)
        self._before = now


async def test_backlogs_that_age_together_end_in_several_turns(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Their sockets refused bytes at the same time; each end drops thousands of messages."""
    settings = OutletSettings(nursery, StreamCounts())
    pairs = [socket.socketpair() for _ in range(5 * limits.AGED_PER_TURN_MAX)]
    outlets = []
    for ours, _ in pairs:
        ours.setblocking(False)
        outlets.append(Outlet(ours, WEBSOCKET, settings))
        while not outlets[-1].waiting_bytes:
            outlets[-1].write(_chunk(b"x" * PAD))
    turns = Turns(settings.counts)
    trio.lowlevel.add_instrument(turns)
    with trio.fail_after(2 * settings.backlog_age_max_s):
        while not all(outlet.is_ending for outlet in outlets):
            await trio.sleep(settings.backlog_age_max_s / 10)
    trio.lowlevel.remove_instrument(turns)

    assert 0 < max(turns.ended) <= limits.AGED_PER_TURN_MAX
    assert settings.counts.ends == {"slow_consumer": len(outlets)}
    for outlet, pair in zip(outlets, pairs, strict=True):
        outlet.close()
        for sock in pair:
            trio.lowlevel.notify_closing(sock)
            sock.close()


async def test_a_socket_that_closes_before_flushing_begins_ends_it_quietly() -> None:
    """All flush tasks share a nursery: an exception in one would end every stream."""
    async with trio.open_nursery() as nursery:
        outlet = Outlet(StubbornSocket(), WEBSOCKET, OutletSettings(nursery, StreamCounts()))
        outlet.write(_chunk(b"x"))
        assert 1 == len(nursery.child_tasks)
        outlet.close()


def _snapshot(size: int) -> bytes:
    """Return a book message of at least ``size`` bytes."""
    rows = ",".join(f'["{n}.00","1.00000000"]' for n in range(1_000_000, 1_000_000 + size // 28))
    text = (
        f'{{"type":"snapshot","product_id":"BTC-USD","bids":[{rows}],"asks":[["9999999.00","1"]]}}'
    )
    return text.encode().ljust(size)


async def _read_some(sock: trio.socket.SocketType, count: int) -> bytes:
    data = bytearray()
    with trio.fail_after(10):
        while len(data) < count:
            data += await sock.recv(65536)
    return bytes(data)


async def test_one_snapshot_above_the_bound_is_sent_and_two_end_the_stream(
    nursery: trio.Nursery,
) -> None:
    """A deep book has 5 MB (COINBASE §7); a bound of 4 MiB must not make it unreadable."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    counts = StreamCounts()
    reader = trio.socket.from_stdlib_socket(theirs)
    with ours, reader:
        outlet = Outlet(ours, WEBSOCKET, OutletSettings(nursery, counts))
        one, two = (_chunk(_snapshot(5_000_000)) for _ in range(2))
        outlet.write(one)
        assert outlet.waiting_bytes > limits.BACKLOG_BYTES_MAX
        assert not outlet.is_ending
        assert one.data == await _read_some(reader, one.size)
        await trio.testing.wait_all_tasks_blocked()
        assert (0, 1) == (outlet.waiting_bytes, outlet.delivered)
        outlet.write(two)
        outlet.write(one)

        assert outlet.is_ending
        assert {"slow_consumer": 1} == counts.ends
        assert two.data == (await _read_some(reader, two.size))[: two.size]
        outlet.close()


async def test_data_after_a_nearly_sent_snapshot_is_bounded(
    nursery: trio.Nursery,
) -> None:
    """Only its unsent part is exempt from the bound; otherwise 5 MB more could wait."""
    sock = StubbornSocket()
    settings = OutletSettings(nursery, StreamCounts(), backlog_bytes_max=1000)
    outlet = Outlet(sock, WEBSOCKET, settings)
    snapshot = _chunk(b"x" * 50_000)
    sock.room = snapshot.size - 10
    outlet.write(snapshot)
    for _ in range(5):
        outlet.write(_chunk(b"y" * 100))
    assert not outlet.is_ending
    for _ in range(10):
        outlet.write(_chunk(b"y" * 100))

    assert outlet.is_ending
    outlet.close()


async def test_the_largest_backlog_is_closed_when_the_budget_is_exceeded(
    nursery: trio.Nursery,
) -> None:
    """Each is within its own bound; the slightly slow one stays open and misses no message."""
    served = await serve(nursery, waiting_bytes_max=20 * PAD)
    large, large_outlet = await _slow(served, "/ws")
    other = SUBSCRIBE.replace("BTC-USD", "ETH-USD")
    small, small_outlet = await _slow(served, "/ws", other)
    number = await _fill(served, large_outlet)
    first = 1
    while not small_outlet.waiting_bytes:
        await served.publish(ticker(first, "ETH-USD", pad=PAD))
        first += 1
    while not large_outlet.is_ending:
        await served.publish(ticker(number, pad=PAD))
        number += 1
    got = []
    while len(got) < first - 1:
        body = await small.next_json()
        got += [body["sequence"]] * (body["type"] == "ticker")
    counts, budget = served.instance.counts, served.instance.pipe.budget

    assert got == list(range(1, first))
    assert counts.ends == {"waiting_bytes_max": 1}
    assert budget.bytes <= budget.bytes_max
    bodies = []
    while (body := await large.next_json())["type"] != "error":
        bodies.append(body)
    assert (body["code"], body["name"]) == (4001, "slow_consumer")
    assert "all subscribers together" in body["message"]
    assert body["position"] == {"ticker": {"BTC-USD": bodies[-1]["sequence"]}}
    closed = await large.next()
    assert (closed.code, closed.reason) == (4001, "slow_consumer")
    await small.stream.aclose()
    await large.stream.aclose()
    await served.all_gone()
    assert (budget.bytes, budget.accounts) == (0, {})


async def test_two_hundred_slow_readers_of_different_topics_keep_the_bound(
    nursery: trio.Nursery,
) -> None:
    """Cohorts of one member share no bytes; pongs, answers and farewells count too."""
    served = await serve(nursery, waiting_bytes_max=1_000_000)
    random = Random(15)
    streams = []
    for number in range(200):
        pairs = ",".join(["BTC-USD", *(f"A{n}-USD" for n in range(10) if number >> n & 1)])
        path = f"/api/v1/stream?pairs={pairs}&channels=ticker"
        request = f"GET {path} HTTP/1.1\nHost: test\nAccept: text/event-stream"
        streams.append(await served.ask(request, **SMALL_WINDOW))
    while len(served.plane.outlets) < 200:
        await trio.sleep(0.001)
    budget, sequence, highest = served.instance.pipe.budget, 0, 0
    while not served.instance.counts.ends["waiting_bytes_max"]:
        sequence += 1
        await served.publish(ticker(sequence, pad=random.choice([100, 5000, 60_000])))
        highest = max(highest, budget.bytes)

    assert 900_000 < highest <= 1_000_000
    for stream in streams:
        await stream.aclose()
    await served.all_gone()
    assert (budget.bytes, budget.accounts, budget.shared) == (0, {}, {})
