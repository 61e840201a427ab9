"""``scripts/cluster``: one command starts the cluster, and no process outlives it."""

import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.cluster.harness import alive, eventually, free_numbers, get, instance_of
from tests.e2e.harness import (
    PATIENCE_S,
    HttpStream,
    free_port,
    next_line,
    next_of,
    subscribe,
    websocket,
)

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.xdist_group("cluster_script")]
SCRIPT = Path(__file__).parents[2] / "scripts" / "cluster"
NDJSON = "/api/v1/subscribe/BTC-USD"


class Script:
    """A run of the script, in a process group of its own, as on a terminal.

    Attributes:
        process: the script.
        numbers: its instances.
        stderr: its standard error so far, that of its children included.
        port: HAProxy's port.
    """

    def __init__(self, process: trio.Process, numbers: tuple[int, ...], port: int) -> None:
        self.process = process
        self.numbers = numbers
        self.port = port
        self.stderr = ""

    def children(self) -> dict[str, int]:
        """Return its child processes by name: instance numbers, ``simulate``, ``haproxy``."""
        found = {}
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in map(int, path.read_text().split()):
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if "--instance" in words:
                found[words[words.index("--instance") + 1]] = pid
            else:
                found.update({w: pid for w in ("simulate", "haproxy") if w in words})
        return found

    def press_ctrl_c(self) -> None:
        """Signal the whole process group, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    async def end(self) -> int:
        """Wait for its end; return its status."""
        with trio.fail_after(PATIENCE_S):
            return await self.process.wait()


@pytest.fixture
def folder():
    """Return the folder of the script's files: a short path, as sockets need one."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def command(*arguments: str) -> tuple[list[str], tuple[int, ...], int]:
    """Return a command line on free ports, the instances' numbers and the public port."""
    numbers, port = free_numbers(2), free_port()
    where = ("--port", str(port), "--statistics-port", str(free_port()), "--first", str(numbers[0]))
    return [str(SCRIPT), *where, *arguments], numbers, port


@asynccontextmanager
async def cluster(folder: Path, *arguments: str) -> AsyncIterator[Script]:
    """Run two instances of one demo market; end all of it afterwards."""
    demo = ("--feed", "demo", "--pairs", "BTC-USD", "--drain-spread-s", "0.5")
    line, numbers, port = command(*demo, *arguments)
    process = await trio.lowlevel.open_process(
        line, env={**os.environ, "WEB_CONCURRENCY": "2", "TMPDIR": str(folder)},
        stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, process_group=0,
    )  # fmt: skip
    script = Script(process, numbers, port)

    async def read_stderr() -> None:
        async for data in process.stderr:
            script.stderr += data.decode()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_stderr)
        try:
            await eventually(lambda: "Ctrl-C" in script.stderr or process.poll(), "it is up")
            assert process.poll() is None, script.stderr
            yield script
        finally:
            if process.poll() is None:
                process.terminate()
            with trio.CancelScope(shield=True):
                await process.wait()


async def streams_of_all(script: Script) -> list[HttpStream]:
    """Open streams until each instance has one: HAProxy has to find it ready first."""
    streams: list[HttpStream] = []
    with trio.fail_after(PATIENCE_S):
        while {instance_of(stream) for stream in streams} != set(script.numbers):
            streams.append(await HttpStream.open(script.port, NDJSON))
            await trio.sleep(0.1)
    return streams


