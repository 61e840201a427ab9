"""A daemon that does not run for a while: stopped by SIGSTOP, continued by SIGCONT.

A debugger and a paused virtual machine have the same effect. The exchange continues to send, so
its data waits in the socket.
"""

import os
import signal
from collections.abc import Iterable

import httpx
import msgspec
import pytest
import trio

from hedgehogd.domain.limits import STALE_AFTER_S
from hedgehogd.simulator import Simulation
from hedgehogd.simulator.client import Client
from hedgehogd.simulator.exchange import MarketExchange
from hedgehogd.simulator.messages import MarketMessage
from tests.e2e.harness import PATIENCE_S, HttpStream, exchange, free_port, next_event
from tests.e2e.test_process import process

pytestmark = pytest.mark.e2e

PAUSE_S = STALE_AFTER_S + 2  # a connection that is silent for STALE_AFTER_S is dead
STREAM = "/api/v1/stream?pairs=BTC-USD&channels=matches"


class Sent:
    """The trades that the simulated exchange has sent, and its clients.

    Attributes:
        trade_ids: of the trades, in the order in which they were sent.
        clients: the connections that subscribed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trade_ids: list[int] = []
        self.clients: set[int] = set()
        publish, receive = MarketExchange._publish, MarketExchange.receive

        def note_messages(this: MarketExchange, messages: Iterable[MarketMessage]) -> None:
            messages = list(messages)
            publish(this, messages)
            for each in messages:
                if (each.channel, each.product_id) == ("matches", "BTC-USD"):
                    self.trade_ids.append(msgspec.json.decode(each.payload)["trade_id"])

        def note_client(this: MarketExchange, client: Client, text: str) -> None:
            self.clients.add(id(client))
            receive(this, client, text)

        monkeypatch.setattr(MarketExchange, "_publish", note_messages)
        monkeypatch.setattr(MarketExchange, "receive", note_client)


async def _read(port: int, read: list[dict]) -> None:
    """Append each message of a stream to ``read``, for ever; a stream that ends is an error."""
    stream = await HttpStream.open(port, STREAM, Accept="text/event-stream")
    try:
        while True:
            read.append(msgspec.json.decode((await next_event(stream))["data"]))
    finally:
        with trio.move_on_after(1, shield=True):
            await stream.aclose()


async def _metric(port: int, name: str) -> float:
    """Return the value of a metric without labels."""
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    (row,) = [row for row in text.splitlines() if row.startswith(f"{name} ")]
    return float(row.partition(" ")[2])


def _trades(read: list[dict]) -> list[int]:
    return [each["trade_id"] for each in read if each["type"] == "match"]


async def test_a_stopped_process_continues_with_its_feed_its_subscribers_and_every_trade(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Data that waits in the socket is read before silence is judged."""
    sent = Sent(monkeypatch)
    port, operator_port = free_port(), free_port()
    flags = ("--pairs", "BTC-USD", "--channels", "matches", "--port", str(port))
    flags += ("--operator-bind", f"127.0.0.1:{operator_port}")
    async with (
        exchange(Simulation(seed=11, rate=8)) as url,
        process("--feed", url, *flags, ready='"serving"') as (daemon, lines),
        trio.open_nursery() as nursery,
    ):
        readers: list[list[dict]] = [[], []]
        for read in readers:
            nursery.start_soon(_read, port, read)
        with trio.fail_after(PATIENCE_S):
            while not all(map(_trades, readers)):
                await trio.sleep(0.05)

        os.kill(daemon.pid, signal.SIGSTOP)
        await trio.sleep(0.2)  # data of before is on its way to the subscribers
        before = [len(read) for read in readers]
        count = len(sent.trade_ids)
        await trio.sleep(PAUSE_S)
        assert [len(read) for read in readers] == before  # it was stopped
        in_pause = sent.trade_ids[count:]
        os.kill(daemon.pid, signal.SIGCONT)

        with trio.fail_after(PATIENCE_S):
            while not all(sent.trade_ids[-1] in _trades(read) for read in readers):
                await trio.sleep(0.05)
        connects = await _metric(operator_port, "hedgehogd_feed_connects_total")
        received = [list(read) for read in readers]
        nursery.cancel_scope.cancel()

    assert len(in_pause) > 5
    for read in received:
        trades = _trades(read)
        first = sent.trade_ids.index(trades[0])
        assert trades == sent.trade_ids[first : first + len(trades)]
        assert set(in_pause) <= set(trades)
        assert not [each for each in read if each["type"] in {"gap", "stale", "closing", "error"}]
    assert (connects, len(sent.clients)) == (1, 1)
    assert not [line for line in lines if '"feed disconnected"' in line]
