"""Where new subscribers of a book wait for its next snapshot.

Changes mean nothing without the snapshot they change, so a subscriber of level2 is let in
with the next snapshot, exactly before it: the broker cuts the batch there.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message


class Waiting(Protocol):
    """Someone who waits: a session."""

    def admit(self, topic: Topic) -> None:
        """Let it in: the next message of ``topic`` is the snapshot."""


class Anteroom:
    """Who waits for the snapshot of which topic."""

    def __init__(self) -> None:
        self._waiting: dict[Topic, dict[Waiting, None]] = {}

    def wait(self, who: Waiting, topics: Iterable[Topic]) -> None:
        """``who`` waits for each of ``topics`` and, from now on, for nothing else."""
        self.leave(who)
        for topic in topics:
            self._waiting.setdefault(topic, {})[who] = None

    def leave(self, who: Waiting) -> None:
        """``who`` waits no longer."""
        for topic in [topic for topic, waiting in self._waiting.items() if who in waiting]:
            del self._waiting[topic][who]
            if not self._waiting[topic]:
                del self._waiting[topic]

    def admit(self, topic: Topic) -> None:
        """The next message on the tape is the snapshot of ``topic``."""
        for who in self._waiting.pop(topic, {}):
            who.admit(topic)

    def parts(self, messages: list[Message]) -> Iterator[list[Message]]:
        """Cut ``messages`` before each snapshot that somebody waits for.

        The caller admits whoever waits when a part begins with a snapshot. Parts are
        never empty.
        """
        if not self._waiting:
            yield messages
            return
        begin = 0
        for index, message in enumerate(messages):
            if index > begin and message.type == "snapshot" and message.topic in self._waiting:
                yield messages[begin:index]
                begin = index
        yield messages[begin:]
