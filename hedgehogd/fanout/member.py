"""What the hub knows of a subscriber: something that can be written to, and how far it is."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from hedgehogd.domain.message import Message
from hedgehogd.engine.chunk import Chunk

if TYPE_CHECKING:
    from hedgehogd.fanout.hub import Cohort


class MemberStatistics(NamedTuple):
    """How one subscriber is doing.

    Attributes:
        delivered: messages whose bytes the kernel has taken.
        skipped: messages that conflation dropped.
        waiting_bytes: data that waits for its socket.
        oldest_s: age of the oldest of it, in seconds; 0 when none waits.
    """

    delivered: int
    skipped: int
    waiting_bytes: int
    oldest_s: float


class Member:
    """One subscriber, as the hub sees it. A port: ``streaming.outlet`` is the adapter.

    Attributes:
        served_to: the tape offset up to which this member has been given its topics.
        cohort: the cohort it belongs to, or None while it has no topics.
    """

    __slots__ = ("cohort", "served_to")

    def __init__(self) -> None:
        self.served_to = 0
        self.cohort: Cohort | None = None

    def write(self, chunk: Chunk) -> None:
        """Take ``chunk``: send it or keep it. Never waits, never raises for the peer's sake."""
        raise NotImplementedError

    def tell(self, payload: bytes) -> None:
        """Say something that is not data, ahead of data that waits."""
        raise NotImplementedError

    def end(self, code: int, reason: str, detail: str = "") -> None:
        """Say farewell and close.

        Args:
            code: the close code of a WebSocket.
            reason: a stable name, by which the end is counted.
            detail: what the peer is told instead, where it can be told.
        """
        raise NotImplementedError

    def shed(self) -> None:
        """Free what waits for it: all subscribers together hold too much, and it the most.

        It ends as a slow consumer does; one that is ending already drops its farewell.
        """
        raise NotImplementedError

    async def wait_written(self) -> None:
        """Return when nothing waits to be sent, or never will be."""
        raise NotImplementedError

    def waiting(self) -> Iterable[Message]:
        """Return the messages of which nothing has been sent yet, oldest first."""
        raise NotImplementedError

    def statistics(self, now: float) -> MemberStatistics:
        """Return how it is doing at ``now`` (``trio.current_time``)."""
        raise NotImplementedError
