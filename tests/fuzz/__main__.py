"""Run one fuzzer for at least ``--inputs`` inputs.

    python -m tests.fuzz upstream --inputs 1000000 --jobs 2
    python -m tests.fuzz upstream --seed 7 --round 41      # repeats one round, with its traceback

The exit status is 1 when a round failed; its seed and its number are printed.
"""

import argparse
import secrets
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import structlog

from tests.fuzz import fuzzing
from tests.fuzz.targets import FUZZERS


def _job(name: str, seed: int, inputs: int, first: int, step: int) -> tuple[int, str]:
    """Run a share of the rounds; return the number of inputs, and the finding or an empty text."""
    try:
        report = fuzzing.run(name, FUZZERS[name].target, seed, inputs, first=first, step=step)
    except fuzzing.Finding as finding:
        return 0, str(finding)
    return report.inputs, ""


def _quiet() -> None:
    """Configure the logs of this process: a daemon under test logs thousands of lines."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__.split("\n")[0]
    )
    parser.add_argument("name", choices=FUZZERS, help="the fuzzer to run")
    parser.add_argument(
        "--inputs", type=int, default=100_000, help="inputs to feed (default 100000)"
    )
    parser.add_argument("--seed", type=int, help="default: drawn, and printed")
    parser.add_argument("--round", type=int, help="repeat this round alone")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    asked = parser.parse_args(arguments)
    seed = secrets.randbits(32) if asked.seed is None else asked.seed
    if asked.round is not None:
        try:
            inputs = min(asked.inputs, fuzzing.ROUND_INPUTS)
            fuzzing.run_round(asked.name, FUZZERS[asked.name].target, seed, asked.round, inputs)
        except fuzzing.Finding as finding:
            traceback.print_exception(finding)
            return 1
        return 0
    began = time.monotonic()
    share = -(-asked.inputs // asked.jobs)
    with ProcessPoolExecutor(asked.jobs, initializer=_quiet) as pool:
        jobs = [
            pool.submit(_job, asked.name, seed, share, first, asked.jobs)
            for first in range(asked.jobs)
        ]
        results = [job.result() for job in jobs]
    findings = [finding for _, finding in results if finding]
    fed = sum(inputs for inputs, _ in results)
    elapsed_s = time.monotonic() - began
    print(f"{asked.name}: seed {seed}, {fed} inputs in {elapsed_s:.0f} s, {len(findings)} findings")
    for finding in findings:
        print(f"  {finding[:1000]}")
    return 1 if findings else 0


if __name__ == "__main__":
    _quiet()
    sys.exit(main())
