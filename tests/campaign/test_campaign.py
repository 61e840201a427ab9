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
SCHEDULES = 55  # per process; for more: python -m tests.campaign SEED 1000
PROCESSES = 2
LIMIT_S = 900  # detects a hang; a run takes about two minutes


def test_every_subscriber_gets_each_message_once_in_order_or_a_gap_notice(capsys):
    """110 schedules on the mock clock; a fault that has not fired proves nothing."""
    seed = int(os.environ.get("HEDGEHOGD_CAMPAIGN_SEED") or secrets.randbits(31))
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.campaign", str(seed + first), str(SCHEDULES)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for first in range(0, PROCESSES * SCHEDULES, SCHEDULES)
    ]
    fired, output = Counter(), ""
    try:
        for process in running:
            output += process.communicate(timeout=LIMIT_S)[0]
    finally:
        for process in running:
            process.kill()
    with capsys.disabled():
        sys.stdout.write("\n" + output)
    for name, count in re.findall(r"^  (\w+) +(\d+)$", output, re.MULTILINE):
        fired[name] += int(count)

    assert [0] * PROCESSES == [process.returncode for process in running], output
    assert [] == [name for name in KINDS if not fired[name]]
    assert all(f"{channel} " in output for channel in CHANNELS)
