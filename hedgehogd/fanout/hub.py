"""The hub: which subscribers want which topics, and one write to each per batch.

A *cohort* is the set of members with the same topics and the same wire form. The bytes of
a batch are joined once per cohort, not once per member; with 500 subscribers of the same
products a batch costs one join and 500 writes.

Membership may change at any time, also while a batch is being written: the loop over
thousands of members yields after ``WRITES_PER_TURN_MAX`` writes, or fewer where messages are
formed with a position for them (``FORMED_PER_TURN_MAX``). Each member carries the tape offset
it has been served to. A write is skipped for a member that is past the batch; who joins or
moves in between gets the rest of the running batch from the tape, in the same turn, and is
past it then. So nobody misses a message and nobody gets one twice.

It imports trio for the checkpoint between turns, nothing else of it.
"""

from collections import Counter

import trio

from hedgehogd.domain.channel import LEVEL3, Topic
from hedgehogd.domain.limits import FORMED_PER_TURN_MAX, WRITES_PER_TURN_MAX
from hedgehogd.domain.message import Message
from hedgehogd.domain.position import to_text
from hedgehogd.engine.chunk import Chunk
from hedgehogd.engine.tape import Tape
from hedgehogd.fanout.member import Cohort, Member
from hedgehogd.protocol.wire import WireForm

_SCHEMA = LEVEL3.topic("")  # what the fields of level3's arrays mean; about no product


def _reached_by(topics: frozenset[Topic]) -> frozenset[Topic]:
    """Return the topics whose messages are for who has ``topics``."""
    has_arrays = any(topic.channel == LEVEL3.topic_channel for topic in topics)
    return topics | {_SCHEMA} if has_arrays else topics


class Hub:
    """Topics, cohorts and members of one instance.

    All methods but ``publish`` are plain functions: what they do happens in one turn.

    Attributes:
        deliveries: messages handed to members since start, by wire form's kind.
        bytes_out: bytes handed to members since start.
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

        What the running batch still owes it for its old topics is written first; from the
        new topics it gets everything after this call. When that write ends the member, it
        stays out.
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
        """Forget ``member``; nothing more is written to it."""
        self._leave(member)
        member.served_to = self._tape.end  # the running batch passes it by

    def give(self, member: Member, messages: list[Message], offsets: list[int]) -> None:
        """Write ``messages`` to one ``member`` that stands in a cohort.

        Args:
            member: who gets them.
            messages: at least one.
            offsets: the place on the tape that each stands at.
        """
        cohort = member.cohort
        if cohort is None:
            raise AssertionError("a member without a cohort has no wire form")
        form = cohort.form
        pieces = [form.data(message, "") for message in messages]
        if form.states_position:
            # Once, behind them all: the cohort's own position may be in the middle of a batch.
            position = to_text(self._tape.position(cohort.topics, self._tape.end))
            pieces[-1] = form.data(messages[-1], position)
        self.give_chunk(member, Chunk(pieces, messages, offsets))

    def give_chunk(self, member: Member, chunk: Chunk) -> None:
        """Write ``chunk``, made for its wire form, to one ``member`` that stands in a cohort."""
        cohort = member.cohort
        if cohort is None:
            raise AssertionError("a member without a cohort has no wire form")
        member.write(chunk)
        self.deliveries[cohort.form.kind] += chunk.count
        self.bytes_out += chunk.size

    def give_past(self, member: Member, chunk: Chunk, form: WireForm) -> None:
        """Write ``chunk``, which is not live, to one ``member``; it need stand in no cohort."""
        # The topics in it are not live for this member, so it stands nowhere on the tape.
        member.write(chunk.placed(self._tape.end + 1))
        self.deliveries[form.kind] += chunk.count
        self.bytes_out += chunk.size

    def listeners(self, topic: Topic) -> list[Member]:
        """Return the members that have ``topic`` and whose streams have notices."""
        return [
            member
            for cohort in self._by_topic.get(topic, ())
            if cohort.form.has_notices
            for member in cohort.members
        ]

    def ended_by_gaps(self, topic: Topic) -> list[Member]:
        """Return the members that have ``topic`` and whose streams a gap of it ends."""
        return [
            member
            for cohort in self._by_topic.get(topic, ())
            if cohort.form.ends_at_gaps
            for member in cohort.members
        ]

    def wants(self, topic: Topic) -> bool:
        """Say whether some member has ``topic``."""
        return topic in self._by_topic

    def deflates(self, topic: Topic) -> bool:
        """Say whether some member gets large messages of ``topic`` compressed."""
        return any(cohort.form.deflates for cohort in self._by_topic.get(topic, ()))

    def topics(self, channel: str) -> list[Topic]:
        """Return the topics of one channel that some member has."""
        return [topic for topic in self._by_topic if topic.channel == channel]

    async def publish(self, messages: list[Message]) -> None:
        """Write ``messages``, which are the newest on the tape, to all who want them.

        May yield between writes, but waits for no subscriber. One call at a time.
        """
        end = self._tape.end
        offset = self._publishing_after = end - len(messages)
        touched: list[Cohort] = []
        by_topic = self._by_topic
        for message in messages:
            offset += 1
            for cohort in by_topic.get(message.topic, ()):
                if not cohort.pending:
                    touched.append(cohort)
                cohort.pending.append(message)
                cohort.offsets.append(offset)
            if message.also is not None:
                for cohort in by_topic.get(message.also, ()):
                    if message.topic not in cohort.topics:
                        if not cohort.pending:
                            touched.append(cohort)
                        cohort.pending.append(message)
                        cohort.offsets.append(offset)
        try:
            writes = 0
            for cohort in touched:
                if not cohort.members:  # they moved or left while others were written
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
                    writes += 1
                    if writes >= WRITES_PER_TURN_MAX:
                        writes = 0
                        await trio.lowlevel.checkpoint()
                self.deliveries[cohort.form.kind] += served * chunk.count
                self.bytes_out += served * chunk.size
        finally:
            self._publishing_after = None

    def _settle(self, member: Member) -> None:
        """Write to ``member`` what the running batch still owes it."""
        cohort, after = member.cohort, self._publishing_after
        if cohort is None or after is None or member.served_to >= self._tape.end:
            return
        # First: this write may conflate, and so move the member, which would owe it again.
        member.served_to = self._tape.end
        owed = self._tape.read(after, _reached_by(cohort.topics))
        if owed:
            self.give(member, [message for _, message in owed], [offset for offset, _ in owed])

    def _cohort(self, topics: frozenset[Topic], form: WireForm) -> Cohort:
        key = (topics, form)
        cohort = self._cohorts.get(key)
        if cohort is None:
            position: dict[Topic, int] = {}
            if form.states_position:
                position = self._tape.position(topics, self._tape.end)
            cohort = self._cohorts[key] = Cohort(topics, form, position)
            for topic in _reached_by(topics):
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
        for topic in _reached_by(cohort.topics):
            cohorts = self._by_topic[topic]
            del cohorts[cohort]
            if not cohorts:
                del self._by_topic[topic]
