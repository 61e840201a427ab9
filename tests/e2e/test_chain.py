"""Relays in a chain of three: the last one sends the messages of the exchange unchanged."""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest
import trio

from hedgehogd.app.daemon import Daemon
from hedgehogd.simulator import Simulation
from tests.e2e.harness import (
    PATIENCE_S,
    WEBSOCKET_HEADERS,
    RawStream,
    exchange,
    free_port,
    quick,
    running,
    split_texts,
    subscribe,
    texts_of,
)
from tests.recordings import PRO, recording

pytestmark = pytest.mark.e2e

DEPTH = 3
PAIRS = ["BTC-USD", "ETH-USD"]
# Messages that a relay makes itself; all other messages are the exchange's own.
MADE_BY_RELAYS = {
    "subscriptions",
    "snapshot",
    "last_match",
    "session",
    "gap",
    "stale",
    "resumed",
    "skipped",
}
MESSAGES_MIN = {"heartbeat": 2, "ticker": 10, "match": 10, "l2update": 20, "received": 1000}
Topics = dict[tuple[str, str], list[bytes]]


class Head(msgspec.Struct):
    """The fields that determine a message's topic."""

    type: str
    product_id: str = ""


@asynccontextmanager
async def chain(first_feed: str, path: str) -> AsyncIterator[list[Daemon]]:
    """Run relays, each fed by the previous one; the first by ``first_feed``."""
    async with AsyncExitStack() as stack:
        daemons: list[Daemon] = []
        feed = first_feed
        for _ in range(DEPTH):
            daemons.append(await stack.enter_async_context(running(quick(feed_where=feed))))
            feed = f"ws://127.0.0.1:{daemons[-1].port}{path}"
        yield daemons


@asynccontextmanager
async def reader(
    port: int, path: str, pairs: list[str], channels: list[object]
) -> AsyncIterator[RawStream]:
    """Open a WebSocket and subscribe; close the connection at the end."""
    stream = await RawStream.open(port, path, *WEBSOCKET_HEADERS)
    try:
        # Padded, because the test client writes only frames with an extended length.
        await stream.send_text(subscribe(pairs, channels).ljust(126))
        await stream.read_bytes(2)
        yield stream
    finally:
        await stream.aclose()


@asynccontextmanager
async def collecting(port: int, path: str, channels: list[object]) -> AsyncIterator[Topics]:
    """Subscribe to the channels of all pairs, and collect the messages.

    The exchange's messages are grouped by type and product; those of ``full`` are one group.
    """
    topics: Topics = defaultdict(list)

    async def collect(stream: RawStream) -> None:
        while True:
            await stream.read_bytes(len(stream.read) + 1)
            texts, end = split_texts(stream.read)
            del stream.read[:end]
            for text in texts:
                head = msgspec.json.decode(text, type=Head)
                if head.type not in MADE_BY_RELAYS:
                    is_order = "full" in channels and head.type not in {"heartbeat", "ticker"}
                    topics["received" if is_order else head.type, head.product_id].append(text)

    async with reader(port, path, PAIRS, channels) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(collect, stream)
        yield topics
        nursery.cancel_scope.cancel()


async def wait_for_enough(topics: Topics, kinds: list[str]) -> None:
    """Wait for enough messages, so that a lost or repeated one would show."""
    with trio.fail_after(PATIENCE_S):
        while any(len(topics[kind, pair]) < MESSAGES_MIN[kind] for kind in kinds for pair in PAIRS):
            await trio.sleep(0.1)


async def wait_for_all_of(topics: Topics, reference: Topics) -> None:
    """Wait until ``topics`` contains the last message of each topic in ``reference``."""
    with trio.fail_after(PATIENCE_S):
        while any(messages[-1] not in topics[topic] for topic, messages in reference.items()):
            await trio.sleep(0.1)


@pytest.mark.parametrize("path", ["/ws-feed", "/ws"])
@pytest.mark.parametrize(
    ("channels", "kinds"),
    [
        (
            ["ticker", "matches", "heartbeat", "level2_batch"],
            ["ticker", "match", "heartbeat", "l2update"],
        ),
        (["full", "ticker", "heartbeat"], ["received", "ticker", "heartbeat"]),
    ],
    ids=["batches", "full"],
)
async def test_the_third_relay_sends_what_the_exchange_sends(
    path: str, channels: list[object], kinds: list[str]
) -> None:
    """A relay fed by relays is an equal feed: no byte changed, no message lost or repeated."""
    # 4,000 messages a second of `full`: the exchange and all relays share one thread.
    simulation = Simulation(seed=9, rate=5.0, pairs=tuple(PAIRS))
    async with exchange(simulation) as url, chain(url, path) as daemons:
        exchange_port, last_port = int(url.rpartition(":")[2]), daemons[-1].port
        async with (
            collecting(exchange_port, "/", channels) as sent,
            # The exchange sends the first relay a ticker made for it alone. So another client
            # subscribes first, and then the first message in `got` is in `sent` too.
            collecting(last_port, path, channels) as first,
        ):
            await wait_for_enough(first, ["ticker"])
            async with collecting(last_port, path, channels) as live:
                await wait_for_enough(live, kinds)
            got = dict(live)
            await wait_for_all_of(sent, got)

    assert set(got) == {(kind, pair) for kind in kinds for pair in PAIRS}
    for topic, messages in got.items():
        start = sent[topic].index(messages[0])
        assert sent[topic][start : start + len(messages)] == messages, topic


async def test_a_recording_passes_three_relays_byte_for_byte() -> None:
    """Bursts of a real market, with snapshots, in the overall order, not only per topic."""
    lines = recording(f"{PRO}/feed.jsonl").read_bytes().splitlines()
    expected = [line for line in lines if not line.startswith(b'{"type":"subscriptions"')]
    products = sorted({msgspec.json.decode(line)["product_id"] for line in expected})
    channels: list[object] = ["level2", "ticker", "matches"]
    port = free_port()
    async with (
        chain(f"ws://127.0.0.1:{port}", "/ws-feed") as daemons,
        reader(daemons[-1].port, "/ws-feed", products, channels) as stream,
    ):
        # The exchange starts only when the first relay has demand for all topics (and for
        # each product's heartbeat).
        with trio.fail_after(PATIENCE_S):
            while len(daemons[0].instance.pipe.demand.wanted(0)) < len(products) * 4:
                await trio.sleep(0.01)
        async with exchange(Simulation(port=port, recording=recording(PRO), speed=10.0)):
            await stream.read_to(expected[-1])

    got = [text for text in texts_of(stream.read) if b'"subscriptions"' not in text[:30]]
    assert len(expected) == 9943
    assert expected == got
