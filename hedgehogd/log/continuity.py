"""Where the log's topics end, and which messages of a tape continue them.

At the start of a term the log ends somewhere within the writer's tape: the tape reaches back
further, or begins later. Messages with numbers continue the log after its last number; numbers may
start again, so the place on the tape is searched, not only compared. Messages without numbers are
compared with the end of the log byte for byte. No clock decides: it may have been set.

A tape of a process that began after the last writer had ended repeats nothing of the log, except
for the last number of a topic, with which the exchange greets a new connection.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, FULL, LEVEL3, MATCHES, TICKER, Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapKind, GapRecord, Record

_DENSE = frozenset({MATCHES.topic_channel, FULL.topic_channel, LEVEL3.topic_channel})
_NUMBERED = _DENSE | {TICKER.topic_channel}
_BY_SEQUENCE, _BY_TRADE_ID, _BY_BYTES, _BOOK = range(4)
BOOKS = frozenset(n for n, channel in BY_TOPIC_CHANNEL.items() if channel.begins_with_snapshot)
"""The topic channels whose messages are changes to a snapshot."""


def number_of(topic: Topic, message: Message) -> int | None:
    """Return the number by which a message continues ``topic``, one of its topics.

    A trade id on ``matches``, a sequence on ``ticker``, ``full`` and ``level3``; else None.
    """
    if topic.channel == MATCHES.topic_channel:
        return message.trade_id
    return message.sequence if topic.channel in _NUMBERED else None


class Ends:
    """The ends of the topics in the log, noted from its last record backwards.

    Noting a message costs some tenths of a µs.
    """

    def __init__(self) -> None:
        self._archived: dict[Topic, int | None] = {}  # topics of the archive, and last numbers
        self._newest: dict[Topic, tuple[int, deque[int]]] = {}  # by which number, and these
        self._payloads: dict[Topic, deque[bytes]] = {}
        self._gapped: dict[Topic, None] = {}  # topics whose last record is a gap without an end

    def note_numbers(self, topic: Topic, sequence: int | None, trade_id: int | None) -> None:
        """Note the last sequence and trade id of a topic in a part of the archive.

        A later call has the numbers of an older part.
        """
        number = trade_id if topic.channel == MATCHES.topic_channel else sequence
        if topic.channel not in _NUMBERED:
            number = None
        if self._archived.get(topic) is None:
            self._archived[topic] = number

    def wants(self, topic: Topic) -> bool:
        """Say whether an older message of a topic would be noted."""
        found = self._newest.get(topic)
        if found is None:
            return True
        kind, newest = found
        if kind == _BOOK:
            return False
        if kind == _BY_BYTES:
            return len(self._payloads.get(topic, ())) < limits.LOG_COMPARED_MESSAGES_MAX
        return len(newest) < limits.LOG_COMPARED_NUMBERS_MAX

    def note(self, records: Iterable[Record]) -> None:
        """Note the records of the log before those that were noted, newest first.

        Messages of topics for which ``wants`` is False may be left out.
        """
        for record in records:
            if isinstance(record, Message):
                self._note_message(record.topic, record)
                if record.also is not None:
                    self._note_message(record.also, record)
            elif isinstance(record, GapRecord):
                is_last = record.topic not in self._newest
                if is_last and record.last is None:
                    self._gapped[record.topic] = None

    def _note_message(self, topic: Topic, message: Message) -> None:
        kind, newest = self._newest.get(topic) or self._begin(topic)
        if kind == _BOOK:
            return
        number = None
        if kind == _BY_SEQUENCE:
            number = message.sequence
        elif kind == _BY_TRADE_ID:
            number = message.trade_id
        if number is not None:
            if len(newest) < limits.LOG_COMPARED_NUMBERS_MAX:
                newest.appendleft(number)
        elif topic is message.topic:
            payloads = self._payloads.setdefault(topic, deque())
            if len(payloads) < limits.LOG_COMPARED_MESSAGES_MAX:
                payloads.appendleft(message.payload)

    def _begin(self, topic: Topic) -> tuple[int, deque[int]]:
        kind = _BOOK if topic.channel in BOOKS else _BY_BYTES
        if topic.channel in _NUMBERED:
            kind = _BY_TRADE_ID if topic.channel == MATCHES.topic_channel else _BY_SEQUENCE
        begun = self._newest[topic] = kind, deque()
        return begun

    def numbers(self) -> dict[Topic, int]:
        """Return the last number of each numbered topic."""
        archived = {topic: last for topic, last in self._archived.items() if last is not None}
        noted = {topic: newest[-1] for topic, (_, newest) in self._newest.items() if newest}
        return archived | noted

    def first(self, topic: Topic) -> int:
        """Return the number with which the newest numbers of a topic began, or began again.

        0 if that is before the noted messages, or not known.
        """
        _, newest = self._newest.get(topic, (0, ()))
        first = 0
        for number in reversed(newest):
            if first and number > first:
                return first
            first = number
        is_whole = len(newest) < limits.LOG_COMPARED_NUMBERS_MAX and topic not in self._archived
        return first if is_whole else 0

    def newest(self, topic: Topic) -> list[bytes]:
        """Return the payloads of the newest messages of a topic without numbers, oldest first."""
        return list(self._payloads.get(topic, ()))

    def compared_topics(self) -> list[Topic]:
        """Return the topics of messages without numbers."""
        return list(self._payloads)

    def topics(self) -> set[Topic]:
        """Return all topics of the log, those of books included."""
        return {*self._archived, *self._newest}

    def gapped(self) -> set[Topic]:
        """Return the topics whose last record is a gap without a last number."""
        return set(self._gapped)


def _is_compared(message: Message) -> bool:
    """Say whether bytes decide if the log has a message: it has no number and changes no book."""
    return message.topic.channel not in BOOKS and number_of(message.topic, message) is None


class _Era(NamedTuple):
    """The part of a topic's messages on a tape within which numbers rise.

    Attributes:
        distance: how far the log's last number is from its place among the numbers of the era; 0 if
            one of them is equal, or the next one.
        offset: that place: the log has the messages up to here.
        is_behind: every number of the era is at or below the log's last one.
    """

    distance: float
    offset: int
    is_behind: bool


class Continuity:
    """Decides which messages of a tape continue the log, and which numbers are missing between.

    Args:
        ends: the ends of the log's topics at the start of the term.
        on_tape: the messages on the tape then, oldest first.
        begin: the offset of the first of them; that of each is one more than that before.
        overlaps: True if the process may have received messages that the last writer appended.
        now: seconds of a monotonic clock.
    """

    def __init__(
        self,
        ends: Ends,
        on_tape: Sequence[Message] = (),
        begin: int = 1,
        *,
        overlaps: bool = True,
        now: float = 0.0,
    ) -> None:
        self._numbers = ends.numbers()
        self._repeats: set[int] = set()  # offsets of messages that the log has
        self._end_offset = 0
        # The newest number that arrived here, while the log has later ones: the feed may lag.
        self._late: dict[Topic, int] = {}
        self._late_bytes: dict[Topic, Counter[bytes]] = {}
        self._until = now + limits.LOG_LATE_MAX_S
        self._may_miss: dict[Topic, int] = {}  # tickers: a gap may follow this number
        self._overrun: set[Topic] = set()  # topics without a message since messages left the tape
        self._known = ends.topics()
        self._gapped = ends.gapped()
        by_topic: dict[Topic, list[tuple[int, Message]]] = {}
        for offset, message in enumerate(on_tape, begin):
            by_topic.setdefault(message.topic, []).append((offset, message))
        if overlaps:
            self._begin_numbered(ends, by_topic)
            self._begin_compared(ends, by_topic)
            self._end_offset = max(self._repeats, default=0)
        else:
            # A greeting has the last number.
            self._late = {topic: last - 1 for topic, last in self._numbers.items()}

    @property
    def reaches(self) -> bool:
        """True if the tape has messages from before the end of the log."""
        return bool(self._repeats or self._late or self._late_bytes)

    @property
    def end_offset(self) -> int:
        """The offset of the last message of the tape that the log had; 0 for none."""
        return self._end_offset

    def _begin_numbered(self, ends: Ends, by_topic: dict[Topic, list[tuple[int, Message]]]) -> None:
        for topic, last in self._numbers.items():
            found = [
                (offset, number)
                for offset, message in by_topic.get(topic, ())
                if (number := number_of(topic, message)) is not None
            ]
            first = ends.first(topic)  # the log has no lower number since they began again
            end, is_behind = _place_of(found, first, last)
            of_topic = by_topic.get(topic, ())  # those without a number included
            self._repeats.update(offset for offset, _ in of_topic if offset <= end)
            if is_behind:
                self._late[topic] = max(found[-1][1] if found else -1, first - 1)

    def _begin_compared(self, ends: Ends, by_topic: dict[Topic, list[tuple[int, Message]]]) -> None:
        for topic in ends.compared_topics():
            logged = ends.newest(topic)
            found = [(o, m.payload) for o, m in by_topic.get(topic, ()) if _is_compared(m)]
            end, following = _alignment(logged, [payload for _, payload in found])
            earlier = Counter(logged[:following])
            unlike: list[int] = []  # a message between two that the log has is missing there
            for offset, payload in reversed(found[:end]):
                if earlier[payload]:
                    earlier[payload] -= 1
                    self._repeats.add(offset)
                    unlike.clear()
                else:
                    unlike.append(offset)
            self._repeats.update(unlike)  # older than all messages that are compared
            if end == len(found) and following < len(logged):
                self._late_bytes[topic] = Counter(logged[following:])

    def may_miss(self, topic: Topic) -> None:
        """Note that messages of a ticker may be missing after its last one in the log.

        A ticker leaves out numbers, so its numbers alone report no gap.
        """
        last = self._numbers.get(topic)
        if last is not None:
            self._may_miss.setdefault(topic, last)

    def tickers(self) -> list[tuple[Topic, int]]:
        """Return the tickers in the log, each with its last number."""
        channel = TICKER.topic_channel
        return [each for each in self._numbers.items() if each[0].channel == channel]

    def lose(
        self, concerns: Callable[[Topic], bool], kind: GapKind, at_us: int, *, tickers: bool = True
    ) -> list[Record]:
        """Return a gap of each topic of the log whose numbers will not report that it lost some.

        A topic has one gap, however often messages are lost, until its next message. No gap is
        returned for a dense channel: its next message has a number. That of a ticker has a first
        number and no last one.

        Args:
            concerns: says whether messages of a topic may be missing now.
            kind: why.
            at_us: the time, µs since the epoch.
            tickers: False if ``may_miss`` will be called for them.
        """
        channels = _DENSE if tickers else _NUMBERED
        topics = {
            topic
            for topic in self._known - self._gapped
            if topic.channel not in channels and concerns(topic)
        }
        self._gapped |= topics
        for topic in topics:
            self._may_miss.pop(topic, None)
        if kind is GapKind.UNRECORDED:
            self._overrun.update(t for t in self._known if t.channel in _DENSE and concerns(t))
        gaps: list[Record] = []
        for topic in sorted(topics):
            last = self._numbers.get(topic)
            first = None if last is None else last + 1
            gaps.append(GapRecord(topic, kind, first, received_us=at_us))
        return gaps

    def admit(
        self, offset: int, message: Message, now: float, *, may_miss: bool = False
    ) -> list[Record]:
        """Return the records to append for the next message of the tape.

        Args:
            offset: its offset on the tape.
            message: the message, which is the last of the records.
            now: seconds of the clock of the start.
            may_miss: True if messages of a ticker may be missing before this one.

        Returns:
            A gap record for each of its topics with missing numbers, then the message; nothing if
            the log has it already.
        """
        topic = message.topic
        number = number_of(topic, message)
        if offset in self._repeats:
            self._repeats.discard(offset)
            return []
        if self._is_late(topic, number, message, now):
            return []
        if may_miss:
            self.may_miss(topic)
        records: list[Record] = []
        for each in (topic, message.also):
            if each is not None:
                records += self._gap_before(each, message)
        records.append(message)
        return records

    def follow(self, message: Message) -> None:
        """Note a message that is appended without ``admit``: a snapshot of a book."""
        for topic in (message.topic, message.also):
            if topic is not None:
                self._known.add(topic)
                self._gapped.discard(topic)

    def leave_out(self, message: Message) -> list[Record]:
        """Return the gaps in place of a message that ``admit`` returned and that is too large."""
        gaps: list[Record] = []
        for topic in (message.topic, message.also):
            if topic is not None:
                number = number_of(topic, message)
                gaps.append(
                    GapRecord(
                        topic, GapKind.UNRECORDED, number, number, received_us=message.received_us
                    )
                )
                if number is None:
                    self._gapped.add(topic)
        return gaps

    def _is_late(self, topic: Topic, number: int | None, message: Message, now: float) -> bool:
        """Say whether the log has a message although it arrived here after the start."""
        if number is not None:
            newest = self._late.get(topic)
            if newest is None:
                return False
            last = self._numbers[topic]
            if number == last or (newest < number < last and now < self._until):
                self._late[topic] = number
                return True
            del self._late[topic]
            return False
        if now >= self._until:
            self._late_bytes.clear()
        logged = self._late_bytes.get(topic)
        if not logged or not logged[message.payload]:
            return False
        logged[message.payload] -= 1
        return True

    def _gap_before(self, topic: Topic, message: Message) -> list[Record]:
        """Note a message as the end of a topic; return the gap before it, if there is one."""
        self._known.add(topic)
        self._gapped.discard(topic)
        kind = GapKind.UNRECORDED if topic in self._overrun else GapKind.MISSING
        self._overrun.discard(topic)
        at_us = message.received_us
        number = number_of(topic, message)
        if number is None:
            return []
        last = self._numbers.get(topic)
        self._numbers[topic] = number
        if topic.channel not in _DENSE:
            last = self._may_miss.pop(topic, None)
        if last is None or number <= last + 1:
            return []
        return [GapRecord(topic, kind, last + 1, number - 1, received_us=at_us)]


def _place_of(found: Sequence[tuple[int, int]], first: int, last: int) -> tuple[int, bool]:
    """Find the log's last number on a tape.

    Of several parts of the tape that begin again at lower numbers, the one with the nearest number
    has it. Parts with the same numbers cannot be distinguished.

    Args:
        found: offsets and numbers of a topic's messages on the tape.
        first: a number below which none is in the log, since its numbers last began again.
        last: the last number of the topic in the log.

    Returns:
        The offset up to which the log has the messages, 0 for none; and whether the tape ends at or
        before the log's end, so that more messages may be repeats.
    """
    best = era = _Era(float("inf"), -1, is_behind=not found)
    previous = -1
    for offset, number in found:
        if number < previous:
            best = _nearer(best, era)._replace(is_behind=False)
            era = _Era(float("inf"), offset - 1, is_behind=False)
        previous = number
        if first <= number <= last:
            era = _Era(last - number, offset, is_behind=True)
        elif number > last and (era.is_behind or era.distance > number - last - 1):
            era = _Era(min(era.distance, number - last - 1), era.offset, is_behind=False)
    best = _nearer(best, era)
    return best.offset, best.is_behind


def _nearer(one: _Era, other: _Era) -> _Era:
    """Return the era with the place nearest to the log's end; of two equal ones the later."""
    return one if one.distance < other.distance else other


def _alignment(logged: Sequence[bytes], found: Sequence[bytes]) -> tuple[int, int]:
    """Align messages on a tape with the end of the log.

    Args:
        logged: the newest messages of a topic in the log, oldest first.
        found: its messages on the tape, oldest first.

    Returns:
        How many of ``found`` lie before the end of the log as far as the tape reaches it, and how
        many of ``logged`` lie before that place. The rest of ``logged`` may still arrive here.
    """
    if not found:
        return 0, 0
    for following in range(len(logged), 0, -1):
        ends = [at for at, payload in enumerate(found, 1) if payload == logged[following - 1]]
        if ends:
            if len(logged) == limits.LOG_COMPARED_MESSAGES_MAX:
                ends.reverse()  # the log has more of them: of equal places the last one
            return max(ends, key=lambda at: _common(logged[:following], found[:at])), following
    return 0, len(logged)  # the tape begins after the log's end


def _common(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """Return the number of equal elements at the ends of two sequences."""
    count = 0
    for left, right in zip(reversed(one), reversed(other), strict=False):
        if left != right:
            break
        count += 1
    return count
