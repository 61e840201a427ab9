"""Soak one daemon, and compare the rise of its memory, files and tasks with its bars."""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import trio

from tests.soak.crowd import SIZE, Crowd
from tests.soak.daemon import SoakedDaemon
from tests.soak.trend import MIB, Sample, judge

_SAMPLE_EVERY_S = 30.0
_SETTLE_S = 3.0
_JUDGED_MINUTES_MIN = 10
_PRINT_EVERY = 10
_DESCRIPTION = f"""\
Runs hedgehogd without history on a simulated exchange of its own (`simulate`), under
{SIZE} subscribers of all kinds (WebSocket, SSE, NDJSON; slow ones; both policies) that
connect, resume, send commands, die and are replaced, beside right and wrong requests.
Once or twice a minute the churn pauses, and resident memory, open files and tasks are
sampled.

Prints how much each rises in an hour after the warm-up (the median of the slopes
between all pairs of samples) beside its bar: 1 MiB of memory, 1 file, 1 task.
A run of 60 minutes is needed to hold a rise of 1 MiB an hour against the bar;
shorter ones find larger leaks.
"""
_EPILOG = """\
exit status:
  0 nothing rises   1 something rises faster than its bar, or a bug was logged   2 bad usage
"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60, help="length of the run; default 60")
    parser.add_argument(
        "--warm-up-minutes", type=float, default=10, help="unjudged minutes at first; default 10"
    )
    parser.add_argument("--seed", type=int, default=1, help="of market and churn; default 1")
    parser.add_argument(
        "--rate", type=float, default=20, help="of the simulated market; default 20"
    )
    parser.add_argument(
        "--acts-per-s", type=float, default=5, help="changes and requests a second; default 5"
    )
    parser.add_argument(
        "--plant-leak",
        action="store_true",
        help="plant a leak of 100 bytes a message in the daemon: the status has to be 1",
    )
    arguments = parser.parse_args()
    if arguments.minutes < arguments.warm_up_minutes + _JUDGED_MINUTES_MIN:
        parser.error(f"at least {_JUDGED_MINUTES_MIN} minutes after the warm-up are needed")
    return arguments


def _say(*lines: object) -> None:
    print(*lines, sep="\n", flush=True)  # noqa: T201  # it talks to a person


def _counts(name: str, counts: Counter[str]) -> str:
    return f"{name}: " + (", ".join(f"{item} {n}" for item, n in sorted(counts.items())) or "none")


def _line(sample: Sample) -> str:
    return (
        f"{sample.at_s / 60:6.1f} min  {sample.rss_bytes / MIB:8.2f} MiB  {sample.fds} files"
        f"  {sample.tasks} tasks  {sample.messages} messages"
    )


async def _soak(daemon: SoakedDaemon, arguments: argparse.Namespace) -> bool:
    """Soak ``daemon``; return whether no figure rises faster than its bar."""
    samples: list[Sample] = []
    await daemon.wait_ready()
    crowd = Crowd(daemon.port, arguments.seed)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.run, arguments.acts_per_s)
        while trio.current_time() < began + 60 * arguments.minutes:
            await trio.sleep(_SAMPLE_EVERY_S - _SETTLE_S)
            if await crowd.calm_down():
                await trio.sleep(_SETTLE_S)
                samples.append(await daemon.sample(trio.current_time() - began))
                if len(samples) % _PRINT_EVERY == 1:
                    _say(_line(samples[-1]))
            crowd.go_on()
        nursery.cancel_scope.cancel()
    _say(*(_line(sample) for sample in samples[-1:]))
    _say(_counts("happened", crowd.done), _counts("problems", crowd.problems))
    verdicts = judge(samples, 60 * arguments.warm_up_minutes)
    _say(*verdicts)
    return not any(verdict.is_over for verdict in verdicts)


def main() -> int:
    """Soak, and return the exit status."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        daemon = SoakedDaemon(
            Path(folder), arguments.rate, arguments.seed, plants_leak=arguments.plant_leak
        )
        try:
            is_well = trio.run(_soak, daemon, arguments)
        finally:
            status = daemon.stop()
        bugs = daemon.bugs()
        _say(f"daemon: exit status {status}, {len(bugs)} bugs", *bugs[:5])
    return 0 if is_well and not bugs and status == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
