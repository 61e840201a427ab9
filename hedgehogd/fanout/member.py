"""A subscriber as the hub sees it, and the cohort that it belongs to."""

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
    """Statistics of one subscriber.

    Attributes:
        delivered: messages that the kernel has accepted.
        skipped: messages that conflation dropped.
        waiting_bytes: bytes of data in its backlog.
        oldest_s: age of the oldest message in the backlog, in seconds; 0 when it is empty.
    """

    delivered: int
    skipped: int
    waiting_bytes: int
    oldest_s: float


class Member:
    """One subscriber, as the hub sees it. A port: ``streaming.outlet`` is the adapter.

    Attributes:
        served_to: the tape offset up to which messages were written to this member.
        cohort: the cohort that it belongs to, or None while none of its topics is live.
    """

    __slots__ = ("cohort", "served_to")

    def __init__(self) -> None:
        self.served_to = 0
        self.cohort: Cohort | None = None

    def write(self, chunk: Chunk) -> None:
        """Send ``chunk`` or keep it in the backlog. Never waits, never raises because of the peer.

        The call may end, close or move this member, and end further members: see ``hub``.
        """
        raise NotImplementedError

    def tell(self, payload: bytes) -> None:
        """Send ``payload``, which is not data, ahead of waiting data.

        Never waits. An ending member sends nothing.
        """
        raise NotImplementedError

    def end(self, code: int, reason: str, detail: str = "") -> None:
        """Drop the waiting data, send a farewell and close; without effect on an ending member.

        Args:
            code: the close code of a WebSocket.
            reason: a stable name, by which the end is counted.
            detail: a text for the peer in place of ``reason``, where the stream can carry one.
        """
        raise NotImplementedError

    def shed(self) -> None:
        """Free the backlog: all subscribers together hold too much, and this one the most.

        The member ends as a slow consumer does; a member that is ending drops its farewell.
        """
        raise NotImplementedError

    async def wait_written(self) -> None:
        """Wait until the backlog is empty, or will never be sent."""
        raise NotImplementedError

    def waiting(self) -> Iterable[Message]:
        """Return the messages in the backlog of which no byte has been sent, oldest first."""
        raise NotImplementedError

    def statistics(self, now: float) -> MemberStatistics:
        """Return its statistics at ``now`` (``trio.current_time``)."""
        raise NotImplementedError


class Cohort:
    """Members with the same topics and the same wire form.

    Attributes:
        topics: the topics.
        form: the wire form.
        members: the members, in order of joining.
        pending: messages of the running batch, until ``take_pending``.
        offsets: the tape offset of each of ``pending``.
    """

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
        self._texts: dict[Topic, str] = {}  # the parts of _position as text, sorted by topic
        self._turn = 0

    def take_pending(self) -> Chunk:
        """Return the bytes of the ``pending`` messages, and clear these.

        Where the wire form states positions, each event states the position up to itself; with more
        than ``SSE_ID_TOPICS_MAX`` topics only the last event does.
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
        """Move the position of the ``moved`` topics; return ``to_text`` of the whole position.

        The parts of the other topics are kept as text: writing them again is the main cost.
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
        """Merge a joiner's known positions for topics without messages so far."""
        self._position = position | self._position  # topics are added, none is removed

    def in_turn(self) -> list[Member]:
        """Return all members, starting one further at each call: no member is always last."""
        members = list(self.members)
        self._turn = turn = (self._turn + 1) % len(members) if members else 0
        return members[turn:] + members[:turn]
