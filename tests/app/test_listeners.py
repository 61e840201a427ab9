"""The listeners of an instance: its ports, and the unix socket for its peer instances."""

import errno
import os
import socket

import pytest
import trio

from hedgehogd.app.daemon import Daemon
from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.relay.sockets import socket_path
from tests.e2e.harness import (
    HttpStream,
    free_port,
    next_line,
    next_of,
    quick,
    rest,
    running,
    subscribe,
    websocket,
)

pytestmark = pytest.mark.e2e  # a real daemon each


async def test_a_port_in_use_is_the_operators_error() -> None:
    """The error has the address, in one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError) as caught:
            await Daemon(quick(serve_port=port)).run()

    assert f"cannot listen on 127.0.0.1 port {port}: {os.strerror(errno.EADDRINUSE)}" == str(
        caught.value
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_operator_port_in_use_is_named_with_its_flag(host: str) -> None:
    """The stream port is released again."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        settings = quick(serve_operator_bind=bind)
        with pytest.raises(OperatorError) as caught:
            await Daemon(settings).run()

    assert str(caught.value).startswith(f"cannot listen on {host} port {port}: ")
    assert "--operator-bind" in str(caught.value)
    assert caught.value.exit_status == EXIT_CONFIG
    with socket.create_server(("127.0.0.1", settings.port)):
        pass


async def _status_of(path: str, host: str, port: int) -> bytes:
    async with await trio.open_tcp_stream(host, port) as stream:
        return await _ask(path, stream)


async def _ask(path: str, stream: trio.abc.Stream) -> bytes:
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    answer = b""
    while data := await stream.receive_some():
        answer += data
    return answer.split(b" ")[1]


async def test_operators_are_served_on_their_listener_and_on_the_socket_alone(tmp_path) -> None:
    """A proxy in front of the stream port publishes every route of that port."""
    port = free_port()
    settings = quick(
        feed_where="demo",
        instance=2,
        serve_runtime_dir=str(tmp_path),
        serve_operator_bind=f"[::1]:{port}",
    )
    private = ["/metrics", "/api/v1/lines", "/api/v1/instances"]
    odd = ["//metrics", "/./metrics", "/%6detrics", "http://localhost/metrics", "/debug"]
    async with running(settings) as daemon:
        for path in [*private, *odd]:
            assert await _status_of(path, "127.0.0.1", daemon.port) == b"404", path
        for path in [*private, "/", "/readyz", "/api/v1/health"]:
            assert await _status_of(path, "::1", port) == b"200", path
            async with await trio.open_unix_socket(str(socket_path(tmp_path, 2))) as stream:
                assert await _ask(path, stream) == b"200", path


async def _host_status(host: str, port: int) -> int:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return int((await stream.receive_some()).split()[1])


@pytest.mark.parametrize(
    ("changes", "streams", "operators"),
    [
        ({}, 421, 421),
        ({"serve_bind": "localhost"}, 421, 421),
        ({"serve_hosts": ("relay.example",)}, 200, 200),
        ({"serve_hosts": ("*",)}, 200, 421),
        ({"serve_bind": "0.0.0.0"}, 200, 421),
    ],
)
async def test_loopback_listeners_serve_the_names_that_they_know(
    changes: dict, streams: int, operators: int
) -> None:
    """``*`` is meant only for a proxy, which publishes the stream port under any name."""
    port = free_port()
    settings = quick(feed_where="demo", serve_operator_bind=f"127.0.0.1:{port}", **changes)
    async with running(settings) as daemon:
        for host in ("localhost:1", "127.0.0.1", "[::1]:9"):
            assert await _host_status(host, daemon.port) == 200
            assert await _host_status(host, port) == 200
        assert await _host_status("Relay.Example:8443", daemon.port) == streams
        assert await _host_status("relay.example", port) == operators


async def test_foreign_pages_are_refused_on_every_listener() -> None:
    """A page of the stream port is foreign to the operator listener too."""
    port = free_port()
    allowed = "https://app.example"
    settings = quick(
        feed_where="demo", serve_operator_bind=f"127.0.0.1:{port}", serve_cors_origins=(allowed,)
    )
    async with running(settings) as daemon:
        for there, other in ((daemon.port, port), (port, daemon.port)):
            own = f"localhost:{there}"
            for origin, due in (
                (f"http://{own}", 200),
                (allowed, 200),
                ("http://evil.example", 403),
                (f"http://localhost:{other}", 403),
                ("null", 403),
            ):
                head = f"localhost:{there}\r\nOrigin: {origin}"
                assert await _host_status(head, there) == due, origin


