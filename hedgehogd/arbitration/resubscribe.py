"""Topics to subscribe to again on a live connection, and how often.

There are two reasons. The exchange's acknowledgement leaves a topic out: another subscribe may
help. Or a topic needs a new snapshot, or sends no message: an unsubscribe comes first. The first
try is due at once. The pause between two tries for one topic doubles, from ``RENEW_FIRST_S`` to
``RENEW_MAX_S``, so a topic that the exchange never acknowledges is requested less and less often.

Sans-I/O: time is an argument. Each connection has its own.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.limits import RENEW_FIRST_S, RENEW_MAX_S


class Due(NamedTuple):
    """The requests that are due now.

    Attributes:
        again: topics to subscribe to again.
        fresh: topics to unsubscribe from first, and then to subscribe to again.
        next_at: when the next topic is due, on the caller's clock, seconds; infinity for never.
    """

    again: frozenset[Topic]
    fresh: frozenset[Topic]
    next_at: float


class Renewals:
    """Topics to subscribe to again on one connection."""

    def __init__(self) -> None:
        self._again: set[Topic] = set()
        self._fresh: set[Topic] = set()
        self._pauses: dict[Topic, float] = {}
        self._not_before: dict[Topic, float] = {}
        self._tries: Counter[Topic] = Counter()

    def ask_again(self, topics: Iterable[Topic]) -> None:
        """Add ``topics`` that the exchange's acknowledgement leaves out."""
        self._again.update(topics)

    def ask_fresh(self, topics: Iterable[Topic]) -> None:
        """Add ``topics`` that need a new snapshot, or of which no message arrives."""
        self._fresh.update(topics)

    def tries(self, topic: Topic) -> int:
        """Return how often in a row ``topic`` was due.

        The count starts again when the next try comes more than ``RENEW_MAX_S`` after its pause.
        """
        return self._tries[topic]

    def take(self, held: frozenset[Topic], now: float) -> Due:
        """Remove and return the ``held`` topics that are due at ``now``; drop those not held.

        Each topic returned counts as tried: the caller subscribes to it.
        """
        self._again &= held
        self._fresh &= held
        due = {t for t in self._again | self._fresh if self._not_before.get(t, now) <= now}
        again, fresh = frozenset(due - self._fresh), frozenset(due & self._fresh)
        self._again -= due
        self._fresh -= due
        for topic in due:
            pause_s = self._pauses.get(topic, RENEW_FIRST_S)
            if now - self._not_before.get(topic, now) > RENEW_MAX_S:
                pause_s, self._tries[topic] = RENEW_FIRST_S, 0
            self._pauses[topic] = min(2 * pause_s, RENEW_MAX_S)
            self._not_before[topic] = now + pause_s
            self._tries[topic] += 1
        waiting = (self._not_before[t] for t in self._again | self._fresh)
        return Due(again, fresh, min(waiting, default=float("inf")))
