"""Topics to subscribe to again on a live connection, and how often.

There are two kinds of requests. If the exchange's acknowledgement omits a topic, another subscribe
may help. If a topic needs a new snapshot, or no message of it arrives, an unsubscribe precedes the
subscribe.

Each repeated subscribe to a topic is a *try*. The first one is due at once. The pause after a try
doubles, from ``RENEW_FIRST_S`` to ``RENEW_MAX_S``, so a topic that the exchange never acknowledges
is requested less and less often. A try that comes more than ``RENEW_MAX_S`` after the end of the
last pause is the first one again.

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
        next_at: when the first of the remaining topics is due, on the caller's clock, seconds;
            infinity if none remains.
    """

    again: frozenset[Topic]
    fresh: frozenset[Topic]
    next_at: float


class Renewals:
    """The topics to subscribe to again on one connection: see the module."""

    def __init__(self) -> None:
        self._again: set[Topic] = set()
        self._fresh: set[Topic] = set()
        self._pauses: dict[Topic, float] = {}
        self._not_before: dict[Topic, float] = {}
        self._tries: Counter[Topic] = Counter()

    def ask_again(self, topics: Iterable[Topic]) -> None:
        """Add ``topics`` to those to subscribe to again: the acknowledgement omits them."""
        self._again.update(topics)

    def ask_fresh(self, topics: Iterable[Topic]) -> None:
        """Add ``topics`` to those to unsubscribe from and then subscribe to again.

        They need a new snapshot, or no message of them arrives.
        """
        self._fresh.update(topics)

    def tries(self, topic: Topic) -> int:
        """Return the number of the last try of ``topic``: 1 for a first one, 0 for no try yet."""
        return self._tries[topic]

    def take(self, held: frozenset[Topic], now: float) -> Due:
        """Remove and return the topics that are due at ``now``; drop those that are not ``held``.

        Each topic returned counts as tried, and its next pause begins: the caller subscribes to it.
        A topic of both kinds is returned as ``fresh``.
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
