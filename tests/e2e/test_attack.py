"""One address uses all places that it can get; every honest client is still served.

The attacks and the honest clients are those of the benchmark (``bench/run attack``), which
also measures times; here a small seeded crowd of each is counted.
"""

import importlib
from pathlib import Path
from random import Random

import pytest
import trio

from hedgehogd.domain import limits
from hedgehogd.simulator import Simulation
from tests.e2e.harness import exchange, quick, running

pytestmark = pytest.mark.e2e
SOCKETS = 40
HISTORY_BYTES = 200_000  # more than the kernel buffers for a reader
HONEST = ("rest", "history", "command", "stream") * 2  # one after the other
NAMES = ("slow bodies", "slow readers", "silent", "slow heads")
ELSEWHERE = {
    "stuck streams": ("tests/streaming/test_outlet.py", "test_two_hundred_slow_readers_"),
    "heavy commands": ("tests/streaming/test_connection.py", "test_heavy_commands_are_delayed_"),
    "many heavy commands": ("tests/fanout/test_turns.py", "light_session_does_not_wait"),
    "long queries": ("tests/web/test_history.py", "too_many_queries"),
}


async def history_bytes(port):
    """Return the size of the whole history answer."""
    head = b"GET /api/v1/history/BTC-USD?limit=100000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    size = 0
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(head)
        while data := await stream.receive_some():
            size += len(data)
    return size


@pytest.fixture
def attacks(monkeypatch):
    """Return the benchmark's module."""
    monkeypatch.syspath_prepend("bench")
    return importlib.import_module("attacks")


def test_every_attack_of_the_benchmark_is_tested_in_the_suite(attacks):
    """A new attack must be in NAMES, or in ELSEWHERE with its test."""
    assert {*NAMES, *ELSEWHERE} == attacks.ATTACKS.keys()
    for path, test in ELSEWHERE.values():
        assert test in Path(path).read_text()


@pytest.mark.parametrize(
    ("name", "limited"), [*((name, False) for name in NAMES), ("silent", True)]
)
async def test_honest_clients_are_served_while_one_address_attacks(
    attacks, monkeypatch, tmp_path, name, limited
):
    """Once with the limits of the door alone, and once with the limits per address."""
    monkeypatch.setattr(limits, "VISITORS_MAX", 20)
    monkeypatch.setattr(limits, "CONTROL_REQUESTS_MAX", 10)
    toll, service = attacks.Toll(), attacks.Service()
    changes = {"limits_address_connections_max": 15 if limited else SOCKETS * 2}
    async with exchange(Simulation(seed=3, rate=20.0)) as url:
        settings = quick(
            feed_where=url, feed_pairs=("BTC-USD",), history_where=str(tmp_path), **changes
        )
        async with running(settings) as daemon, trio.open_nursery() as nursery:
            with trio.fail_after(60):  # a short answer does not wait for a slow reader
                while name == "slow readers" and await history_bytes(daemon.port) < HISTORY_BYTES:
                    await trio.sleep(0.2)
            crowd = (attacks.ATTACKS[name], daemon.port, SOCKETS, toll, Random(1))
            nursery.start_soon(attacks.crowd, *crowd)
            with trio.fail_after(60):
                while toll.opened < SOCKETS:
                    await trio.sleep(0.01)
            for visit in HONEST:
                await attacks.serve_honest(daemon.port, 1, 1.0, service, Random(2), visits=(visit,))
            refusals = daemon.instance.counts.refusals
            nursery.cancel_scope.cancel()

    assert service.failures == {}
    assert len(service.took_s) == len(HONEST)
    fired = {"address_connections"} if limited else {"too_many_visitors", "control_evicted"}
    assert fired & refusals.keys(), refusals