async def test_the_operator_listener_serves_streams_and_closes_in_a_drain() -> None:
    """A page for operators needs REST and streams on one port."""
    port = free_port()
    settings = quick(feed_where="demo", serve_operator_bind=f"127.0.0.1:{port}")
    async with running(settings) as daemon, websocket(port, "/ws") as client:
        await client.send_message(subscribe(["BTC-USD"], ["ticker"]))
        await next_of(client, "ticker")
        daemon.stop.set()
        await next_of(client, "closing")
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", port)


async def test_a_number_in_use_is_the_operators_error_and_frees_the_port(tmp_path) -> None:
    """Two instances with one number would answer for each other's streams."""
    mine = quick(feed_where="demo", instance=5, serve_runtime_dir=str(tmp_path))
    async with running(mine):
        late = quick(feed_where="demo", instance=5, serve_runtime_dir=str(tmp_path))
        with pytest.raises(OperatorError, match="instance 5 runs already"):
            await Daemon(late).run()
        with socket.create_server(("127.0.0.1", late.port)):
            pass


async def test_streams_are_controlled_from_any_instance_until_they_end(tmp_path) -> None:
    """A balancer may send a command anywhere, also while the stream's owner drains."""

    def one(number: int):
        return quick(
            feed_where="demo",
            instance=number,
            serve_runtime_dir=str(tmp_path),
            serve_operator_bind=f"127.0.0.1:{free_port()}",
            drain_notice_s=0.3,
        )

    three = one(3)
    operator_port = three.operator_address[1]
    async with running(three) as other:
        async with running(one(2)) as owner:
            stream = await HttpStream.open(owner.port, "/api/v1/stream", Accept="*/*")
            session = stream.headers["hedgehog-session"]
            path = f"/api/v1/subscribe/BTC-USD?session={session}"
            started = await rest(other.port, "POST", path + "&channels=ticker")
            assert (await rest(owner.port, "GET", f"/api/v1/sessions/{session}"))[0] == 200
            assert started[1]["channels"][0]["product_ids"] == ["BTC-USD"]
            assert b'"type":"ticker"' in await next_line(stream)
            instances = (await rest(operator_port, "GET", "/api/v1/instances"))[1]["instances"]
            assert [(row["instance"], row["subscribers"]) for row in instances] == [(2, 1), (3, 0)]

            owner.stop.set()
            await trio.sleep(0.1)
            stopped = await rest(other.port, "DELETE", path)
            assert stopped == (200, {"session": session, "channels": []})
            await stream.aclose()
        gone = await rest(other.port, "DELETE", path)
        assert (gone[0], gone[1]["error"]["code"]) == (404, "unknown_session")
        assert not socket_path(tmp_path, 2).exists()


async def test_a_request_of_a_peer_instance_is_not_forwarded(tmp_path) -> None:
    """Otherwise two instances could forward a request to each other for ever."""
    async with running(quick(feed_where="demo", instance=2, serve_runtime_dir=str(tmp_path))):
        ask = b"GET /api/v1/sessions/3.key HTTP/1.1\r\nHost: x\r\n\r\n"
        async with await trio.open_unix_socket(str(socket_path(tmp_path, 2))) as stream:
            await stream.send_all(ask)
            answer = b""
            while data := await stream.receive_some():
                answer += data

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"it may have ended" in answer


async def test_only_a_trusted_proxy_may_state_an_address(tmp_path) -> None:
    """A client that connects directly could send any address."""
    for trusted, address in (("127.0.0.1",), "203.0.113.9"), ((), "127.0.0.1"):
        async with running(quick(feed_where="demo", serve_trusted_proxies=trusted)) as daemon:
            claim = {"X_Forwarded_For": "6.6.6.6, 203.0.113.9"}
            stream = await HttpStream.open(daemon.port, "/api/v1/stream", Accept="*/*", **claim)
            path = f"/api/v1/sessions/{stream.headers['hedgehog-session']}"
            assert (await rest(daemon.port, "GET", path))[1]["address"] == address
            await stream.aclose()
