"""The fault campaign: whatever the exchange does, silence about a loss must not happen.

``HEDGEHOGD_CAMPAIGN_SEED`` chooses the first seed, else it is drawn; it is always printed.
"""

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from hedgehogd.simulator.faults import KINDS
from tests.campaign.schedule import CHANNELS

pytestmark = [pytest.mark.e2e, pytest.mark.campaign]

ROOT = Path(__file__).parents[2]
SCHEDULES = 220
LIMIT_S = 900  # a hang, not a measure; it takes about two minutes


def test_every_subscriber_gets_all_of_it_once_in_order_or_is_told(capsys):
    """220 schedules in one process on the mock clock; a fault that never fired proves nothing."""
    seed = int(os.environ.get("HEDGEHOGD_CAMPAIGN_SEED") or secrets.randbits(31))
    ran = subprocess.run(
        [sys.executable, "-m", "tests.campaign", str(seed), str(SCHEDULES)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    with capsys.disabled():
        sys.stdout.write("\n" + ran.stdout)
    fired = dict(re.findall(r"^  (\w+) +(\d+)$", ran.stdout, re.MULTILINE))

    assert 0 == ran.returncode, ran.stdout + ran.stderr
    assert [] == [name for name in KINDS if not int(fired[name])]
    assert all(f"{channel} " in ran.stdout for channel in CHANNELS)