async def status_of_host(port: int, host: str) -> int:
    """Request the health of an instance with ``Host: host``; return the status."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return int((await stream.receive_some()).split()[1])


async def test_a_public_address_accepts_any_host_name(folder):
    """An operator publishes a cluster under a name; pages under this name are its own."""
    async with cluster(folder, "--bind", "0.0.0.0") as script:
        await eventually_ready(script)
        for host, status in (
            ("relay.example", 200),
            ("relay.example\r\nOrigin: https://relay.example", 200),
            ("relay.example\r\nOrigin: https://evil.example", 403),
        ):
            assert await status_of_host(script.port, host) == status
        assert await status_of_host(9000 + script.numbers[0], "relay.example") == 421


async def eventually_ready(script: Script) -> None:
    """Wait until HAProxy serves."""
    with trio.fail_after(PATIENCE_S):
        while await status_of_host(script.port, "localhost") != 200:
            await trio.sleep(0.05)


async def test_one_command_is_a_cluster_of_one_market_and_ctrl_c_ends_it_in_order(folder):
    """Every subscriber gets its farewell, which needs HAProxy to be the last."""
    async with cluster(folder) as script:
        streams = await streams_of_all(script)
        lines = [await next_line(stream) for stream in streams]
        assert await status_of_host(script.port, "relay.example") == 421  # a browser's rebinding
        async with websocket(script.port, "/ws") as client:
            await client.send_message(subscribe(["BTC-USD"], ["ticker"]))
            await next_of(client, "ticker")
            children = script.children()
            script.press_ctrl_c()
            closing = await next_of(client, "closing")
        for stream in streams:
            await stream.body()  # h11 accepts only a planned end
        status = await script.end()

    assert all(b"BTC-USD" in line for line in lines)
    assert closing["reason"] == "restart"
    assert status == 0
    assert children.keys() == {*map(str, script.numbers), "simulate", "haproxy"}
    assert not [pid for pid in children.values() if alive(pid)]
    assert list(folder.iterdir()) == []
    assert "Traceback" not in script.stderr


async def test_a_second_ctrl_c_ends_it_at_once(folder):
    """An operator need not wait for the subscribers."""
    async with cluster(folder, "--drain-notice-s", "15") as script:
        stream = await HttpStream.open(script.port, NDJSON)
        children = script.children()
        script.press_ctrl_c()
        await eventually(lambda: "cluster: draining" in script.stderr, "it drains")
        script.press_ctrl_c()
        status = await script.end()
        await stream.aclose()

    assert status == 130
    assert not [pid for pid in children.values() if alive(pid)]


async def test_an_instance_that_dies_is_reported_and_started_again(folder):
    """As systemd does; meanwhile the other instance serves."""
    async with cluster(folder) as script:
        killed = str(script.numbers[0])
        before = script.children()[killed]
        os.kill(before, signal.SIGKILL)
        await eventually(
            lambda: (
                script.children().get(killed, before) != before
                and get(8000 + script.numbers[0], "/readyz")
            ),
            "it is back",
        )

    assert f"cluster: instance {killed} has ended (137); it is started again" in script.stderr
    assert script.process.returncode == 0


async def test_two_that_die_together_are_both_started_again(folder):
    """A cluster with half of its instances is worse than none."""
    async with cluster(folder) as script:
        before = script.children()
        killed = [str(number) for number in script.numbers]
        for name in killed:
            os.kill(before[name], signal.SIGKILL)
        await eventually(
            lambda: (
                all(script.children().get(name, before[name]) != before[name] for name in killed)
                and all(get(8000 + number, "/readyz") for number in script.numbers)
            ),
            "both are back",
        )

    assert script.process.returncode == 0


async def test_a_proxy_that_dies_just_after_an_instance_is_not_overlooked(folder):
    """The script waits a second for the instance then."""
    async with cluster(folder) as script:
        children = script.children()
        os.kill(children[str(script.numbers[0])], signal.SIGKILL)
        await eventually(lambda: "started again" in script.stderr, "it is told")
        os.kill(children["haproxy"], signal.SIGKILL)
        status = await script.end()

    assert status == 70
    assert "HAProxy has ended" in script.stderr


async def test_it_serves_on_another_address(folder):
    """This address is not reachable as 127.0.0.1."""
    async with cluster(folder, "--bind", "::1") as script:
        assert f"http://[::1]:{script.port}/" in script.stderr


@pytest.mark.parametrize("name", ["simulate", "haproxy"])
async def test_without_exchange_or_proxy_the_cluster_stops(folder, name):
    """Half a cluster that looks complete would mislead its operator."""
    async with cluster(folder) as script:
        children = script.children()
        os.kill(children[name], signal.SIGKILL)
        status = await script.end()

    assert status == 70
    assert not [pid for pid in children.values() if alive(pid)]


async def test_nothing_outlives_the_script_that_is_killed(folder):
    """Not even kill -9 leaves an orphan on its port."""
    async with cluster(folder) as script:
        children = script.children()
        script.process.kill()
        await script.end()
        await eventually(lambda: not any(map(alive, children.values())), "all have ended")


@pytest.mark.parametrize(
    ("arguments", "count", "status", "error"),
    [
        (["--port"], "2", 64, "--port needs a value"),
        (["--instance", "3"], "2", 64, "--instance is set for each instance"),
        (["--feed", "demo", "--version"], "2", 64, "--version is an option of hedgehogd"),
        (["--pears", "BTC-USD"], "2", 64, "Did you mean '--pairs'?"),
        (["--first", "x"], "2", 64, "--first has to be a number"),
        ([], "many", 64, "WEB_CONCURRENCY has to be a number"),
        ([], "0", 64, "WEB_CONCURRENCY is at least 1"),
        (["--port", "8404", "--statistics-port", "8404"], "2", 64, "have the same port, 8404"),
    ],
)
def test_a_usage_error_is_reported_at_once(arguments, count, status, error):
    """One line and a status, before any process starts."""
    environment = {**os.environ, "WEB_CONCURRENCY": count}
    done = subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (status, "")
    assert error in done.stderr


async def test_a_port_in_use_is_reported_before_any_process_starts():
    """The likeliest mistake: another cluster runs already."""
    line, numbers, _ = command()
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(8000 + numbers[1], host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, lambda stream: stream.aclose(), [listener])
        done = await trio.run_process(
            line, env={**os.environ, "WEB_CONCURRENCY": "2"}, capture_stderr=True, check=False
        )
        nursery.cancel_scope.cancel()

    assert done.returncode == 78
    assert done.stderr.decode() == f"cluster: port {8000 + numbers[1]} is in use\n"
