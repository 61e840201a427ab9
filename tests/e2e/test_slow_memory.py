"""The memory of a daemon after a burst of slow subscribers, measured from outside the process."""

import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trio

from hedgehogd.domain.limits import TRIM_BYTES_MIN
from hedgehogd.simulator import Simulation
from tests.e2e.harness import PATIENCE_S, exchange, free_port
from tests.e2e.test_process import process

pytestmark = pytest.mark.e2e

MIB = 1024 * 1024
READERS = 40
WAITING_BYTES_MAX = 40 * MIB  # more than twice TRIM_BYTES_MIN
TAPE_BYTES_MAX = 4 * MIB
PAIRS = ("BTC-USD", "ETH-USD", "LTC-USD", "SOL-USD", "ADA-USD", "XRP-USD")


def _resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def _metrics(port: int) -> dict[str, float]:
    """Return the metrics without labels."""
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    rows = [line.rpartition(" ") for line in text.splitlines() if line and line[0] != "#"]
    return {name.removeprefix("hedgehogd_"): float(value) for name, _, value in rows}


async def _until(
    port: int,
    is_so: Callable[[dict[str, float]], bool],
    seen: list[dict[str, float]] | None = None,
) -> None:
    """Wait until the metrics are so; append each reading of them to ``seen``."""
    with trio.fail_after(PATIENCE_S):
        while True:
            found = await _metrics(port)
            if seen is not None:
                seen.append(found)
            if is_so(found):
                return
            await trio.sleep(0.1)


async def _slow_reader(port: int, number: int) -> trio.SocketStream:
    """Open a stream with topics of its own that is never read."""
    raw = trio.socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await raw.connect(("127.0.0.1", port))
    chosen = [pair for place, pair in enumerate(PAIRS) if (number + 1) >> place & 1]
    path = f"/api/v1/stream?pairs={','.join(chosen)}&channels=full,level2"
    stream = trio.SocketStream(raw)
    await stream.send_all(
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()
    )
    return stream


async def test_memory_returns_after_slow_readers_of_different_topics_have_been_ended() -> None:
    """The budget ends the largest; the rest of the burst is returned to the system."""
    port, operator_port = free_port(), free_port()
    flags = ("--port", str(port), "--operator-bind", f"127.0.0.1:{operator_port}")
    flags += (
        "--waiting-bytes-max",
        str(WAITING_BYTES_MAX),
        "--tape-bytes-max",
        str(TAPE_BYTES_MAX),
    )
    flags += ("--pairs", ",".join(PAIRS), "--channels", "full,level2")
    seen: list[dict[str, float]] = []
    async with (
        exchange(Simulation(seed=15, rate=20, pairs=PAIRS)) as url,
        process("--feed", url, *flags, ready='"serving"') as (daemon, _),
    ):
        await _until(operator_port, lambda found: found["tape_bytes"] > 0.9 * TAPE_BYTES_MAX)
        highest = _resident_bytes(daemon.pid)
        streams = [await _slow_reader(port, number) for number in range(READERS)]
        await _until(operator_port, lambda found: found["waiting_relieved_total"] > 0, seen)
        highest = max(highest, _resident_bytes(daemon.pid))
        for stream in streams:
            await stream.aclose()
        await _until(
            operator_port,
            lambda found: (
                found["waiting_bytes"] < MIB
                and highest - _resident_bytes(daemon.pid) >= TRIM_BYTES_MIN
            ),
            seen,
        )

    assert all(each["waiting_bytes"] <= each["waiting_bytes_max"] for each in seen)
    assert {each["waiting_bytes_max"] for each in seen} == {WAITING_BYTES_MAX}
