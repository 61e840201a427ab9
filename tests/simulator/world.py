"""A simulated exchange on the mock clock, without sockets."""

import json

import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

from hedgehogd.simulator import Simulation, market_server
from hedgehogd.simulator.inprocess import connect
from hedgehogd.simulator.products import LISTED
from tests.simulator.conftest import Talk

START_NS = 1_790_000_000_123_456_789
BTC = ["BTC-USD"]
TWO = [p for p in LISTED if p.id in {"BTC-USD", "ETH-USD"}]
FOUR = [p for p in LISTED if p.id in {"BTC-USD", "ETH-USD", "LTC-USD", "ETH-BTC"}]


class World:
    """One exchange and its clients; it lists few products, because each costs time."""

    def __init__(self, nursery, seed=1, rate=2.0, products=TWO, **settings):
        self.nursery = nursery
        simulation = Simulation(seed=seed, rate=rate, **settings)
        self.server = market_server(simulation, START_NS, products)
        self.faults = self.server.faults
        nursery.start_soon(self.server.run)

    def stream(self):
        return connect(self.server, self.nursery)

    async def client(self, *channels, product_ids=BTC, **more):
        """Return a client that has subscribed to ``channels``, if any."""
        client = Talk(await wrap_client_stream(self.nursery, self.stream(), "x", "/"))
        if channels:
            await client.send(channels=channels, product_ids=product_ids, **more)
        return client

    def rest(self):
        return self.server.app.test_client()

    async def get(self, path):
        answer = await self.rest().get(path)
        return answer.status_code, await answer.get_json()


async def receive_all(client, seconds):
    """Return the messages of ``seconds``, and whether the connection is still open."""
    messages = []
    with trio.move_on_after(seconds):
        try:
            while True:
                messages.append(json.loads(await client.websocket.get_message()))
        except ConnectionClosed:
            return messages, False
    return messages, True


def of_type(messages, *kinds):
    return [m for m in messages if isinstance(m, dict) and m["type"] in kinds]


def numbers_of(messages):
    """Return the sequences of the messages of ``full``, without those of other channels."""
    kinds = ("received", "open", "done", "change")
    matches = {m["sequence"] for m in of_type(messages, "match")}
    return sorted([m["sequence"] for m in of_type(messages, *kinds)] + list(matches))
