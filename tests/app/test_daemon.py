"""The whole daemon: its start, errors at the start, reload and drain."""

import gc
import os
import resource
import signal
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import structlog
import trio
from trio_websocket import ConnectionClosed

from hedgehogd.app import daemon as daemon_module
from hedgehogd.app.daemon import Daemon, raise_file_limit, serve, watch_signals
from hedgehogd.domain.errors import OperatorError
from hedgehogd.settings.keys import Settings
from hedgehogd.simulator import Simulation
from tests.e2e.harness import (
    HttpStream,
    exchange,
    free_port,
    next_of,
    only_error,
    quick,
    rest,
    running,
    subscribe,
    websocket,
)

pytestmark = pytest.mark.e2e  # most of these boot a real daemon


def test_a_machine_with_too_few_open_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes at the start, with the numbers, and not at 3 a.m. as EMFILE."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))

    with pytest.raises(OperatorError, match=r"4096 open files are allowed, 6500 are needed"):
        raise_file_limit(5000)


def test_the_soft_limit_of_open_files_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's soft limit of 1024 would refuse the thousandth subscriber."""
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 20_000))
    monkeypatch.setattr(resource, "setrlimit", lambda *a: asked.append(a))
    raise_file_limit(10_000)

    assert asked == [(resource.RLIMIT_NOFILE, (20_000, 20_000))]


@pytest.mark.parametrize(
    ("bind", "host"), [("::1", "[::1]"), ("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0")]
)
async def test_the_url_in_the_log_can_be_opened(bind: str, host: str) -> None:
    """An IPv6 address needs brackets: `http://::1:8001` is not a URL."""
    with structlog.testing.capture_logs() as lines:
        async with running(quick(feed_where="demo", serve_bind=bind)) as daemon:
            port = daemon.port

    assert [line["url"] for line in lines if line["event"] == "serving"] == [
        f"http://{host}:{port}"
    ]


@pytest.mark.parametrize("streams", [0, 2])
async def test_a_drain_logs_the_peers_that_it_waits_for(streams: int) -> None:
    """Otherwise a drain after Ctrl-C looks like a hang at a terminal."""
    with structlog.testing.capture_logs() as lines:
        async with running(quick(feed_where="demo")) as daemon, AsyncExitStack() as stack:
            opened = [websocket(daemon.port, "/ws") for _ in range(streams)]
            clients = [await stack.enter_async_context(each) for each in opened]
            daemon.stop.set()
            for client in clients:
                with pytest.raises(ConnectionClosed):
                    while True:
                        await client.get_message()

    (line,) = [line for line in lines if line["event"] == "draining"]
    assert line["subscribers"] == streams
    assert ("hint" in line) is (streams > 0)
    if streams:
        assert line["waits_for"].startswith("2 subscribers and ")
        assert line["at_most_s"] == 5.0
        assert "second Ctrl-C" in line["hint"]


async def test_a_lost_feed_makes_the_instance_not_ready_until_it_is_back() -> None:
    """A load balancer avoids an instance without data; /ws subscribers get a notice."""
    port = free_port()
    settings = quick(feed_where=f"ws://127.0.0.1:{port}", feed_pairs=("BTC-USD",))
    async with running(settings) as daemon, websocket(daemon.port, "/ws") as client:
        async with exchange(Simulation(port=port)):
            await client.send_message(subscribe(["BTC-USD"], ["heartbeat"]))
            await next_of(client, "heartbeat")
            up = await rest(daemon.port, "GET", "/readyz")
        lost = await next_of(client, "stale")
        down = await rest(daemon.port, "GET", "/readyz")
        async with exchange(Simulation(port=port)):
            back = await next_of(client, "stale")

    assert [up[0], down[0]] == [200, 503]
    assert down[1]["reason"].startswith("stale: ")
    assert [lost["stale"], back["stale"]] == [True, False]


