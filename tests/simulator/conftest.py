"""What the conversations with the simulated exchange share."""

import json
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio_websocket import open_websocket_url

from hedgehogd.simulator import Simulation, serve_exchange
from hedgehogd.simulator import exchange as exchange_module


class Talk:
    """One client's side of a conversation."""

    def __init__(self, websocket):
        self.websocket = websocket

    async def say(self, kind="subscribe", channels=(), product_ids=(), **more):
        message = {"type": kind, "channels": channels, "product_ids": product_ids}
        await self.websocket.send_message(json.dumps(message | more))

    async def hear_raw(self):
        with trio.fail_after(5):
            return (await self.websocket.get_message()).encode()

    async def hear(self):
        return json.loads(await self.hear_raw())

    async def hear_until(self, kind):
        """Return everything up to and including the first message of ``kind``."""
        heard = [await self.hear()]
        while heard[-1]["type"] != kind:
            heard.append(await self.hear())
        return heard


@asynccontextmanager
async def talk(url):
    async with open_websocket_url(url) as websocket:
        yield Talk(websocket)


@pytest.fixture
async def exchange(nursery):
    """A lively simulated market's address."""
    return await nursery.start(serve_exchange, Simulation(seed=1, rate=20))


@pytest.fixture
def connect():
    """Open a conversation with an exchange: ``async with connect(url) as client``."""
    return talk


@pytest.fixture
def world(nursery, monkeypatch):
    """Make an exchange without sockets; take ``autojump_clock`` too, or it is real time."""
    # Fewer turns, each with more in it; never at the moment at which a test looks.
    monkeypatch.setattr(exchange_module, "_STEP_S", 0.0371)
    from tests.simulator.world import World  # noqa: PLC0415  # it knows Talk, from here

    return partial(World, nursery)
