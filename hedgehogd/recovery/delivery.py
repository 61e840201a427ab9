"""What one stream that comes back has been given, and giving it the next part.

What is given moves its position only once it is written: a farewell may come in between.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import FULL, MATCHES, Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.position import Start, to_text
from hedgehogd.engine.budget import Account
from hedgehogd.engine.chunk import Chunk
from hedgehogd.engine.gap_marker import InBand, in_band
from hedgehogd.engine.tape import positions
from hedgehogd.protocol import notices
from hedgehogd.protocol.wire import WireForm
from hedgehogd.recovery.history_port import BackfilledTrade
from hedgehogd.recovery.pages import Page, Part, cut, past_chunk
from hedgehogd.recovery.progress import Progress
from hedgehogd.recovery.service import Resumes


class Returning(Protocol):
    """Someone who comes back: a session.

    Attributes:
        form: how messages look on its stream.
        is_closed: it is gone.
        share: the address or network by which its work is counted.
    """

    form: WireForm
    is_closed: bool
    share: str

    def resumes(self, topic: Topic, catch_up: "Giving") -> bool:
        """Say whether it waits for ``catch_up`` to bring ``topic``."""

    def take_past(self, chunk: Chunk) -> None:
        """Take what is not live."""

    def stand_in(self, catch_up: "Giving", owed: list[tuple[int, Message]], end: Message) -> None:
        """Be live from now on, behind what is ``owed``, by offset; then comes ``end``."""

    def expire(self) -> None:
        """End: what it asked for is gone, and it wants all or nothing."""

    def fail(self) -> None:
        """End: a bug of ours was met."""

    def shed(self) -> None:
        """End: all subscribers together hold too much memory, and it the most."""

    async def wait_written(self) -> None:
        """Return when nothing waits to be written to it, or it is gone."""


class Giving:
    """One stream that comes back, and what it has been given.

    Attributes:
        messages: how many it has been given.
        lacking: the topics of which it was told that something is missing.
    """

    def __init__(
        self,
        resumes: Resumes,
        who: Returning,
        starts: Mapping[Topic, Start],
        *,
        is_strict: bool = False,
    ) -> None:
        self.messages = 0
        self.lacking: set[Topic] = set()
        self._resumes = resumes
        self._who = who
        self._is_strict = is_strict or not who.form.has_notices  # all, or it ends
        self._progress = {topic: Progress(start) for topic, start in starts.items()}
        self._written = self._given()  # the position before what is being written
        self._writing: list[Message] = []
        # The page in use and the charge for it. The account, which refers to this object, is as
        # short-lived: a stream that has ended is freed at once, without the cycle collector.
        self._held: tuple[Account, Page, int] | None = None

    def position(self, waiting: Iterable[Message]) -> dict[Topic, int]:
        """Return the position of who still has to be sent ``waiting``."""
        still = {id(message) for message in waiting}
        position = dict(self._written)
        for message in self._writing:
            if id(message) in still:
                break
            self._move(position, message)
        return position

    def _topics(self) -> frozenset[Topic]:
        """Return the topics that are still wanted; none when the stream is gone."""
        who = self._who
        if who.is_closed:
            return frozenset()
        return frozenset(topic for topic in self._progress if who.resumes(topic, self))

    def _given(self) -> dict[Topic, int]:
        return {
            topic: progress.given
            for topic, progress in self._progress.items()
            if progress.given is not None
        }

    @contextmanager
    def _holding(self, page: Page) -> Iterator[None]:
        """Count ``page`` among what waits for subscribers while it is being given."""
        account = self._resumes.budget.account(self._shed)
        self._held = account, page, account.share(page, page.weight)
        account.relieve()
        try:
            yield
        finally:
            self._let_go()

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            account, page, charge = held
            account.release(page, charge)

    def _shed(self) -> None:
        self._let_go()  # the task that gives it returns in its next turn
        self._who.shed()

    async def _give(self, page: Page) -> None:
        """Write a page to the stream, as far as it is wanted, in parts that it keeps up with."""
        with self._holding(page):
            await self._give_held(page)

    async def _give_held(self, page: Page) -> None:
        for topic, first in page.first.items():
            progress = self._progress.get(topic)
            if progress is not None and progress.is_cut:
                reached, is_cut = progress.reached, progress.is_cut_before(first)
                progress.is_cut = False
                if is_cut:
                    await self._tell_gap(topic, None if reached is None else reached + 1, first - 1)
        holes = [hole for hole in page.holes if self._lacks(hole)]
        if holes and self._is_strict:
            await self._give_wanted(page.messages[: page.messages.index(holes[0])])
            self._expire()
            return
        self._note_lacking(hole.topic for hole in holes)
        is_whole = not self._who.form.states_position and all(
            self._progress[topic].wants(first, 0) and self._progress[topic].reached is not None
            for topic, first in page.first.items()
            if topic in self._progress
        )
        if is_whole and len(holes) == len(page.holes):
            for part, chunk in page.parts(self._who.form):
                await self._write(part, chunk)
            return
        await self._give_wanted(page.messages)

    async def _give_wanted(self, messages: Iterable[Message]) -> None:
        wanted = [message for message in messages if self._is_wanted(message)]
        for part in cut(wanted):
            await self._write(Part(part), None)

    async def _write(self, part: Part, chunk: Chunk | None) -> None:
        """Give a part when it is our turn: a thousand at once take several turns of the loop."""
        async with self._resumes.turns:
            if not self._topics():
                return
            self._written, self._writing = self._given(), part.messages
            self._count(part.count)
            self._advance(part.last)
            self._who.take_past(self._chunk_of(part.messages) if chunk is None else chunk)
            await trio.lowlevel.checkpoint()  # the next ones come in the next turn
        await self._who.wait_written()
        self._written, self._writing = self._given(), []

    async def _tell_gap(self, topic: Topic, first: int | None, last: int | None) -> None:
        """Say that a topic lacks something here; or end, for who wants all or nothing."""
        if self._is_strict:
            self._expire()
            return
        self._note_lacking([topic])
        await self._write(Part([in_band(topic, notices.lost(topic, first, last))]), None)

    def _note_lacking(self, topics: Iterable[Topic]) -> None:
        for topic in topics:
            self._resumes.expired += 1
            self.lacking.add(topic)

    def _expire(self) -> None:
        self._resumes.expired += 1
        self._who.expire()

    def _chunk_of(self, messages: list[Message]) -> Chunk:
        """Return ``messages`` in the stream's form, with positions where it states them."""
        form = self._who.form
        if not form.states_position:
            return past_chunk([form.data(message, "") for message in messages], messages)
        position, pieces = dict(self._written), []
        every = len(self._progress) <= limits.SSE_ID_TOPICS_MAX
        for index, message in enumerate(messages, 1):
            self._move(position, message)
            states = every or index == len(messages)
            pieces.append(form.data(message, to_text(position) if states else ""))
        return past_chunk(pieces, messages)

    def _is_wanted(self, message: Message) -> bool:
        if isinstance(message, InBand):
            return self._who.form.has_notices and self._lacks(message)
        if isinstance(message, BackfilledTrade):
            progress = self._progress.get(message.topic)
            return progress is not None and progress.lacks(message)
        is_own = message.topic in self._progress
        progress = self._progress[message.topic if is_own else message.also or message.topic]
        number = message.sequence
        return number is None or progress.wants(number, message.published_us)

    def _lacks(self, hole: InBand) -> bool:
        """Say whether what is missing there is wanted."""
        progress = self._progress.get(hole.topic)
        if progress is None or self._carrier(hole.topic) != hole.topic:
            return False  # a trade that is missing is missing in full as well
        return progress.lacks(hole)

    def _carrier(self, topic: Topic) -> Topic:
        """Return the topic whose messages bring those of ``topic``: full brings trades too.

        So who has been given full up to somewhere has all trades up to there.
        """
        if topic.channel == MATCHES.topic_channel:
            full = FULL.topic(topic.product_id)
            progress = self._progress.get(full)
            if progress is not None and not progress.is_new:
                return full
        return topic

    def _advance(self, last: Mapping[Topic, int]) -> None:
        """All up to these sequences has been given."""
        for topic, sequence in last.items():
            progress = self._progress.get(topic)
            if progress is not None:
                progress.reached = max(progress.reached or 0, sequence)
                progress.given = max(progress.given or 0, sequence)
                progress.given_at = trio.current_time()

    def _move(self, position: dict[Topic, int], message: Message) -> None:
        for topic in positions(message):
            if topic in self._progress:
                position[topic] = message.sequence or 0

    def _count(self, count: int) -> None:
        self.messages += count
        self._resumes.replayed += count
