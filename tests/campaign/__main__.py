"""Run schedules one after the other in this process, and print how often each fault fired.

    PYTHONHASHSEED=0 python -m tests.campaign FIRST_SEED COUNT

The exit status is 1 when a schedule failed; its seed is printed, and reproduces it alone.
"""

import sys
import time
import traceback

import structlog

from hedgehogd.simulator.faults import KINDS
from tests.campaign import schedule


def first_of(error):
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def main(first, count):
    failed = 0
    began = time.monotonic()
    for seed in range(first, first + count):
        try:
            schedule.run(seed)
        except Exception as group:  # noqa: BLE001  # any error is reported with its seed
            failed += 1
            error = first_of(group)
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:500]}", flush=True)
            if count == 1:
                traceback.print_exception(error)
    elapsed_s = time.monotonic() - began
    print(f"campaign: seed {first}, {count} schedules in {elapsed_s:.0f} s, {failed} failed")
    print("faults fired:")
    for name in KINDS:
        print(f"  {name:22} {schedule.fired[name]}")
    print("topics judged:", ", ".join(f"{name} {n}" for name, n in sorted(schedule.judged.items())))
    return 1 if failed else 0


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
