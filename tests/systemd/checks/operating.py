"""An operator's work on a running machine: read logs, check the sandbox, reload, stop one."""

import re
from contextlib import AsyncExitStack

import msgspec
import trio

from tests.systemd.crowd import Crowd
from tests.systemd.reference import CHANNELS
from tests.systemd.site import (
    FIRST_OPERATOR_PORT,
    INSTANCES,
    PAIRS,
    TOML,
    Site,
    expect,
    instances_up,
    wait_until,
)
from tests.systemd.subscriber import Subscriber, request

ADDED_PAIR = "LTC-USD"
EXPOSURE = re.compile(r"Overall exposure level for \S+: ([0-9.]+)")
GONE_404 = 404


async def journal(site: Site) -> str:
    """An instance's lines are found by its unit and by its number, and each has its priority."""
    by_unit = (await site.journal("-u", "hedgehogd@2")).splitlines()
    expect(
        any('"serving"' in line for line in by_unit), "journalctl -u hedgehogd@2 has no `serving`"
    )
    lines = (await site.journal("HEDGEHOGD_INSTANCE=2", "-o", "json")).splitlines()
    rows = [msgspec.json.decode(line) for line in lines]
    units = {row["_SYSTEMD_UNIT"] for row in rows}
    expect(units == {"hedgehogd@2.service"}, f"HEDGEHOGD_INSTANCE=2 finds {units}")
    names = {row["SYSLOG_IDENTIFIER"] for row in rows}
    expect("hedgehogd@2" in names, f"the identifiers are {names}")
    for row in rows:
        message = str(row["MESSAGE"])
        if message.startswith("{"):
            level = {"info": "6", "warning": "4", "error": "3"}[
                msgspec.json.decode(message)["level"]
            ]
            expect(row["PRIORITY"] == level, f"priority {row['PRIORITY']} of {message}")
    return f"{len(by_unit)} lines of hedgehogd@2"


async def security(site: Site) -> str:
    """The daemon reads input of strangers, so its rights on the machine have to be few."""
    report = await site.run("systemd-analyze", "security", "--no-pager", "hedgehogd@1")
    found = EXPOSURE.search(report)
    if found is None:
        raise ValueError(f"no exposure in:\n{report}")
    site.exposure = float(found[1])
    return f"exposure {site.exposure}"


async def reload(site: Site) -> str:
    """Pairs change without a restart; a wrong file is reported and changes nothing."""
    before = await site.main_pids()
    site.write_configuration((*PAIRS, ADDED_PAIR))
    await site.run("systemctl", "reload", "hedgehogd@1")
    took = await wait_until(lambda: _holds(1, ADDED_PAIR), 5, f"{ADDED_PAIR} is not held")
    expect(not await _holds(2, ADDED_PAIR), f"instance 2 holds {ADDED_PAIR}, unrequested")

    site.machine.write(TOML, "[feed]\npears = []\n")
    await site.run("systemctl", "reload", "hedgehogd@1")
    await wait_until(lambda: _is_reported(site, "pears"), 5, "a wrong file causes no warning")
    warnings = await site.journal("-u", "hedgehogd@1", "-p", "warning")
    expect('"serving"' not in warnings, "journalctl -p warning shows lines of level info")
    expect(await _holds(1, ADDED_PAIR), "a wrong file changed something")

    site.write_configuration()
    await site.run("systemctl", "reload", "hedgehogd@1")
    expect(await site.main_pids() == before, "reload restarted something")
    return f"{ADDED_PAIR} held {took:.1f} s after it; a wrong file was reported and changed nothing"


async def _holds(number: int, pair: str) -> bool:
    _, body = await request("GET", "/api/v1/lines", port=FIRST_OPERATOR_PORT + number)
    return pair in msgspec.json.decode(body)["products"]


async def _is_reported(site: Site, word: str) -> bool:
    return word in await site.journal("-u", "hedgehogd@1", "-p", "warning")


async def one_stops(site: Site) -> str:
    """The other instances keep their sockets, for the daemon's user only; HAProxy avoids it."""
    subscriber = await _on_instance(2)
    async with subscriber, trio.open_nursery() as nursery:
        nursery.start_soon(subscriber.read_to_the_end)
        nursery.start_soon(site.run, "systemctl", "stop", "hedgehogd@2")
        left = await wait_until(lambda: _is_out(2), 5, "HAProxy does not mark it down")
        # Subscribers reconnect at once: not to the same instance, if HAProxy knows of the drain.
        expect(not subscriber.has_ended, "the farewell came before HAProxy knew of the drain")
    expect(not subscriber.farewell_missing(), f"no {subscriber.farewell_missing()}")
    found = (await site.run("ls", "/run/hedgehogd")).split()
    expected = [f"{n}.sock" for n in INSTANCES if n != 2] + ["log"]
    expect(found == expected, f"/run/hedgehogd has {found}")
    asking = ["curl", "-s", "--max-time", "5", "--unix-socket", "/run/hedgehogd/1.sock"]
    asking.append("http://hedgehogd/healthz")
    stranger = await site.machine.attempt("runuser", "-u", "nobody", "--", *asking)
    expect(stranger.returncode != 0, f"no process may connect: {stranger.stdout}")
    await site.run("runuser", "-u", "hedgehogd", "--", *asking)
    status, body = await request("GET", f"/api/v1/sessions/{subscriber.session}")
    expect(status == GONE_404, f"a stream of a stopped instance: {status} {body.decode()}")
    crowd = Crowd(site.reference, site.tally, 40)
    async with trio.open_nursery() as nursery:
        crowd.start_in(nursery)
        await crowd.wait_full()
        served = crowd.balance()
        nursery.cancel_scope.cancel()
    expect(served[2] == 0, f"the stopped instance serves {served[2]} streams")
    await site.run("systemctl", "start", "hedgehogd@2")
    await site.wait_all_up()
    return (
        f"out of HAProxy after {left:.1f} s, its farewell came later; files left {found}; "
        "a stranger was refused; its sessions are 404"
    )


async def _is_out(number: int) -> bool:
    return number not in await instances_up()


async def _on_instance(number: int) -> Subscriber:
    async with AsyncExitStack() as others:  # kept open, or HAProxy would choose the same instances
        for _ in range(40):
            subscriber = await Subscriber.open("ws", PAIRS, CHANNELS)
            if subscriber.instance == number:
                return subscriber
            await others.enter_async_context(subscriber)
    raise LookupError(f"instance {number} got none of 40 streams")
