"""What the hub knows of a subscriber: something that can be written to, and how far it is."""

from collections.abc import Iterable
from typing import NamedTuple

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.limits import SSE_ID_TOPICS_MAX
from hedgehogd.domain.message import Message
from hedgehogd.domain.position import part_of_text
from hedgehogd.engine.chunk import Chunk
from hedgehogd.engine.tape import positions
from hedgehogd.protocol.wire import WireForm


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


class Cohort:
    """Members with the same topics and the same wire form."""

    __slots__ = ("_position", "_texts", "_turn", "form", "members", "offsets", "pending", "topics")

    def __init__(
        self, topics: frozenset[Topic], form: WireForm, position: dict[Topic, int]
    ) -> None:
        self.topics = topics
        self.form = form
        self.members: dict[Member, None] = {}
        self.pending: list[Message] = []
        self.offsets: list[int] = []
        self._position = position
        self._texts: dict[Topic, str] = {}  # of what _position has, in the order of its text
        self._turn = 0

    def take_pending(self) -> Chunk:
        """Return the messages collected for this cohort as bytes, and collect anew.

        Where the wire form states positions, each event states what precedes it.
        """
        messages, offsets = self.pending, self.offsets
        self.pending, self.offsets = [], []
        form = self.form
        if not form.states_position:
            return Chunk([form.data(message, "") for message in messages], messages, offsets)
        every = len(self.topics) <= SSE_ID_TOPICS_MAX
        last = len(messages) - 1
        pieces = []
        moved: dict[Topic, int] = {}
        for index, message in enumerate(messages):
            for topic in positions(message):
                if topic in self.topics:
                    moved[topic] = message.sequence or 0
            if every or index == last:
                pieces.append(form.data(message, self._move(moved)))
                moved.clear()
            else:
                pieces.append(form.data(message, ""))
        return Chunk(pieces, messages, offsets)

    def _move(self, moved: dict[Topic, int]) -> str:
        """Move the position of some topics and return ``to_text`` of the whole.

        The parts of other topics are kept as text: writing them again would cost the most.
        """
        position, texts = self._position, self._texts
        position.update(moved)
        if len(texts) == len(position):
            for topic, sequence in moved.items():
                texts[topic] = part_of_text(topic, sequence)
        else:
            texts = {topic: part_of_text(topic, position[topic]) for topic in sorted(position)}
            self._texts = texts
        return ",".join(texts.values())

    def precede(self, position: dict[Topic, int]) -> None:
        """Who joins knows where topics are that have not spoken here yet."""
        self._position = position | self._position  # topics are added, none is removed

    def in_turn(self) -> list[Member]:
        """Return the members, beginning one further each time: nobody is always last."""
        members = list(self.members)
        self._turn = turn = (self._turn + 1) % len(members) if members else 0
        return members[turn:] + members[:turn]
