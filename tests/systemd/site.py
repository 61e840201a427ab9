"""State of the checks: the machine, its instances, and the counts so far."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from tests.systemd.crowd import Tally
from tests.systemd.machine import Machine
from tests.systemd.reference import Reference
from tests.systemd.subscriber import Refused, request

INSTANCES = (1, 2, 3, 4)
PAIRS = ("BTC-USD", "ETH-USD")
FIRST_PORT = 8000
FIRST_OPERATOR_PORT = 9000
STATISTICS_PORT = 8404
TOML = "/etc/hedgehogd/hedgehogd.toml"
POLL_S = 0.1


class CheckFailed(Exception):
    """A check found a fault; the text names it."""


@dataclass
class Site:
    """The machine and the files, reference and counts of the run.

    Attributes:
        machine: booted; this process is in its network.
        package: path of the Debian package on this side.
        seed: of all random choices.
        folder: for temporary files of the run.
        reference: the exchange's messages.
        tally: the counted faults.
        exposure: result of ``systemd-analyze security``; None before that check.
    """

    machine: Machine
    package: Path
    seed: int
    folder: Path
    reference: Reference = field(default_factory=lambda: Reference(PAIRS))
    tally: Tally = field(default_factory=Tally)
    exposure: float | None = None

    async def run(self, *command: str, timeout_s: float = 90.0) -> str:
        """Run a command in the machine; return its output."""
        return await self.machine.run(*command, timeout_s=timeout_s)

    async def property_of(self, unit: str, name: str) -> str:
        """Return a property of a unit, as ``systemctl show`` has it."""
        return (await self.run("systemctl", "show", "--value", "-p", name, unit)).strip()

    async def main_pids(self) -> dict[int, int]:
        """Return instance → process id of its daemon, 0 if it does not run."""
        return {
            number: int(await self.property_of(f"hedgehogd@{number}", "MainPID"))
            for number in INSTANCES
        }

    def write_configuration(self, pairs: tuple[str, ...] = PAIRS) -> None:
        """Write the file that all instances read."""
        listed = msgspec.json.encode(pairs).decode()
        text = f'[feed]\nwhere = "ws://127.0.0.1:9000"\npairs = {listed}\n'
        self.machine.write(TOML, text)

    async def wait_ready(self, number: int, within_s: float = 20.0) -> float:
        """Wait until instance ``number`` accepts subscribers; return the time in seconds."""
        return await wait_until(
            lambda: is_ready(number), within_s, f"instance {number} is not ready"
        )

    async def wait_all_up(self, within_s: float = 30.0) -> None:
        """Wait until all instances are ready and up in HAProxy."""
        for number in INSTANCES:
            await self.wait_ready(number, within_s)
        await wait_until(
            lambda: self.are_up(INSTANCES), within_s, "not all instances are up in HAProxy"
        )

    async def are_up(self, numbers: tuple[int, ...]) -> bool:
        """Return whether HAProxy sends new streams to all of ``numbers``."""
        up = await instances_up()
        return all(number in up for number in numbers)

    async def journal(self, *options: str) -> str:
        """Return the journal's lines for these options of ``journalctl``."""
        return await self.run("journalctl", "--no-pager", "-o", "cat", *options)


async def is_ready(number: int) -> bool:
    """Return whether an instance answers that it is ready."""
    try:
        status, _ = await request("GET", "/readyz", port=FIRST_PORT + number)
    except Refused:
        return False
    return status == 200


async def instances_up() -> set[int]:
    """Return the instances to which HAProxy sends new streams."""
    status, text = await request("GET", "/;csv", port=STATISTICS_PORT)
    expect(status == 200, f"HAProxy's statistics answer {status}")
    header, *rows = text.decode().lstrip("# ").splitlines()
    names = header.split(",")
    found = set()
    for row in rows:
        cells = dict(zip(names, row.split(","), strict=False))
        is_instance = cells.get("pxname") == "ready" and cells["svname"].isdecimal()
        if is_instance and cells["status"].startswith("UP"):
            found.add(int(cells["svname"]))
    return found


async def wait_until(
    condition: Callable[[], Awaitable[bool]], within_s: float, complaint: str
) -> float:
    """Wait until ``condition`` holds; return the time in seconds.

    Raises:
        CheckFailed: it does not, within ``within_s``.
    """
    began = trio.current_time()
    while not await condition():
        if trio.current_time() - began > within_s:
            raise CheckFailed(f"{complaint}, after {within_s:g} s")
        await trio.sleep(POLL_S)
    return trio.current_time() - began


def expect(condition: bool, complaint: str) -> None:
    """Fail the check unless ``condition`` holds.

    Raises:
        CheckFailed: it does not.
    """
    if not condition:
        raise CheckFailed(complaint)
