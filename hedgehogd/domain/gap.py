"""Gaps: numbers known to be missing."""

from typing import NamedTuple


class Gap(NamedTuple):
    """A range of numbers known to be missing, from ``first`` to ``last``, both included."""

    first: int
    last: int
