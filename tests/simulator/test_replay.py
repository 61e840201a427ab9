"""A recording served as an exchange: byte for byte, at its pace, once."""

import json
import time
from contextlib import nullcontext
from functools import partial
from itertools import pairwise

import httpx
import pytest
import trio

from hedgehogd.domain.errors import OperatorError
from hedgehogd.protocol.recording import Recorded
from hedgehogd.simulator import Simulation, serve_exchange
from hedgehogd.simulator.replay import Playback, Recording, ReplayExchange
from tests.recordings import FULL, PRO, recording

pytestmark = pytest.mark.e2e  # a real exchange on real sockets


def write(folder, messages, received=None, products=None):
    """Write a recording; return its path."""
    path = folder / "feed.jsonl"
    path.write_bytes(b"".join(message + b"\n" for message in messages))
    if received is not None:
        (folder / "feed.recv_ts.txt").write_text("".join(f"{stamp}\n" for stamp in received))
    if products is not None:
        (folder / "rest_products.json").write_text(products)
    return path


async def subscribe(client):
    await client.send(channels=["heartbeat"], product_ids=["ANY-THING"])


async def is_silent(client):
    """Say whether no message comes while pings are answered."""
    with trio.fail_after(1):
        await client.websocket.ping()
    with trio.move_on_after(0.05):
        await client.websocket.get_message()
        return False
    return True


async def test_a_real_recording_is_served_byte_for_byte_then_silence(nursery, connect):
    """For any subscribe, the client gets all recorded messages and no other."""
    address = await nursery.start(serve_exchange, Simulation(recording=recording(PRO), speed=0))
    lines = recording(f"{PRO}/feed.jsonl").read_bytes().splitlines()
    async with connect(address.url) as client:
        await subscribe(client)
        received = [await client.receive_raw() for _ in lines]
        assert await is_silent(client)

    assert address.seed is None
    assert received == lines


async def test_a_recording_is_paced_by_its_receive_times(nursery, connect, tmp_path):
    """Bursts make a recording worth replaying; ``speed`` keeps their shape."""
    messages = [b'{"type":"n%d"}' % n for n in range(4)]
    path = write(tmp_path, messages, [100.0, 100.2, 100.2, 100.8])
    address = await nursery.start(serve_exchange, Simulation(recording=path, speed=2))
    async with connect(address.url) as client:
        await subscribe(client)
        times = []
        for _ in messages:
            await client.receive()
            times.append(trio.current_time())

    waits = [later - before for before, later in pairwise(times)]
    assert waits[0] > 0.07
    assert waits[1] < 0.07
    assert 0.27 < waits[2] < 0.6


async def test_a_late_client_joins_the_one_timeline(nursery, connect, tmp_path):
    """Like a real market, it does not restart for the second client."""
    messages = [b'{"type":"n%d"}' % n for n in range(3)]
    path = write(tmp_path, messages, [0, 0.3, 0.35])
    address = await nursery.start(serve_exchange, Simulation(recording=path))
    async with connect(address.url) as first, connect(address.url) as second:
        assert await is_silent(first)  # no message before a subscribe
        await first.websocket.send_message("not a command")
        await subscribe(first)
        received = [await first.receive_raw()]
        await subscribe(second)
        received += [await first.receive_raw() for _ in range(2)]
        late = [await second.receive_raw() for _ in range(2)]
        await second.send("unsubscribe", ["heartbeat"])
        assert await is_silent(second)

    assert received == messages
    assert late == messages[1:]


async def test_as_fast_as_possible_waits_for_its_clients(connect, tmp_path, nursery):
    """At speed 0 no client is too slow: a test that reads with delays gets every byte."""
    messages = [b'{"type":"x","n":%d,"fill":"%b"}' % (n, b"x" * 50_000) for n in range(500)]
    address = await nursery.start(
        serve_exchange, Simulation(recording=write(tmp_path, messages), speed=0)
    )
    async with connect(address.url) as client:
        await subscribe(client)
        await trio.sleep(0.05)
        received = [await client.receive_raw() for _ in messages]

    assert received == messages


async def test_as_fast_as_possible_does_not_wait_for_ever(autojump_clock, tmp_path):
    """One dead client must not stop the replay for the rest."""

    class Dead:
        def __init__(self):
            self.has_subscribed = False
            self.is_closed = trio.Event()

        def send(self, frame):
            pass

        async def wait_written(self):
            await trio.sleep_forever()

        def close_slow(self):
            self.is_closed.set()

    dead = Dead()
    exchange = ReplayExchange(Recording(write(tmp_path, [b"{}"])), speed=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run)
        exchange.receive(dead, json.dumps({"type": "subscribe", "channels": ["status"]}))
        await dead.is_closed.wait()
        assert trio.current_time() == pytest.approx(10)
        exchange.left(dead)
        exchange.left(dead)
        nursery.cancel_scope.cancel()


