"""From a minimal Debian to four instances behind HAProxy, by the steps of OPERATIONS.md."""

import resource
from pathlib import Path

import msgspec
import trio

from tests.systemd.crowd import Crowd
from tests.systemd.site import INSTANCES, Site, expect, wait_until

BALANCED_STREAMS = 400
FEWEST, MOST = 60, 140
FILES_OF_HAPROXY = 100_000  # two per connection
PACKAGE_INSIDE = "/root/hedgehogd.deb"
RUN_LOCK = Path(__file__).parents[3] / "scripts/locks/run.txt"
SIMULATOR_UNIT = Path(__file__).parents[1] / "simulator.service"


async def bare_install(site: Site) -> str:
    """The package alone must suffice: `dpkg -i` and `systemctl start hedgehogd@1`."""
    site.machine.path(PACKAGE_INSIDE).write_bytes(site.package.read_bytes())
    await site.run("dpkg", "-i", PACKAGE_INSIDE)
    _everything_is_listed(site)
    began = trio.current_time()
    await site.run("systemctl", "start", "hedgehogd@1")
    took = trio.current_time() - began
    state = (await site.run("systemctl", "is-active", "hedgehogd@1")).strip()
    expect(state == "active", f"hedgehogd@1 is {state}")
    # The daemon sends it separately, just after READY.
    await wait_until(lambda: _tells_status(site), 5, "systemctl status has no Status line")
    status_text = await site.property_of("hedgehogd@1", "StatusText")
    await site.run("systemctl", "stop", "hedgehogd@1")
    return f"ready {took:.1f} s after the start; Status: {status_text}"


def _everything_is_listed(site: Site) -> None:
    """The package contains its bill of materials and the licence text of each part."""
    documents = site.machine.path("/usr/share/doc/hedgehogd")
    bill = msgspec.json.decode((documents / "hedgehogd.cdx.json").read_bytes())
    texts = (documents / "THIRD-PARTY-LICENSES").read_text()
    listed = {
        part["purl"].split("@")[0].removeprefix("pkg:pypi/"): part for part in bill["components"]
    }
    pins = [row for row in RUN_LOCK.read_text().splitlines() if "==" in row and "win32" not in row]
    for pin in pins:
        expect(pin.split("==")[0] in listed, f"the bill of materials has no {pin}")
    for part in listed.values():
        named = f"\n{part['name']} {part['version']}: "
        expect(named in texts, f"THIRD-PARTY-LICENSES has no {part['name']}")


async def _tells_status(site: Site) -> bool:
    status = await site.run("systemctl", "status", "hedgehogd@1")
    return any(line.strip().startswith("Status:") for line in status.splitlines())


async def four_instances(site: Site) -> str:
    """One market, four instances that read it, HAProxy in front: the site of all later checks."""
    site.machine.write("/etc/systemd/system/simulator.service", SIMULATOR_UNIT.read_text())
    site.write_configuration()
    await site.run("systemctl", "daemon-reload")
    await site.run("systemctl", "start", "simulator")
    await site.run("systemctl", "enable", *(f"hedgehogd@{number}" for number in INSTANCES))
    await site.run("systemctl", "restart", "hedgehogd.target")
    text = await site.run("hedgehogd", "haproxy-config", "--instances", "1-4")
    site.machine.write("/etc/haproxy/haproxy.cfg", _with_our_limits(text))
    await site.run("haproxy", "-c", "-f", "/etc/haproxy/haproxy.cfg")
    await site.run("systemctl", "restart", "haproxy")
    await site.wait_all_up()
    state = await site.machine.attempt("systemctl", "is-system-running")
    expect(state.stdout.strip() == "running", f"the machine is {state.stdout.strip()}")
    rows = (await site.run("hedgehogd", "status")).splitlines()[1:]
    return "; ".join(" ".join(row.split()) for row in rows)


def _with_our_limits(text: str) -> str:
    """Let HAProxy start although the limits of open files are below its configuration.

    A real machine's systemd may raise them; a sandbox without CAP_SYS_RESOURCE cannot.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = most == resource.RLIM_INFINITY or most >= FILES_OF_HAPROXY
    return text if enough else text.replace("global\n", "global\n    no strict-limits\n", 1)


async def balance(site: Site) -> str:
    """HAProxy distributes the load over all instances."""
    crowd = Crowd(site.reference, site.tally, BALANCED_STREAMS)
    async with trio.open_nursery() as nursery:
        crowd.start_in(nursery)
        await crowd.wait_full()
        found = crowd.balance()
        nursery.cancel_scope.cancel()
    shares = [found[number] for number in INSTANCES]
    expect(all(FEWEST <= n <= MOST for n in shares), f"unbalanced: {dict(found)}")
    return f"{BALANCED_STREAMS} streams: {shares}"
