"""``hedgehogd status``: for operators and health checks."""

import io
from contextlib import suppress
from functools import partial

import pytest
import trio

from hedgehogd import __version__
from hedgehogd.cli import run
from hedgehogd.commands.status import EXIT_NOT_READY, status
from tests.e2e.harness import free_port, quick, running

pytestmark = pytest.mark.e2e


async def _status(*ports: int | str) -> tuple[int, list[list[str]]]:
    out = io.StringIO()
    places = [port if isinstance(port, str) else f"127.0.0.1:{port}" for port in ports]
    code = await trio.to_thread.run_sync(partial(status, places, out))
    return code, [line.split() for line in out.getvalue().splitlines()]


async def test_every_instance_has_a_line(tmp_path) -> None:
    """The exit status is that of the asked instance."""
    settings = [
        quick(
            feed_where="demo",
            instance=number,
            serve_runtime_dir=str(tmp_path),
            serve_operator_bind=f"127.0.0.1:{free_port()}",
        )
        for number in (1, 2)
    ]
    (tmp_path / "3.sock").write_text("")
    operator_port = settings[0].operator_address[1]
    async with running(settings[0]) as first, running(settings[1]):
        code, rows = await _status(operator_port, first.port)
        assert code == 0
        assert rows[0][:3] == ["instance", "state", "subscribers"]
        assert [row[:3] for row in rows[1:]] == [
            ["1", "idle", "0"], ["2", "idle", "0"], ["3", "gone", "-"]
        ]  # fmt: skip
        assert rows[1][3:] == ["never", __version__]
        assert "is gone" in " ".join(rows[3])
        first.instance.is_draining = True
        code, rows = await _status(operator_port)

    assert (code, rows[1][1]) == (EXIT_NOT_READY, "draining")


def test_a_port_without_an_instance_is_not_ready(capsys) -> None:
    """In one line, and not as a traceback."""
    port = free_port()

    assert run(["status", "--port", str(port)]) == EXIT_NOT_READY
    out, err = capsys.readouterr()
    assert out.startswith(f"no hedgehogd answers at http://127.0.0.1:{port}: ")
    assert (out.count("\n"), err) == (1, "")


def test_an_instance_may_be_named_by_its_number(capsys) -> None:
    """Operators know numbers, not ports."""
    assert run(["status", "--instance", "56535"]) == EXIT_NOT_READY
    out = capsys.readouterr().out
    assert [line.split(": ")[0].rpartition(" ")[2] for line in out.splitlines()] == [
        "http://127.0.0.1:65535", "http://127.0.0.1:64535"
    ]  # fmt: skip


async def test_a_stream_port_reports_its_own_instance() -> None:
    """An instance that was started with --port has no operator listener."""
    async with running(quick(feed_where="demo", instance=4)) as daemon:
        code, rows = await _status(free_port(), daemon.port)
        assert (code, rows[1:]) == (0, [["4", "idle", "-", "-", "-"]])
        daemon.instance.is_draining = True
        code, rows = await _status(daemon.port)

    assert (code, rows[1][:2]) == (EXIT_NOT_READY, ["4", "draining"])
    assert " ".join(rows[1]).endswith("not ready: draining")


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::", "localhost"])
async def test_a_daemon_is_found_at_every_kind_of_address(bind: str) -> None:
    """A wildcard address is not one to connect to, and IPv6 needs brackets."""
    operators = f"[{bind}]" if ":" in bind else bind
    settings = quick(
        feed_where="demo", serve_bind=bind, serve_operator_bind=f"{operators}:{free_port()}"
    )
    async with running(settings):
        assert settings.operator_place is not None
        for place in (settings.stream_place, settings.operator_place):
            code, _ = await _status(place)
            assert code == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b'HTTP/1.1 200 OK\r\nContent-Length: 32\r\n\r\n{"instances":[{"instance":"\xff"}]} ',
    ],
)
async def test_another_program_at_the_port_is_not_ready(nursery, answer: bytes) -> None:
    """The port of an instance that has stopped may belong to another program."""

    async def respond(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async with stream:
                while await stream.receive_some() and answer:
                    await stream.send_all(answer)
                    if b"short" in answer or b"HTTP" not in answer:
                        return

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, respond, listeners)
    port = listeners[0].socket.getsockname()[1]
    code, (line,) = await _status(port)

    assert code == EXIT_NOT_READY
    assert line[:5] == ["no", "hedgehogd", "answers", "at", f"http://127.0.0.1:{port}:"]
    assert len(line) > 5
