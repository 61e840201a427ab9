"""``python -m tests.systemd PACKAGE.deb [CHECK …]``; ``scripts/test-systemd`` runs it as root."""

import secrets
import signal
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from tests.systemd.checks import controlling, deploying, failing, installing, leaving, operating
from tests.systemd.debian_root import CannotMake, debian_root
from tests.systemd.machine import CommandFailed, booted
from tests.systemd.site import Site

EXPOSURE_MAX = 1.5
PAIRS_DUE = 1000
CHECK_S = 180.0
JOURNAL_LINES = "200"

Check = Callable[[Site], Awaitable[str]]

# These two set up the site. All later checks but the last leave it in the same state.
SETUP: tuple[Check, ...] = (installing.bare_install, installing.four_instances)
CHECKS: tuple[Check, ...] = (
    installing.balance,
    controlling.every_kind,
    controlling.thousand_pairs,
    operating.journal,
    operating.security,
    operating.reload,
    operating.one_stops,
    failing.watchdog,
    failing.crash,
    failing.port_in_use,
    failing.wrong_file,
    failing.runtime_directory,
    deploying.rolling_upgrade,
    deploying.without_its_files,
    leaving.whole_target,
    leaving.purge,
)


def say(text: str) -> None:
    """Print a line and flush it."""
    print(text, flush=True)  # noqa: T201  # output for a person


async def run_check(site: Site, check: Check) -> None:
    """Run one check and print its report.

    Raises:
        trio.TooSlowError: it hangs.
    """
    began = trio.current_time()
    with trio.fail_after(CHECK_S):
        found = await check(site)
    took = trio.current_time() - began
    say(f"ok {took:6.1f} s  {check.__name__.replace('_', ' ')}: {found}")


async def run_checks(site: Site, chosen: Sequence[Check]) -> None:
    """Run the checks in order; the first failure ends the run."""
    for check in SETUP:
        await run_check(site, check)
    async with trio.open_nursery() as nursery:
        await nursery.start(site.reference.run)
        for check in chosen:
            await run_check(site, check)
        nursery.cancel_scope.cancel()


def dump_journals(site: Site) -> None:
    """Print the machine's failed units and journal."""
    for command in (
        ("systemctl", "--failed", "--no-pager"),
        ("journalctl", "--no-pager", "-o", "short-precise", "-n", JOURNAL_LINES),
    ):
        output = site.machine.call(*command).stdout
        print(f"\n--- {' '.join(command)}\n{output}", file=sys.stderr)  # noqa: T201


def sum_up(site: Site) -> tuple[str, bool]:
    """Return the last line, and whether its counts are as required."""
    tally, exposure = site.tally, site.exposure
    counts = {
        "failed": tally.failed,
        "refused": tally.refused,
        "5xx": tally.five_hundreds,
        "unannounced": tally.unannounced,
    }
    text = " ".join(f"{name}={count}" for name, count in counts.items())
    good = tally.pairs == PAIRS_DUE and not any(counts.values())
    good = good and exposure is not None and exposure <= EXPOSURE_MAX
    return f"pairs={tally.pairs} {text} exposure={exposure}", good


def main(package: str, *names: str) -> int:
    """Boot a machine and run the checks in it; all of them, unless ``names`` selects some."""
    chosen = [check for check in CHECKS if not names or check.__name__ in names]
    seed = secrets.randbits(32)
    with tempfile.TemporaryDirectory(prefix="hedgehogd-test-") as folder:
        try:
            root = debian_root()
            with booted(root, Path(folder) / "console") as machine:
                machine.enter_network()
                site = Site(machine, Path(package).resolve(), seed, Path(folder))
                try:
                    trio.run(run_checks, site, chosen)
                    failed = False
                except Exception as error:  # noqa: BLE001  # any failure is reported
                    dump_journals(site)
                    traceback.print_exception(error)
                    failed = True
        except (CannotMake, CommandFailed) as error:
            print(f"test-systemd: {error}", file=sys.stderr)  # noqa: T201
            return 1
    for detail in site.tally.details:
        say(f"  {detail}")
    line, good = sum_up(site)
    say(line)
    return 0 if good and not failed else 1


if __name__ == "__main__":
    # SIGTERM and SIGHUP clean up as Ctrl-C does, which a shell's background job ignores.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        status = main(*sys.argv[1:])
    except* KeyboardInterrupt:
        status = 130
    sys.exit(status)
