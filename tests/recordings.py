"""The location of the recordings of real feeds: beside the checkout, not in it."""

from pathlib import Path

import pytest

RECORDINGS = Path(__file__).parents[2] / "shared" / "recordings"
PRO = "cryptofeed-2021-pro-level2-ticker-matches"
FULL = "csko-2017-gdax-full"


def recording(name: str) -> Path:
    """Return a recording's file or folder; skip the test if it does not exist.

    CI fails on any skipped test, so that a missing recording cannot go unnoticed there.
    """
    path = RECORDINGS / name
    if not path.exists():
        pytest.skip(f"no recording at {path}")
    return path
