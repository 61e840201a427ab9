"""What has to flow from upstream: what is held always, and what subscribers want now.

Topics are counted: the first subscriber of a topic causes one upstream subscribe, the last
one leaving causes an unsubscribe after a linger, so that a client that reconnects, or a
fleet that is restarted, changes nothing upstream.

Sans-I/O in spirit: time is an argument. The feed asks ``wanted`` and compares with what it
holds; ``on_change`` wakes it.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from hedgehogd.domain.channel import HEARTBEAT, Topic, upstream_topic
from hedgehogd.domain.limits import LINGER_S, SNAPSHOT_REFRESH_S


class Demand:
    """Reference counts of upstream topics."""

    def __init__(self, held: Iterable[Topic] = (), linger_s: float = LINGER_S) -> None:
        self._held = frozenset(upstream_topic(topic) for topic in held)
        self._linger_s = linger_s
        self._count: Counter[Topic] = Counter()
        self._until: dict[Topic, float] = {}
        self._refresh: set[Topic] = set()
        self._refreshed_at: dict[Topic, float] = {}
        self.on_change: Callable[[], None] = lambda: None

    def want(self, topics: Iterable[Topic]) -> None:
        """One more subscriber wants each of ``topics``."""
        changed = False
        for topic in map(upstream_topic, topics):
            self._count[topic] += 1
            if self._count[topic] == 1 and self._until.pop(topic, None) is None:
                changed |= topic not in self._held
        if changed:
            self.on_change()

    def release(self, topics: Iterable[Topic], now: float) -> None:
        """One subscriber less wants each of ``topics``."""
        changed = False
        for topic in map(upstream_topic, topics):
            self._count[topic] -= 1
            if not self._count[topic]:
                del self._count[topic]
                if topic not in self._held:
                    self._until[topic] = now + self._linger_s
                    changed = True
        if changed:
            self.on_change()

    def refuse(self, product_id: str) -> None:
        """The exchange does not know ``product_id``: its topics do not linger."""
        gone = [topic for topic in self._until if topic.product_id == product_id]
        for topic in gone:
            del self._until[topic]
        if gone:
            self.on_change()

    def ask_snapshot(self, topic: Topic) -> None:
        """Somebody joined ``topic`` late and needs its snapshot."""
        if topic not in self._refresh:
            self._refresh.add(topic)
            self.on_change()

    def wanted(self, now: float) -> frozenset[Topic]:
        """Return the topics that have to flow at ``now``.

        Every product brings its heartbeat: that is how a silent line is told from a
        quiet market (PAIN §1).
        """
        for topic in [topic for topic, until in self._until.items() if until <= now]:
            del self._until[topic]
        topics = self._held | self._count.keys() | self._until.keys()
        beats = {HEARTBEAT.topic(topic.product_id) for topic in topics if topic.product_id}
        return topics | beats

    def take_refresh(self, held: frozenset[Topic], now: float) -> frozenset[Topic]:
        """Return the topics among ``held`` to subscribe to anew, for their snapshots.

        Each at most once in ``SNAPSHOT_REFRESH_S``; those that are not held yet bring
        their snapshot by themselves and are dropped from the list.
        """
        self._refresh &= held
        due = frozenset(
            topic
            for topic in self._refresh
            if now - self._refreshed_at.get(topic, -SNAPSHOT_REFRESH_S) >= SNAPSHOT_REFRESH_S
        )
        self._refresh -= due
        self._refreshed_at = {
            topic: at for topic, at in self._refreshed_at.items() if now - at < SNAPSHOT_REFRESH_S
        } | dict.fromkeys(due, now)
        return due

    def next_change_at(self, now: float) -> float | None:
        """Return when ``wanted`` or ``take_refresh`` will change by time alone, or None."""
        times = list(self._until.values())
        times += [self._refreshed_at.get(t, now) + SNAPSHOT_REFRESH_S for t in self._refresh]
        return min(times, default=None)
