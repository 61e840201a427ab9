"""Streams, requests and invalid requests leave nothing in a daemon after they have ended.

`scripts/soak` watches the memory of a process for an hour; this test counts, after rounds of the
same visits, objects, tasks, open files and the entries of every container of the package.
"""

import gc
import inspect
from collections import Counter
from collections.abc import Sized
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from hedgehogd.fanout.session import Session
from hedgehogd.fanout.sessions import Sessions
from hedgehogd.streaming.outlet import Outlet
from tests.e2e.harness import (
    PATIENCE_S,
    WEBSOCKET_HEADERS,
    RawStream,
    quick,
    rest,
    running,
    subscribe,
)
from tests.systemd.stream_bytes import TEXT_HEAD, masked

pytestmark = pytest.mark.e2e

ROUNDS = 4
EACH = 3  # of each kind of visit in a round
# The market and its stored messages change with time, not with visits.
OF_THE_MARKET = ("hedgehogd.simulator", "hedgehogd.engine.tape", "hedgehogd.domain")
STREAM = "/api/v1/stream?pairs=BTC-USD&channels=ticker,matches,level2&policy=conflate"


async def websocket(port, number, path="/ws"):
    stream = await RawStream.open(port, path, *WEBSOCKET_HEADERS)
    for pair in ("BTC-USD", f"N{number}-USD"):
        command = subscribe([pair], ["ticker", "level2", f"c{number}"])
        await stream._stream.send_all(masked(TEXT_HEAD, command.encode()))
    await stream.read_bytes(300)
    await stream.aclose()


async def strict(port, number):
    await websocket(port, number, "/ws-feed")


async def sse(port, number):
    stream = await RawStream.open(port, STREAM, "Accept: text/event-stream")
    await stream.read_bytes(300)
    await stream.aclose()


async def resuming(port, number):
    path = f"{STREAM}&since=-{1 + number}s"
    stream = await RawStream.open(port, path, "Accept: text/event-stream")
    await stream.read_bytes(300)
    await stream.aclose()


async def ndjson(port, number):
    path = "/api/v1/subscribe/BTC-USD?channels=level2"
    stream = await RawStream.open(port, path, "Accept: application/x-ndjson")
    await stream.read_bytes(300)
    await stream.aclose()


async def reads(port, number):
    await rest(port, "GET", "/healthz")
    await rest(port, "GET", f"/nowhere/{number}")
    await rest(port, "GET", f"/products/N{number}-USD/ticker")
    await rest(port, "GET", "/products/BTC-USD/trades?before=5")  # the cache of answers has a limit


async def control(port, number):
    session = {"Hedgehog_Session": f"1.{number}"}
    for method in ("POST", "DELETE"):
        await rest(port, method, f"/api/v1/subscribe/N{number}-USD", **session)
    await rest(port, "GET", f"/api/v1/sessions/1.{number}")


async def invalid(port, number):
    for head in (
        b"BREW / HTTP/1.1\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        b"G",
    ):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        with suppress(trio.BrokenResourceError):
            await stream.send_all(head)
            if head.endswith(b"\n"):
                while await stream.receive_some():
                    pass
        await stream.aclose()


VISITS = (websocket, strict, sse, resuming, ndjson, reads, control, invalid)


def is_of_the_package(value):
    module = str(type(value).__module__)  # some libraries make it a descriptor
    return module.startswith("hedgehogd") and not module.startswith(OF_THE_MARKET)


def census():
    """Return counts by name: objects of the package, entries of their containers, tasks, files."""
    gc.collect()
    found = Counter(
        tasks=trio.lowlevel.current_statistics().tasks_living,
        files=len(list(Path("/proc/self/fd").iterdir())),
    )
    for value in gc.get_objects():
        if not is_of_the_package(value):
            continue
        kind = type(value)
        found[f"{kind.__module__}.{kind.__qualname__}"] += 1
        slots = [name for each in kind.__mro__ for name in getattr(each, "__slots__", ())]
        for name in {*slots, *getattr(value, "__dict__", ())}:
            held = inspect.getattr_static(value, name, None)
            held = getattr(value, name, None) if name in slots else held
            if isinstance(held, Sized) and not isinstance(held, str | bytes):
                with suppress(Exception):
                    found[f"{kind.__qualname__}.{name}"] += len(held)
    return found


async def visit(daemon, number):
    """Make every kind of visit, and wait until all of them have ended."""
    async with trio.open_nursery() as nursery:
        for each in VISITS:
            for more in range(EACH):
                nursery.start_soon(each, daemon.port, 1000 * number + more)
    instance = daemon.instance
    with trio.fail_after(PATIENCE_S):
        while len(instance.sessions) or instance.counts.visitors:
            await trio.sleep(0.01)


async def growing_counts(daemon):
    """Return the counts that have grown in each of three rounds of visits, by name."""
    counts = []
    for number in range(ROUNDS):
        await visit(daemon, number)
        counts.append(census())
    return {
        name: [count[name] for count in counts]
        for name in counts[-1]
        if all(later[name] > earlier[name] for earlier, later in pairwise(counts))
    }


def quiet_demo():
    return quick(
        feed_where="demo", feed_pairs=("BTC-USD",), history_where="none", feed_linger_s=0.0
    )


async def test_visits_leave_no_object_task_file_or_entry():
    """Names, sessions, positions and addresses of each round are new; none of them is kept."""
    async with running(quiet_demo()) as daemon:
        assert await growing_counts(daemon) == {}


async def test_a_planted_leak_is_found(monkeypatch):
    """The check must find one entry for each stream ever opened."""
    add = Sessions.add

    def remember(sessions, session):
        add(sessions, session)
        sessions.opened[session.id] += 1

    monkeypatch.setattr(Sessions, "add", remember)
    async with running(quiet_demo()) as daemon:
        assert "Sessions.opened" in await growing_counts(daemon)


async def test_a_stream_that_has_ended_is_freed_without_the_collector():
    """The collector runs rarely, and hardly ever on old objects; streams must not depend on it."""
    async with running(quiet_demo()) as daemon:
        gc.collect()
        gc.disable()
        try:
            await visit(daemon, 0)
            with trio.fail_after(PATIENCE_S):  # tasks of resuming streams return a little later
                while any(isinstance(each, Session | Outlet) for each in gc.get_objects()):
                    await trio.sleep(0.05)
        finally:
            gc.enable()