async def test_at_speed_0_the_playback_waits_for_its_clients(autojump_clock, monkeypatch):
    """Snapshots of many books exceed a client's queue."""

    class Slow:
        waiting = longest = 0

        async def wait_written(self):
            self.longest = max(self.longest, self.waiting)
            await trio.sleep(1)
            self.waiting = 0

    async def run_sync(call, *arguments):  # on a mock clock time would jump while a thread works
        await trio.lowlevel.checkpoint()
        return call(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    slow, delivered = Slow(), []

    def deliver(recorded):
        delivered.append((recorded.payload, trio.current_time()))
        slow.waiting += 400_000
        return 400_000

    timeline = [Recorded(float(number), b"%d" % number) for number in range(7)]
    playback = Playback(partial(nullcontext, iter(timeline)), 0, deliver, [slow])
    begin = trio.current_time()
    await playback.run()

    assert playback.ended.is_set()
    assert [payload for payload, _ in delivered] == [recorded.payload for recorded in timeline]
    assert [at - begin for _, at in delivered] == pytest.approx([0, 0, 0, 1, 1, 1, 2])
    assert slow.longest == 1_200_000


async def products_of(nursery, recording):
    address = await nursery.start(serve_exchange, Simulation(recording=recording))
    async with httpx.AsyncClient() as client:
        products = (await client.get(address.rest_url + "/products")).json()
        now = (await client.get(address.rest_url + "/time")).json()
        other = await client.get(address.rest_url + "/products/BTC-USD/trades")
    assert abs(now["epoch"] - time.time()) < 5
    assert other.status_code == 404
    return products


async def test_its_products_are_the_recorded_ones(nursery):
    """A relay reads the list before it subscribes."""
    recorded = json.loads(recording(f"{PRO}/rest_products.json").read_bytes())

    assert await products_of(nursery, recording(PRO)) == recorded


async def test_without_a_recorded_list_its_products_are_those_of_its_messages(nursery):
    """A file of messages alone must be enough."""
    products = await products_of(nursery, recording(f"{FULL}/feed.jsonl"))

    assert [product["id"] for product in products] == ["BTC-USD", "ETH-USD"]
    assert [product["quote_currency"] for product in products] == ["USD", "USD"]


async def test_an_unreadable_message_names_no_product(tmp_path):
    """level3 arrays and unexpected objects are recorded too (docs/COINBASE.md §6.13)."""
    path = write(tmp_path, [b'["open","BTC-USD"]', b"{}", b'{"type":"x","product_id":"bad id"}'])

    assert Recording(path).products == []


@pytest.mark.parametrize(
    ("messages", "received", "products", "expected"),
    [
        ([], None, None, "feed.jsonl: found no message, expected one per line"),
        ([b"{}", b"oops"], None, None, "feed.jsonl: line 2: found 'oops', expected one JSON"),
        ([b"{}", b"{}"], [1], None, "feed.jsonl: line 2: found a message without a receive time"),
        ([b"{}"], None, "{", "rest_products.json: found .*, expected the answer to GET /products"),
        ([b"{}"], None, "[{}]", "rest_products.json: found an object without an id"),
    ],
)
async def test_an_invalid_recording_is_refused_at_the_start(
    tmp_path, messages, received, products, expected
):
    """With the path, the value found and the expected one; not in the middle of a replay."""
    write(tmp_path, messages, received, products)
    with pytest.raises(OperatorError, match=f"^{tmp_path}/{expected}"):
        await serve_exchange(Simulation(recording=tmp_path))


@pytest.mark.parametrize("name", ["", "other.jsonl"])
async def test_a_recording_that_does_not_exist_is_named(tmp_path, name):
    """A wrong path is the most frequent mistake."""
    with pytest.raises(OperatorError, match="jsonl: found No such file or directory, expected a"):
        await serve_exchange(Simulation(recording=tmp_path / name))


async def test_a_recording_that_changes_during_replay_ends_the_simulator(tmp_path):
    """An error is better than a replay of other data."""
    path = write(tmp_path, [b"{}"])
    exchange = ReplayExchange(Recording(path), speed=1)
    path.write_bytes(b"oops\n")

    class Client:
        has_subscribed = False

    exchange.receive(Client(), json.dumps({"type": "subscribe", "channels": ["status"]}))
    with pytest.raises(OperatorError, match="line 1: found 'oops'"):
        await exchange.run()


async def test_a_replay_in_progress_does_not_delay_the_end(connect):
    """Cancelling in the middle closes its files and all connections at once."""
    async with trio.open_nursery() as inner:
        address = await inner.start(serve_exchange, Simulation(recording=recording(PRO)))
        async with connect(address.url) as client:
            await subscribe(client)
            await client.receive_raw()
            begin = trio.current_time()
            inner.cancel_scope.cancel()

    assert trio.current_time() - begin < 1
