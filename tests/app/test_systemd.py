"""systemd's notifications: what is sent, and that nothing of it can hurt."""

import os
import socket
import uuid

import pytest
import trio

from hedgehogd.app.daemon import make_instance
from hedgehogd.app.systemd import keep_notifying, notify, watchdog_interval_s
from hedgehogd.engine.health import FeedState
from hedgehogd.settings.load import Settings


@pytest.fixture(params=["file", "abstract"])
def systemd(request, tmp_path, monkeypatch):
    """A socket as systemd opens it, in both name spaces."""
    name = str(tmp_path / "notify") if request.param == "file" else f"@{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0") if name.startswith("@") else name)
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


def test_lines_are_one_datagram(systemd):
    """READY and its STATUS belong together."""
    notify("READY=1", "STATUS=up")

    assert systemd.recv(1000) == b"READY=1\nSTATUS=up"


def test_what_others_wrote_is_no_line_of_its_own(systemd):
    """An exchange's close reason ends up in STATUS; it must not say STOPPING for us."""
    notify("STATUS=closed: 4000 ha\nMAINPID=1\r\nSTOPPING=1")

    assert systemd.recv(1000) == b"STATUS=closed: 4000 ha MAINPID=1 STOPPING=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "@nobody-listens", "x" * 200])
def test_without_a_listener_nothing_happens(monkeypatch, address):
    """A dead systemd is no reason to stop serving."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


def test_without_systemd_nothing_happens(monkeypatch):
    """Most daemons are started by hand first."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        (None, None, None),
        ("30000000", None, 15.0),
        ("30000000", str(os.getpid()), 15.0),
        ("30000000", "1", None),  # meant for another process
        ("soon", None, None),
        ("-5", None, None),
        ("", None, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(monkeypatch, usec, pid, expected):
    """Half of the patience, as sd_watchdog_enabled(3) advises."""
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)

    assert watchdog_interval_s() == expected


@pytest.mark.parametrize(
    ("usec", "times", "watchdog"),
    [("4000000", [0, 2, 4], True), ("60000000", [0, 10, 20], True), (None, [0, 10, 20], False)],
)
async def test_the_loop_tells_that_it_turns(
    autojump_clock, nursery, systemd, monkeypatch, usec, times, watchdog
):
    """If it stopped, systemd would start us again."""
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if usec:
        monkeypatch.setenv("WATCHDOG_USEC", usec)
    else:
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    instance = make_instance(Settings())
    instance.health.become(FeedState.STALE, 0.0, "closed: 1006")
    nursery.start_soon(keep_notifying, instance)
    heard = []
    for at in times:
        await trio.sleep_until(at + 0.5)
        heard.append(systemd.recv(1000))
        with pytest.raises(BlockingIOError):
            systemd.recv(1000)

    status = b"STATUS=stale: closed: 1006; 0 subscribers"
    assert heard == [b"WATCHDOG=1\n" + status if watchdog else status] * 3
