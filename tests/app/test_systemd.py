"""systemd's notifications: their content, and that a failure does no harm."""

import os
import socket
import uuid

import pytest
import trio

from hedgehogd.app.daemon import make_instance
from hedgehogd.app.systemd import keep_notifying, notify, watchdog_interval_s
from hedgehogd.engine.health import FeedState
from hedgehogd.settings.keys import Settings


@pytest.fixture(params=["file", "abstract"])
def systemd(request, tmp_path, monkeypatch):
    """A socket as systemd opens it: a path, or a name in the abstract namespace."""
    name = str(tmp_path / "notify") if request.param == "file" else f"@{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0") if name.startswith("@") else name)
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


def test_lines_are_one_datagram(systemd):
    """READY and its STATUS are sent together."""
    notify("READY=1", "STATUS=up")

    assert systemd.recv(1000) == b"READY=1\nSTATUS=up"


def test_a_peers_text_adds_no_line(systemd):
    """STATUS may have an exchange's close reason, which must not add a STOPPING line."""
    notify("STATUS=closed: 4000 ha\nMAINPID=1\r\nSTOPPING=1")

    assert systemd.recv(1000) == b"STATUS=closed: 4000 ha MAINPID=1 STOPPING=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "@nobody-listens", "x" * 200])
def test_a_missing_socket_is_not_an_error(monkeypatch, address):
    """A failed notification is no reason to stop serving."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


def test_without_systemd_nothing_happens(monkeypatch):
    """A daemon started by hand has no ``NOTIFY_SOCKET``."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        (None, None, None),
        ("30000000", None, 15.0),
        ("30000000", "this process", 15.0),
        ("30000000", "1", None),  # meant for another process
        ("soon", None, None),
        ("-5", None, None),
        ("", None, None),
    ],
)
def test_the_watchdog_is_notified_twice_in_its_timeout(monkeypatch, usec, pid, expected):
    """The interval is half the timeout, as sd_watchdog_enabled(3) advises."""
    # Not in the table: the id would be in the test's name, and different in each test process.
    pid = str(os.getpid()) if pid == "this process" else pid
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
async def test_a_running_loop_notifies_the_watchdog(
    autojump_clock, nursery, systemd, monkeypatch, usec, times, watchdog
):
    """If the loop stopped, systemd would restart the daemon."""
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if usec:
        monkeypatch.setenv("WATCHDOG_USEC", usec)
    else:
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    instance = make_instance(Settings())
    instance.health.become(FeedState.STALE, "closed: 1006")
    nursery.start_soon(keep_notifying, instance)
    received = []
    for at in times:
        await trio.sleep_until(at + 0.5)
        received.append(systemd.recv(1000))
        with pytest.raises(BlockingIOError):
            systemd.recv(1000)

    status = b"STATUS=stale: closed: 1006; 0 subscribers"
    assert received == [b"WATCHDOG=1\n" + status if watchdog else status] * 3
