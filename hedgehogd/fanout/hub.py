"""The hub: members by topic, and one write per member and batch.

A *cohort* is the set of members with the same topics and the same wire form. The bytes of
a batch are joined once per cohort, not once per member: with 500 subscribers of the same
products a batch costs one join and 500 writes.

``publish`` yields after ``WRITES_PER_TURN_MAX`` writes, or fewer where each message is formed with
a position (``FORMED_PER_TURN_MAX``), after a write that ends its member, and after
``ROUTED_PER_TURN_MAX`` messages for cohorts. So members may join, move and leave while a batch is
being routed and written. Each member has ``served_to``, the tape offset up to which messages were
written to it; the batch ends at offset ``end``. A member receives each message once, in any order
of events:

    state                          event                 next    the hub writes
    -----------------------------  --------------------  ------  --------------------------------
    owed: in a cohort,             ``publish`` reaches   served  the chunk of its cohort
    ``served_to`` < ``end``        the member
    owed                           ``place``             served  the batch's messages of its old
                                                                 topics, read from the tape
    served: in a cohort,           ``publish`` reaches   served  nothing
    ``served_to`` = ``end``        the member
    served                         ``place``             served  nothing
    out: no cohort                 ``place`` with        served  nothing: its topics begin with
                                   topics                        the next message on the tape
    any                            ``place`` without     out     the owed messages, if any
                                   topics
    any                            ``remove``            out     nothing

Re-entrancy: ``Member.write`` may call the hub again before it returns.

    cause                               nested call                         about
    ----------------------------------  ----------------------------------  ---------------------
    the member's backlog is full        ``remove``                          the same member
    conflation drops books of its       ``place`` with fewer topics         the same member
    backlog
    all backlogs exceed the budget      ``remove``                          any members

Three rules make that safe. ``served_to`` is set before the write, so a nested call finds nothing
owed. ``publish`` iterates over a copy of the cohort's members. When the owed write of ``place`` has
changed the member's cohort, ``place`` returns: the nested call is newer.

The hub uses trio only for the checkpoint between turns.
"""

from collections import Counter

import trio

from hedgehogd.domain.channel import LEVEL3, Topic
from hedgehogd.domain.limits import (
    FORMED_PER_TURN_MAX,
    ROUTED_PER_TURN_MAX,
    WRITES_PER_TURN_MAX,
)
from hedgehogd.domain.message import Message
from hedgehogd.domain.position import to_text
from hedgehogd.engine.chunk import Chunk
from hedgehogd.engine.tape import Tape
from hedgehogd.fanout.member import Cohort, Member
from hedgehogd.protocol.wire import WireForm

_SCHEMA = LEVEL3.topic("")  # the names of the fields in level3's arrays; without a product


def _with_schema(topics: frozenset[Topic]) -> frozenset[Topic]:
    """Return the topics of the messages that a member with ``topics`` receives."""
    has_arrays = any(topic.channel == LEVEL3.topic_channel for topic in topics)
    return topics | {_SCHEMA} if has_arrays else topics


