"""How far one topic has come back, and what of it the tape covers."""

import math

from hedgehogd.domain.position import Start
from hedgehogd.engine.gap_marker import InBand
from hedgehogd.engine.tape import Known
from hedgehogd.recovery.history_port import BackfilledTrade


class Progress:
    """How far one topic has come back.

    Attributes:
        reached: all up to this sequence has been given, or is told to be missing; None
            when it is known by time alone.
        given: the last sequence that the subscriber has: its position.
        given_at: when it was given something last, on trio's clock; -inf before.
        after_us: no message published up to then is wanted.
        quiet_us: nothing had come of it by then, here or elsewhere; None when that is not so.
        is_new: it is not resumed, it only waits with the others.
        is_cut: what follows on ``reached`` is gone, up to what is found next.
        is_given_up: nobody has what is missing on the tape; it is told in its places.
    """

    __slots__ = (
        "after_us",
        "given",
        "given_at",
        "is_cut",
        "is_given_up",
        "is_new",
        "quiet_us",
        "reached",
    )

    def __init__(self, start: Start) -> None:
        self.reached = self.given = start.sequence
        self.given_at = -math.inf
        self.after_us = start.after_us
        self.is_new = start.is_new
        self.quiet_us: int | None = None
        self.is_cut = False
        self.is_given_up = False

    def wants(self, sequence: int, published_us: int) -> bool:
        """Say whether a message is behind what was reached."""
        return published_us > self.after_us if self.reached is None else sequence > self.reached

    def lacks(self, hole: InBand | BackfilledTrade) -> bool:
        """Say whether the subscriber lacks the messages of a gap, or a backfilled trade."""
        if self.reached is None or hole.up_to is None:
            return hole.published_us > self.after_us
        return self.reached < hole.up_to

    def is_cut_before(self, first: int) -> bool:
        """Say whether something is gone between what was reached and the sequence ``first``."""
        return self.is_cut and (self.reached is None or first > self.reached + 1)

    def is_covered(self, known: Known | None) -> bool:
        """Say whether the tape has all that follows, when its record begins at ``known``."""
        if self.is_new:
            return True
        if known is None:
            return self.quiet_us is not None
        if self.quiet_us is not None and not known.has_left and known.published_us > self.quiet_us:
            return True
        if self.reached is None:
            return self.after_us >= known.published_us
        return self.reached >= known.before