async def test_a_drain_notifies_all_streams_and_accepts_no_new_ones() -> None:
    """Each kind of stream ends with its own farewell."""
    settings = quick(feed_where="demo", drain_notice_s=0.2)
    daemon = Daemon(settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(daemon.run)
        async with websocket(daemon.port, "/ws") as client:
            sse = await HttpStream.open(
                daemon.port, "/api/v1/subscribe/BTC-USD", Accept="text/event-stream"
            )
            daemon.stop.set()
            await trio.sleep(0.05)
            noticed = [await rest(daemon.port, "GET", path) for path in ("/healthz", "/readyz")]
            closing = await next_of(client, "closing")
            while await sse.read_until(b"\n\n") is not None:
                pass
            await sse.aclose()
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", daemon.port)

    assert [status for status, _ in noticed] == [503, 503]
    assert closing["reason"] == "restart"
    assert sse.ended_cleanly
    assert daemon.instance.counts.ends["restart"] == 2


async def test_a_drain_ends_at_its_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A control request that never ends is closed after drain_timeout_s."""
    settings = quick(feed_where="demo", drain_timeout_s=0.2)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            daemon = Daemon(settings)
            await nursery.start(daemon.run)
            visitor = await trio.open_tcp_stream("127.0.0.1", daemon.port)
            await visitor.send_all(b"GET / HT")
            await trio.sleep(0.05)
            daemon.stop.set()
    await visitor.aclose()

    assert daemon.instance.counts.visitors == 0


async def test_sigterm_drains_and_a_second_one_later_exits_at_once(
    mock_clock: trio.testing.MockClock,
) -> None:
    """One Ctrl-C that arrives twice counts once; a later one ends the daemon at once."""
    daemon = Daemon(quick())
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_signals, daemon, quick)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            await daemon.stop.wait()
            os.kill(os.getpid(), signal.SIGINT)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(daemon_module.limits.SECOND_SIGNAL_S + 0.1)
            os.kill(os.getpid(), signal.SIGTERM)
            await trio.sleep_forever()

    assert isinstance(only_error(caught.value), KeyboardInterrupt)


async def test_sighup_reloads_and_a_wrong_configuration_changes_nothing() -> None:
    """A typing mistake must not end the streams of ten thousand subscribers."""
    begin = quick(feed_where="demo", feed_pairs=("BTC-USD",))
    answers = [OperatorError("pairs: no"), replace(begin, feed_pairs=("BTC-USD", "ETH-USD"))]

    def read_again() -> Settings:
        answer = answers.pop(0)
        if isinstance(answer, OperatorError):
            raise answer
        return answer

    async with running(begin) as daemon, trio.open_nursery() as nursery:
        nursery.start_soon(watch_signals, daemon, read_again)
        await trio.testing.wait_all_tasks_blocked()
        held = daemon.instance.pipe.demand.holds
        for has_it in (False, True):
            os.kill(os.getpid(), signal.SIGHUP)
            left = len(answers) - 1
            with trio.fail_after(5):
                while len(answers) > left:
                    await trio.sleep(0.01)
            assert [held("BTC-USD", ""), held("ETH-USD", "")] == [True, has_it]
        async with websocket(daemon.port, "/ws") as client:
            await client.send_message(subscribe(["ETH-USD"], ["ticker"]))
            assert (await next_of(client, "ticker"))["product_id"] == "ETH-USD"
        nursery.cancel_scope.cancel()


async def test_a_reload_while_it_starts_is_done_when_it_serves() -> None:
    """A signal in the milliseconds between open port and first answer is not lost."""
    settings = quick(feed_where="demo")
    daemon = Daemon(settings)
    daemon.reload(replace(settings, feed_pairs=("ETH-USD",)))
    async with trio.open_nursery() as nursery:
        await nursery.start(daemon.run)
        await trio.testing.wait_all_tasks_blocked()
        assert daemon.instance.pipe.demand.holds("ETH-USD", "")
        daemon.stop.set()


async def test_a_wrong_reload_while_it_starts_changes_nothing() -> None:
    """Exit status 78 would be final: systemd does not restart the daemon after it."""
    settings = quick(feed_where="demo")
    daemon = Daemon(settings)
    daemon.reload(replace(settings, limits_subscribers_max=10**9, feed_pairs=("ETH-USD",)))
    async with trio.open_nursery() as nursery:
        await nursery.start(daemon.run)
        await trio.testing.wait_all_tasks_blocked()
        assert not daemon.instance.pipe.demand.holds("ETH-USD", "")
        daemon.stop.set()


async def test_serve_ends_when_the_drain_is_over() -> None:
    """``serve`` runs a daemon with the cycle collector configured, until the drain is over."""
    before = gc.get_threshold()
    try:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, quick(feed_where="demo"), quick)
                while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                    await trio.sleep(0.01)  # without a handler the signal would end this process
                os.kill(os.getpid(), signal.SIGTERM)
        assert daemon_module.limits.GC_NEW_OBJECTS_MAX == gc.get_threshold()[0]
        assert gc.get_freeze_count()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
