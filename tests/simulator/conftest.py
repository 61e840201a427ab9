"""Shared parts of the conversations with the simulated exchange."""

import json
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio_websocket import open_websocket_url

from hedgehogd.simulator import Simulation, serve_exchange
from hedgehogd.simulator import exchange as exchange_module


class Talk:
    """The client's end of one connection."""

    def __init__(self, websocket):
        self.websocket = websocket

    async def send(self, kind="subscribe", channels=(), product_ids=(), **more):
        message = {"type": kind, "channels": channels, "product_ids": product_ids}
        await self.websocket.send_message(json.dumps(message | more))

    async def receive_raw(self):
        with trio.fail_after(5):
            return (await self.websocket.get_message()).encode()

    async def receive(self):
        return json.loads(await self.receive_raw())

    async def receive_until(self, kind):
        """Return all messages up to and including the first message of ``kind``."""
        received = [await self.receive()]
        while received[-1]["type"] != kind:
            received.append(await self.receive())
        return received


@asynccontextmanager
async def talk(url):
    async with open_websocket_url(url) as websocket:
        yield Talk(websocket)


@pytest.fixture
async def exchange(nursery):
    """Return the address of a busy simulated market."""
    return await nursery.start(serve_exchange, Simulation(seed=1, rate=20))


@pytest.fixture
def connect():
    """Connect to an exchange: ``async with connect(url) as client``."""
    return talk


@pytest.fixture
def world(nursery, monkeypatch):
    """Make an exchange without sockets; use it with ``autojump_clock``, or it runs in real time."""
    # Fewer and longer steps of the market, never at the time of a test's assertion.
    monkeypatch.setattr(exchange_module, "_STEP_S", 0.0371)
    from tests.simulator.world import World  # noqa: PLC0415  # it imports Talk from this module

    return partial(World, nursery)
