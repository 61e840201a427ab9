"""All instances at once: stopped, started, and removed. The last check leaves no site."""

import trio

from tests.systemd.crowd import Crowd
from tests.systemd.site import INSTANCES, Site, expect, wait_until

SUBSCRIBERS = 40
STOP_S = 30.0  # TimeoutStopSec


async def whole_target(site: Site) -> str:
    """`systemctl stop hedgehogd.target` drains all at once, in time; `start` starts them again."""
    crowd = Crowd(site.reference, site.tally, SUBSCRIBERS)
    unannounced = site.tally.unannounced
    async with trio.open_nursery() as nursery:
        crowd.start_in(nursery, reconnects=False)
        await crowd.wait_full()
        # systemctl waits only for the target, which stops before its instances.
        await site.run("systemctl", "stop", "hedgehogd.target")

        async def stopped() -> bool:
            states = [await _state(site, number) for number in INSTANCES]
            return all(state[0] == "inactive" for state in states)

        took = await wait_until(stopped, STOP_S, "the target's instances do not stop")
    expect(site.tally.unannounced == unannounced, "streams ended without their farewell")
    for number in INSTANCES:
        state = await _state(site, number)
        expect(state == ("inactive", "success", "0"), f"instance {number} ended as {state}")
    await site.run("systemctl", "start", "hedgehogd.target")
    await site.wait_all_up()
    return f"drained {SUBSCRIBERS} in {took:.1f} s, exit 0 each; started again"


async def _state(site: Site, number: int) -> tuple[str, ...]:
    unit = f"hedgehogd@{number}"
    names = ("ActiveState", "Result", "ExecMainStatus")
    return tuple([await site.property_of(unit, name) for name in names])


async def purge(site: Site) -> str:
    """No process or file of the package remains."""
    site.reference.may_end = True
    await site.run("systemctl", "stop", "simulator")
    await site.run("dpkg", "--purge", "hedgehogd")
    running = (await site.machine.attempt("pgrep", "-a", "hedgehogd")).stdout
    expect(not running, f"still running:\n{running}")
    places = ("/etc", "/usr", "/var/lib", "/run/hedgehogd")
    found = await site.machine.attempt("find", *places, "-name", "*hedgehogd*")
    left = [line for line in found.stdout.splitlines() if line.startswith("/")]
    expect(not left, f"still there: {left}")
    state = (await site.machine.attempt("systemctl", "is-system-running")).stdout.strip()
    expect(state == "running", f"the machine is {state}")
    return "nothing left"
