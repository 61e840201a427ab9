"""Relays that feed each other, three deep: what comes out at the end is what the exchange sent."""

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
# What a relay says itself; all else is the exchange's own (DESIGN §5).
OURS = {"subscriptions", "snapshot", "last_match", "session", "gap", "stale", "resumed", "skipped"}
MESSAGES_MIN = {"heartbeat": 2, "ticker": 10, "match": 10, "l2update": 20, "received": 1000}
Topics = dict[tuple[str, str], list[bytes]]


class Head(msgspec.Struct):
    """What tells a message's topic."""

    type: str
    product_id: str = ""


@asynccontextmanager
async def chain(first_feed: str, path: str) -> AsyncIterator[list[Daemon]]:
    """Run relays, each fed by the one before; the first by ``first_feed``."""
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
    """Open a WebSocket and subscribe; hang up at the end."""
    stream = await RawStream.open(port, path, *WEBSOCKET_HEADERS)
    try:
        # Filled up, because a long frame's head is written.
        await stream.send_text(subscribe(pairs, channels).ljust(126))
        await stream.read_bytes(2)
        yield stream
    finally:
        await stream.aclose()


@asynccontextmanager
async def listening(port: int, path: str, channels: list[object]) -> AsyncIterator[Topics]:
    """Subscribe to the channels of all pairs, and gather what comes.

    The exchange's messages are sorted by type and product; all those of ``full`` are one order.
    """
    topics: Topics = defaultdict(list)

    async def gather(stream: RawStream) -> None:
        while True:
            await stream.read_bytes(len(stream.read) + 1)
            texts, end = split_texts(stream.read)
            del stream.read[:end]
            for text in texts:
                head = msgspec.json.decode(text, type=Head)
                if head.type not in OURS:
                    is_order = "full" in channels and head.type not in {"heartbeat", "ticker"}
                    topics["received" if is_order else head.type, head.product_id].append(text)

    async with reader(port, path, PAIRS, channels) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(gather, stream)
        yield topics
        nursery.cancel_scope.cancel()


async def heard_enough(topics: Topics, kinds: list[str]) -> None:
    """Wait until so much has come that a loss or a repeat would show."""
    with trio.fail_after(PATIENCE_S):
        while any(len(topics[kind, pair]) < MESSAGES_MIN[kind] for kind in kinds for pair in PAIRS):
            await trio.sleep(0.1)


async def heard_all_of(topics: Topics, others: Topics) -> None:
    """Wait until the last of each of the other's topics has come here too."""
    with trio.fail_after(PATIENCE_S):
        while any(messages[-1] not in topics[topic] for topic, messages in others.items()):
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
    """A relay behind relays is no worse a feed: no byte changed, nothing lost, nothing twice."""
    # 4,000 messages a second of `full`: the exchange and all relays share one thread here.
    simulation = Simulation(seed=9, rate=5.0, pairs=tuple(PAIRS))
    async with exchange(simulation) as url, chain(url, path) as daemons:
        exchange_port, last_port = int(url.rpartition(":")[2]), daemons[-1].port
        async with (
            listening(exchange_port, "/", channels) as sent,
            # The exchange greets the first relay with a ticker made for it alone. So someone else
            # goes first, and what `got` begins with is what `sent` has too.
            listening(last_port, path, channels) as first,
        ):
            await heard_enough(first, ["ticker"])
            async with listening(last_port, path, channels) as live:
                await heard_enough(live, kinds)
            got = dict(live)
            await heard_all_of(sent, got)

    assert set(got) == {(kind, pair) for kind in kinds for pair in PAIRS}
    for topic, messages in got.items():
        start = sent[topic].index(messages[0])
        assert sent[topic][start : start + len(messages)] == messages, topic


async def test_a_recording_passes_three_relays_byte_for_byte() -> None:
    """A real market's bursts, snapshots included, in the order of the whole, not of each topic."""
    lines = recording(f"{PRO}/feed.jsonl").read_bytes().splitlines()
    expected = [line for line in lines if not line.startswith(b'{"type":"subscriptions"')]
    products = sorted({msgspec.json.decode(line)["product_id"] for line in expected})
    channels: list[object] = ["level2", "ticker", "matches"]
    port = free_port()
    async with (
        chain(f"ws://127.0.0.1:{port}", "/ws-feed") as daemons,
        reader(daemons[-1].port, "/ws-feed", products, channels) as stream,
    ):
        # Only when the first relay has been asked for all of it (and each product's heartbeat) is
        # there an exchange to dial.
        with trio.fail_after(PATIENCE_S):
            while len(daemons[0].instance.pipe.demand.wanted(0)) < len(products) * 4:
                await trio.sleep(0.01)
        async with exchange(Simulation(port=port, recording=recording(PRO), speed=10.0)):
            await stream.read_to(expected[-1])

    got = [text for text in texts_of(stream.read) if b'"subscriptions"' not in text[:30]]
    assert len(expected) == 9943
    assert expected == got
