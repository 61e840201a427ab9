"""The ports of this test process: no other process of pytest-xdist draws from them.

Ports are drawn before a program listens on them. Where two processes draw from the same ports,
both may draw one that is free, and the second program cannot start.
"""

import os
from collections.abc import Sequence


def share(values: Sequence[int]) -> Sequence[int]:
    """Return the part of ``values`` that belongs to this test process; to the only one, all."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return values[int(worker.removeprefix("gw")) % count :: count]
