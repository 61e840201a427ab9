"""A new version under load: no stream is refused, interrupted, or loses a byte."""

import re

import trio

from tests.systemd.crowd import Crowd
from tests.systemd.reference import CHANNELS
from tests.systemd.site import (
    FIRST_OPERATOR_PORT,
    FIRST_PORT,
    INSTANCES,
    PAIRS,
    Site,
    expect,
)
from tests.systemd.subscriber import KINDS, Subscriber, request

SUBSCRIBERS = 400
SETTLE_S = 3.0
ROLLING_S = 150.0
SPREAD_LEAST_S = 2.0  # of drain_spread_s, 5
SCRIPT = "hedgehogd-rolling-restart"
PROGRAM = "/usr/lib/hedgehogd"
BEREFT = 1
NEXT_PACKAGE = "/root/hedgehogd-next.deb"


async def _build_next_package(site: Site) -> str:
    """Build the package with a higher version; return that version."""
    await site.run("dpkg-deb", "-R", "/root/hedgehogd.deb", "/root/next")
    control = site.machine.path("/root/next/DEBIAN/control")
    text = re.sub(r"(?m)^Version: (.*)$", r"Version: \1+next1", control.read_text())
    control.write_text(text)
    await site.run("dpkg-deb", "-Znone", "--root-owner-group", "-b", "/root/next", NEXT_PACKAGE)
    return text.partition("Version: ")[2].split()[0]


async def rolling_upgrade(site: Site) -> str:
    """Install over running instances, then restart one after the other under 400 subscribers."""
    version = await _build_next_package(site)
    crowd = Crowd(site.reference, site.tally, SUBSCRIBERS)
    async with trio.open_nursery() as nursery:
        crowd.start_in(nursery)
        await crowd.wait_full()
        await trio.sleep(SETTLE_S)
        before = await site.main_pids()
        streams = len(crowd.records)
        await site.run("dpkg", "-i", NEXT_PACKAGE)
        installed = await site.run("dpkg-query", "-W", "-f", "${Version}", "hedgehogd")
        expect(installed == version, f"{installed} is installed, not {version}")
        await trio.sleep(SETTLE_S)
        expect(await site.main_pids() == before, "the upgrade restarted something")
        expect(len(crowd.records) == streams, "the upgrade ended streams")
        began = trio.current_time()
        await site.run(SCRIPT, timeout_s=ROLLING_S)
        took = trio.current_time() - began
        after = await site.main_pids()
        await crowd.wait_full()
        await trio.sleep(SETTLE_S)
        nursery.cancel_scope.cancel()
    same = [number for number in INSTANCES if after[number] == before[number]]
    expect(not same, f"not restarted: {same}")
    count, faults = await crowd.verify()
    site.tally.failed += len(faults)
    expect(not faults, f"{len(faults)} streams are no exact section:\n" + "\n".join(faults[:5]))
    return (
        f"upgrade to {version} restarted nothing; restarted in {took:.0f} s; {_farewells(crowd)}; "
        f"{len(crowd.records)} streams, {count} messages exact"
    )


def _farewells(crowd: Crowd) -> str:
    """Return the spread of each instance's farewells; it must be wide enough."""
    spreads, total = [], 0
    for number, times in sorted(crowd.farewells.items()):
        middle = sorted(times)[len(times) // 20 : -len(times) // 20 or None]
        spread = middle[-1] - middle[0]
        expect(
            spread >= SPREAD_LEAST_S, f"{len(times)} farewells of {number} within {spread:.1f} s"
        )
        spreads.append(f"{spread:.1f}")
        total += len(times)
    return f"{total} farewells, 90 % of each instance's within {', '.join(spreads)} s"


async def without_its_files(site: Site) -> str:
    """Between upgrade and restart a process runs without its files: it must miss none."""
    unit, port = f"hedgehogd@{BEREFT}", FIRST_PORT + BEREFT
    await site.run("systemctl", "restart", unit)
    await site.wait_ready(BEREFT)
    await site.run("mv", PROGRAM, f"{PROGRAM}.away")
    try:
        async with trio.open_nursery() as nursery:
            subscribers = [await Subscriber.open(kind, PAIRS, CHANNELS, port) for kind in KINDS]
            for subscriber in subscribers:
                nursery.start_soon(subscriber.read_to_the_end)
            asked = await _ask_everything(subscribers[0].session, port)
            await site.run("systemctl", "reload", unit)
            await trio.sleep(1)
            await site.run("systemctl", "stop", unit)
    finally:
        await site.run("mv", f"{PROGRAM}.away", PROGRAM)
    for subscriber in subscribers:
        missing = subscriber.farewell_missing()
        expect(not missing, f"{subscriber.kind} ended without {missing}")
    status = await site.property_of(unit, "ExecMainStatus")
    expect(status == "0", f"it left with {status}")
    await site.run("systemctl", "start", unit)
    await site.wait_all_up()
    return f"{asked} routes answered, reload and drain succeeded"


async def _ask_everything(session: str, port: int) -> int:
    """Request all routes that import modules late; return their number."""
    commands = [
        ("POST", f"/api/v1/subscribe/SOL-USD?session={session}", 200),
        ("DELETE", f"/api/v1/subscribe/SOL-USD?session={session}", 200),
        ("POST", "/api/v1/subscribe/SOL-USD?session=9.nobody", 404),
    ]
    paths = [
        "/",
        "/healthz",
        "/readyz",
        "/api/v1/health",
        "/products",
        "/products/BTC-USD/book",
        "/time",
    ]
    paths += ["/api/v1/openapi.json"]
    operator_paths = ["/metrics", "/api/v1/lines", "/api/v1/instances"]
    commands += [("GET", path, 200) for path in paths]
    commands += [("GET", path, 404) for path in operator_paths]
    for method, path, due in commands:
        status, body = await request(method, path, port=port)
        expect(status == due, f"{method} {path}: {status} {body[:200]!r}")
    operator_port = port - FIRST_PORT + FIRST_OPERATOR_PORT
    for path in paths + operator_paths:
        status, body = await request("GET", path, port=operator_port)
        expect(status == 200, f"GET {path} on the operator listener: {status} {body[:200]!r}")
    return len(commands) + len(paths + operator_paths)
