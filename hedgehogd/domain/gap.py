"""Gaps: numbers known to be missing."""

from typing import NamedTuple


class Gap(NamedTuple):
    """Numbers known to be missing, both ends included."""

    first: int
    last: int
