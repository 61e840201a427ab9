"""The topics that the feed has to hold: by configuration, and by demand of subscribers.

Topics are counted. The first subscriber of a topic that is not configured causes one upstream
subscribe. After the last one leaves, an unsubscribe follows when ``linger_s`` is over, so a client
that reconnects, or a fleet that restarts, changes nothing upstream.

Time is an argument, in seconds. The feed calls ``wanted`` and compares the result with the topics
that it holds; ``changed`` wakes it.
"""

from collections import Counter
from collections.abc import Iterable

from hedgehogd.domain.channel import HEARTBEAT, Topic
from hedgehogd.domain.limits import LINGER_S
from hedgehogd.engine.wakeup import Wakeup


class Demand:
    """Reference counts of the topics that subscribers want.

    Attributes:
        changed: set when the result of ``wanted`` or of ``next_change_at``, or the requests for
            snapshots may have changed.
    """

    def __init__(
        self,
        held: Iterable[Topic] = (),
        linger_s: float = LINGER_S,
        changed: Wakeup | None = None,
    ) -> None:
        self.changed = Wakeup() if changed is None else changed
        self._held = frozenset(held)
        self._linger_s = linger_s
        self._count: Counter[Topic] = Counter()
        self._until: dict[Topic, float] = {}
        self._snapshots: set[Topic] = set()

    def hold(self, topics: Iterable[Topic], now: float) -> None:
        """Replace the configured topics; former ones without a subscriber linger from ``now``."""
        held = frozenset(topics)
        if held == self._held:
            return
        for topic in held:
            self._until.pop(topic, None)
        for topic in self._held - held:
            if topic not in self._count:
                self._until[topic] = now + self._linger_s
        self._held = held
        self.changed.set()

    def want(self, topics: Iterable[Topic]) -> None:
        """Count one more subscriber of each of ``topics``."""
        changed = False
        for topic in topics:
            self._count[topic] += 1
            if self._count[topic] == 1 and self._until.pop(topic, None) is None:
                changed |= topic not in self._held
        if changed:
            self.changed.set()

    def release(self, topics: Iterable[Topic], now: float) -> None:
        """Count one subscriber fewer of each of ``topics``; without subscribers it lingers.

        Each of them was counted by ``want`` before.
        """
        changed = False
        for topic in topics:
            self._count[topic] -= 1
            if not self._count[topic]:
                del self._count[topic]
                if topic not in self._held:
                    self._until[topic] = now + self._linger_s
                    changed = True
        if changed:
            self.changed.set()

    def refuse(self, product_id: str, channel: str = "") -> None:
        """End the linger of the topics of a product that the exchange refused.

        With an empty ``product_id``: of the topics of ``channel``.
        """
        gone = [
            topic
            for topic in self._until
            if (topic.product_id == product_id if product_id else topic.channel == channel)
        ]
        for topic in gone:
            del self._until[topic]
        if gone:
            self.changed.set()

    def is_wanted(self, topic: Topic) -> bool:
        """Say whether ``topic`` has a subscriber or is configured; lingering does not count."""
        return topic in self._count or topic in self._held

    def ask_snapshot(self, topic: Topic) -> None:
        """Request a new snapshot of ``topic``: its book is unknown or wrong."""
        if topic not in self._snapshots:
            self._snapshots.add(topic)
            self.changed.set()

    def take_snapshots(self) -> frozenset[Topic]:
        """Remove and return the topics to subscribe to again, for a new snapshot of each."""
        asked = frozenset(self._snapshots)
        self._snapshots.clear()
        return asked

    def holds(self, product_id: str, channel: str) -> bool:
        """Say whether a configured topic has ``product_id`` or, if that is empty, ``channel``."""
        return any(
            product_id == topic.product_id if product_id else channel == topic.channel
            for topic in self._held
        )

    def wanted(self, now: float) -> frozenset[Topic]:
        """Return the topics that the feed has to hold at ``now``.

        They include the heartbeat of every product: it distinguishes a silent line from a
        quiet market (COINBASE §16.1).
        """
        for topic in [topic for topic, until in self._until.items() if until <= now]:
            del self._until[topic]
        topics = self._held | self._count.keys() | self._until.keys()
        beats = {HEARTBEAT.topic(topic.product_id) for topic in topics if topic.product_id}
        return topics | beats

    def next_change_at(self) -> float | None:
        """Return when the next topic stops lingering; None if no topic lingers."""
        return min(self._until.values(), default=None)