class Hub:
    """Topics, cohorts and members of one instance.

    All methods but ``publish`` are plain functions: each completes in one turn of the loop.

    Attributes:
        deliveries: messages written to members since start, by kind of wire form.
        bytes_out: bytes written to members since start.
    """

    def __init__(self, tape: Tape) -> None:
        self.deliveries: Counter[str] = Counter()
        self.bytes_out = 0
        self._tape = tape
        self._cohorts: dict[tuple[frozenset[Topic], WireForm], Cohort] = {}
        self._by_topic: dict[Topic, dict[Cohort, None]] = {}
        self._publishing_after: int | None = None  # end of the tape before the running batch

    def place(self, member: Member, topics: frozenset[Topic], form: WireForm) -> None:
        """Make ``topics`` the topics of ``member``: it joins, moves, or leaves with none.

        First the owed messages of its old topics are written. When that write ends or moves the
        member, this call changes nothing more. Else the member receives every message of the new
        topics that is appended to the tape after this call.
        """
        before = member.cohort
        self._settle(member)
        if member.cohort is not before:
            return
        self._leave(member)
        member.served_to = self._tape.end
        if topics:
            cohort = self._cohort(topics, form)
            cohort.members[member] = None
            member.cohort = cohort

    def remove(self, member: Member) -> None:
        """Remove ``member``; nothing more is written to it."""
        self._leave(member)
        member.served_to = self._tape.end  # ``publish`` skips it

    def deliver(self, member: Member, messages: list[Message], offsets: list[int]) -> None:
        """Write ``messages`` to one ``member``, in the wire form of its cohort.

        Where the wire form states positions, the last message states the position at the end of the
        tape.

        Args:
            member: the member.
            messages: at least one.
            offsets: the tape offset of each message.

        Raises:
            AssertionError: the member has no cohort.
        """
        cohort = member.cohort
        if cohort is None:
            raise AssertionError("a member without a cohort has no wire form")
        form = cohort.form
        pieces = [form.data(message, "") for message in messages]
        if form.states_position:
            # Stated once, after all: the cohort's own position may be in the middle of a batch.
            position = to_text(self._tape.position(cohort.topics, self._tape.end))
            pieces[-1] = form.data(messages[-1], position)
        self.deliver_chunk(member, Chunk(pieces, messages, offsets))

    def deliver_chunk(self, member: Member, chunk: Chunk) -> None:
        """Write ``chunk``, made for its wire form, to one ``member`` of a cohort.

        Raises:
            AssertionError: the member has no cohort.
        """
        cohort = member.cohort
        if cohort is None:
            raise AssertionError("a member without a cohort has no wire form")
        member.write(chunk)
        self.deliveries[cohort.form.kind] += chunk.count
        self.bytes_out += chunk.size

    def deliver_recorded(self, member: Member, chunk: Chunk, form: WireForm) -> None:
        """Write ``chunk`` of recorded messages, made for ``form``, to one ``member``.

        The member needs no cohort.
        """
        # Its topics are not live for this member: all its messages get the next offset.
        member.write(chunk.placed(self._tape.end + 1))
        self.deliveries[form.kind] += chunk.count
        self.bytes_out += chunk.size

    def listeners(self, topic: Topic) -> list[Member]:
        """Return the members of ``topic`` with a wire form that has notices."""
        return [
            member
            for cohort in self._by_topic.get(topic, ())
            if cohort.form.has_notices
            for member in cohort.members
        ]

    def ended_by_gaps(self, topic: Topic) -> list[Member]:
        """Return the members of ``topic`` with a wire form that ends at gaps."""
        return [
            member
            for cohort in self._by_topic.get(topic, ())
            if cohort.form.ends_at_gaps
            for member in cohort.members
        ]

    def deflates(self, topic: Topic) -> bool:
        """Say whether a member of ``topic`` has negotiated compression of large messages."""
        return any(cohort.form.deflates for cohort in self._by_topic.get(topic, ()))

    def topics(self, channel: str) -> list[Topic]:
        """Return the topics of one channel that have members."""
        return [topic for topic in self._by_topic if topic.channel == channel]

    async def publish(self, messages: list[Message]) -> None:
        """Write ``messages``, the newest on the tape, to all members of their topics.

        May yield between writes, but waits for no subscriber. One call at a time.
        """
        end = self._tape.end
        self._publishing_after = end - len(messages)
        try:
            touched = await self._route(messages)
            writes = 0
            for cohort in touched:
                if not cohort.members:  # its members moved or left during a checkpoint
                    cohort.pending, cohort.offsets = [], []
                    continue
                chunk = cohort.take_pending()
                if cohort.form.states_position:
                    writes += chunk.count * WRITES_PER_TURN_MAX // FORMED_PER_TURN_MAX
                served = 0
                for member in cohort.in_turn():
                    if member.served_to >= end:
                        continue
                    member.served_to = end
                    member.write(chunk)
                    served += 1
                    # A write that ends its member frees a backlog of perhaps thousands of chunks.
                    writes += 1 if member.cohort is cohort else WRITES_PER_TURN_MAX
                    if writes >= WRITES_PER_TURN_MAX:
                        writes = 0
                        await trio.lowlevel.checkpoint()
                self.deliveries[cohort.form.kind] += served * chunk.count
                self.bytes_out += served * chunk.size
        finally:
            self._publishing_after = None

    async def _route(self, messages: list[Message]) -> list[Cohort]:
        """Append each message to the ``pending`` of the cohorts of its topics; return these."""
        offset = self._tape.end - len(messages)
        touched: list[Cohort] = []
        by_topic = self._by_topic
        routed = 0
        for message in messages:
            offset += 1
            # The members of a cohort that is new since a checkpoint are served: see the table.
            cohorts = by_topic.get(message.topic, ())
            routed += len(cohorts)
            for cohort in cohorts:
                if not cohort.pending:
                    touched.append(cohort)
                cohort.pending.append(message)
                cohort.offsets.append(offset)
            if message.also is not None:
                cohorts = by_topic.get(message.also, ())
                routed += len(cohorts)
                for cohort in cohorts:
                    if message.topic not in cohort.topics:
                        if not cohort.pending:
                            touched.append(cohort)
                        cohort.pending.append(message)
                        cohort.offsets.append(offset)
            if routed >= ROUTED_PER_TURN_MAX:
                routed = 0
                await trio.lowlevel.checkpoint()
        return touched

    def _settle(self, member: Member) -> None:
        """Write the messages of the running batch that are owed to ``member``."""
        cohort, after = member.cohort, self._publishing_after
        if cohort is None or after is None or member.served_to >= self._tape.end:
            return
        # Set before the write, which may move the member: see Re-entrancy.
        member.served_to = self._tape.end
        owed = self._tape.read(after, _with_schema(cohort.topics))
        if owed:
            self.deliver(member, [message for _, message in owed], [offset for offset, _ in owed])

    def _cohort(self, topics: frozenset[Topic], form: WireForm) -> Cohort:
        key = (topics, form)
        cohort = self._cohorts.get(key)
        if cohort is None:
            position: dict[Topic, int] = {}
            if form.states_position:
                position = self._tape.position(topics, self._tape.end)
            cohort = self._cohorts[key] = Cohort(topics, form, position)
            for topic in _with_schema(topics):
                self._by_topic.setdefault(topic, {})[cohort] = None
        elif form.states_position:
            cohort.precede(self._tape.preceding(topics))
        return cohort

    def _leave(self, member: Member) -> None:
        cohort, member.cohort = member.cohort, None
        if cohort is None:
            return
        del cohort.members[member]
        if cohort.members:
            return
        del self._cohorts[cohort.topics, cohort.form]
        for topic in _with_schema(cohort.topics):
            cohorts = self._by_topic[topic]
            del cohorts[cohort]
            if not cohorts:
                del self._by_topic[topic]
