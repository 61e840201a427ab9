"""systemd's notification protocol: READY, STATUS, STOPPING and the watchdog.

A notification is a datagram to the socket that ``NOTIFY_SOCKET`` names. Without that variable
(no systemd) none is sent. Source: sd_notify(3).
"""

import os
import socket

import structlog
import trio

from hedgehogd.fanout.instance import Instance

log = structlog.get_logger("notify")


def notify(*lines: str) -> None:
    """Send ``lines``, for example ``READY=1``, to systemd; failures are logged, never raised."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(map(_one_line, lines)).encode(), address)
    except OSError as error:
        log.warning("cannot notify systemd", reason=str(error))


def _one_line(text: str) -> str:
    """Join the lines of ``text``: a peer's close reason must not add a line to the datagram."""
    return " ".join(text.splitlines())


def watchdog_interval_s() -> float | None:
    """Return the interval of watchdog notifications, in seconds; None without a watchdog.

    It is half of systemd's timeout, as sd_watchdog_enabled(3) advises.
    """
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2_000_000


async def keep_notifying(instance: Instance) -> None:
    """Send systemd the state in one line, and ``WATCHDOG=1`` if it has a watchdog, for ever.

    The interval is ten seconds, or shorter if the watchdog needs it.
    """
    interval_s = watchdog_interval_s()
    while True:
        _, reason = instance.readiness()
        status = f"STATUS={reason}; {len(instance.sessions)} subscribers"
        notify(*(("WATCHDOG=1", status) if interval_s else (status,)))
        await trio.sleep(min(interval_s or 10.0, 10.0))
