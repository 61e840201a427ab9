"""The fault campaign: for any fault of the exchange, no gap may go unreported.

``HEDGEHOGD_CAMPAIGN_SEED`` sets the first seed, otherwise it is drawn; it is always printed.
"""

import os
import re
import secrets
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hedgehogd.simulator.faults import KINDS
from tests.campaign.schedule import CHANNELS

pytestmark = [pytest.mark.e2e, pytest.mark.campaign]

ROOT = Path(__file__).parents[2]
PROCESSES = 2
ROUNDS = (28, 10, 10, 10, 10)  # schedules per process; for more: python -m tests.campaign SEED 1000
LIMIT_S = 900  # detects a hang; the first round takes about a minute


def _run(seed, schedules):
    """Run ``schedules`` in each process, from ``seed``; return the statuses and the output."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.campaign", str(seed + first), str(schedules)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for first in range(0, PROCESSES * schedules, schedules)
    ]
    output = ""
    try:
        for process in running:
            output += process.communicate(timeout=LIMIT_S)[0]
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running], output


def test_every_subscriber_gets_each_message_once_in_order_or_a_gap_notice(capsys):
    """56 schedules on the mock clock, and more until each kind of fault has fired.

    A fault that has not fired proves nothing. The rarest kinds fire six or seven times in 110.
    """
    seed = int(os.environ.get("HEDGEHOGD_CAMPAIGN_SEED") or secrets.randbits(31))
    fired, outputs = Counter(), ""
    for schedules in ROUNDS:
        statuses, output = _run(seed, schedules)
        with capsys.disabled():
            sys.stdout.write("\n" + output)
        assert [0] * PROCESSES == statuses, output
        for name, count in re.findall(r"^  (\w+) +(\d+)$", output, re.MULTILINE):
            fired[name] += int(count)
        outputs += output
        seed += PROCESSES * schedules
        if all(fired[name] for name in KINDS):
            break

    assert [] == [name for name in KINDS if not fired[name]]
    assert all(f"{channel} " in outputs for channel in CHANNELS)
