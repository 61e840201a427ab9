"""Instances that hang, die, or cannot start: no other is affected, and the operator sees why."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from tests.systemd.crowd import Probe
from tests.systemd.site import INSTANCES, TOML, Site, expect, instances_up, wait_until

HUNG, KILLED, SPARE = 3, 4, 5
WATCHDOG_S = 20.0
READY_AGAIN_S = 5.0
EXIT_CONFIG = 78
PROBES = 8  # a client that reaches a hung instance before HAProxy knows waits until it is killed
NO_RESTART_S = 2.5  # longer than RestartSec


@asynccontextmanager
async def probing(site: Site) -> AsyncIterator[Probe]:
    """Open streams through HAProxy during the block."""
    probe = Probe(site.reference, site.tally)
    async with trio.open_nursery() as nursery:
        for _ in range(PROBES):
            nursery.start_soon(probe.run)
        yield probe
        nursery.cancel_scope.cancel()


def _counts(site: Site) -> tuple[int, int, int]:
    return site.tally.refused, site.tally.five_hundreds, site.tally.failed


async def watchdog(site: Site) -> str:
    """HAProxy avoids an instance with a hung loop, and systemd restarts it."""
    counts, before = _counts(site), await site.main_pids()
    async with probing(site) as probe:
        await trio.sleep(1)
        await site.run("systemctl", "kill", "-s", "STOP", f"hedgehogd@{HUNG}")
        began = trio.current_time()
        left = await wait_until(lambda: _is_out(HUNG), 5, "HAProxy does not mark it down")

        async def restarted() -> bool:
            pid = (await site.main_pids())[HUNG]
            return pid not in (0, before[HUNG])

        took = await wait_until(restarted, WATCHDOG_S, "the watchdog does not act")
        took += left
        await site.wait_ready(HUNG)
        back = trio.current_time() - began
        await trio.sleep(1)
    expect(_counts(site) == counts, f"new streams failed: {site.tally.details}")
    words = await site.run("journalctl", "--no-pager", "-u", f"hedgehogd@{HUNG}", "-n", "100")
    expect("Watchdog timeout" in words, "systemd does not name the watchdog")
    await site.wait_all_up()
    return (
        f"out of HAProxy after {left:.1f} s, restarted after {took:.1f} s, ready after {back:.1f}; "
        f"{probe.opened.total()} streams opened meanwhile, the slowest in {probe.longest_s:.1f} s"
    )


async def _is_out(number: int) -> bool:
    return number not in await instances_up()


async def crash(site: Site) -> str:
    """Another instance serves clients while one is dead."""
    counts, before = _counts(site), await site.main_pids()
    async with probing(site) as probe:
        await trio.sleep(1)
        await site.run("systemctl", "kill", "-s", "KILL", f"hedgehogd@{KILLED}")
        took = await site.wait_ready(KILLED, READY_AGAIN_S)
        await trio.sleep(1)
    expect(_counts(site) == counts, f"new streams failed: {site.tally.details}")
    after = await site.main_pids()
    changed = [number for number in INSTANCES if after[number] != before[number]]
    expect(changed == [KILLED], f"other processes than before: {changed}")
    await site.wait_all_up()
    return (
        f"ready again after {took:.1f} s; {probe.opened.total()} streams opened meanwhile, "
        f"the slowest in {probe.longest_s:.1f} s"
    )


async def _cannot_start(site: Site, words: Sequence[str]) -> str:
    """Start the spare instance; it must fail for good, and its status must have ``words``."""
    unit = f"hedgehogd@{SPARE}"
    await site.run("systemctl", "reset-failed")
    done = await site.machine.attempt("systemctl", "start", unit)
    expect(done.returncode != 0, f"{unit} started")
    await trio.sleep(NO_RESTART_S)
    state = await site.property_of(unit, "ActiveState")
    expect(state == "failed", f"{unit} is {state}")
    status = await site.property_of(unit, "ExecMainStatus")
    expect(status == str(EXIT_CONFIG), f"{unit} ended with {status}")
    restarts = await site.property_of(unit, "NRestarts")
    expect(restarts == "0", f"{unit} was started {restarts} times more")
    output = (await site.machine.attempt("systemctl", "status", "-l", "--no-pager", unit)).stdout
    for word in words:
        expect(word in output, f"systemctl status does not show {word!r}:\n{output}")
    await site.run("systemctl", "reset-failed", unit)
    return status


async def port_in_use(site: Site) -> str:
    """The second owner of a port reports it, once."""
    squatter = ("systemd-run", "--unit=squatter", "hedgehogd", "simulate", "--port", "8005")
    await site.run(*squatter)

    async def listens() -> bool:
        return "simulating" in await site.journal("-u", "squatter")

    await wait_until(listens, 10, "the squatter does not start")
    status = await _cannot_start(site, ["8005", "Address already in use"])
    await site.run("systemctl", "stop", "squatter")
    return f"exit {status}, reported, not restarted"


async def wrong_file(site: Site) -> str:
    """A mistake in the file is reported with its place, and causes no restarts."""
    site.machine.write(TOML, "[feed\n")
    try:
        status = await _cannot_start(site, [TOML])
    finally:
        site.write_configuration()
    return f"exit {status}, reported, not restarted"


async def runtime_directory(site: Site) -> str:
    """Missing, read-only and full are reported as such, and the other instances stay up."""
    folder = "/etc/systemd/system/hedgehogd@5.service.d"
    cases = {
        "missing": "InaccessiblePaths=/run/hedgehogd",
        "read-only": "ReadWritePaths=\nReadOnlyPaths=/run/hedgehogd",
        "full": "ReadWritePaths=\nTemporaryFileSystem=/run/hedgehogd:size=4k,nr_inodes=1,mode=0777",
    }
    before = await site.main_pids()
    reports = []
    for name, lines in cases.items():
        site.machine.write(f"{folder}/broken.conf", f"[Service]\n{lines}\n")
        await site.run("systemctl", "daemon-reload")
        reports.append(f"{name}: exit {await _cannot_start(site, ['/run/hedgehogd'])}")
    site.machine.path(f"{folder}/broken.conf").unlink()
    await site.run("systemctl", "daemon-reload")
    expect(await site.main_pids() == before, "other instances were restarted")
    return ", ".join(reports)
