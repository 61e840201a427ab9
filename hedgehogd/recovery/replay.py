"""Replay: a stretch of the past as if it were live, at a pace of the subscriber's choice.

It is a catch-up that takes its time. At its end the stream ends, or, where none was asked
for, becomes live: once all that is stored has been given, what is left is an ordinary
catch-up, so nothing is missing. A pace of 1 never gets there; it stays as late as it began.

Books begin with the newest snapshot before the stretch, and what has changed since at once.
"""

from collections.abc import Mapping
from typing import Protocol

import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.position import Start
from hedgehogd.engine.gap_marker import InBand
from hedgehogd.protocol.commands import Pace
from hedgehogd.recovery.catch_up import CatchUp
from hedgehogd.recovery.delivery import Returning
from hedgehogd.recovery.history_port import PastPage, PastUnavailable
from hedgehogd.recovery.pages import Page, with_gaps
from hedgehogd.recovery.service import Resumes

_US = 1_000_000
_NEVER = 2**62


class Watching(Returning, Protocol):
    """Someone who watches a replay: a session."""

    def go_live(self, replay: CatchUp, starts: Mapping[Topic, Start]) -> None:
        """Go on from ``starts`` with what is live."""

    def finish(self) -> None:
        """End: the stretch is over."""


class Replay(CatchUp):
    """One stream's way through a stretch of the past."""

    def __init__(
        self, resumes: Resumes, who: Watching, starts: Mapping[Topic, Start], pace: Pace
    ) -> None:
        super().__init__(resumes, who, starts, is_strict=False)
        self._watching = who
        self._pace = pace
        self._begin_us = 0  # the receive time that is due at once; 0 while it is not known
        self._began_at = 0.0
        self._before_us = 0  # the receive time of the message before; 0 for none
        self._end = _NEVER  # the place up to which the stretch goes
        self._known: set[Topic] = set()  # books whose snapshot has been given

    async def _run(self) -> None:
        await self._reading.locate(self._progress, self._began_us)
        self._begin_us, self._began_at = await self._begin(), trio.current_time()
        self._end = await self._find_end()
        for topic in self._progress:
            if BY_TOPIC_CHANNEL[topic.channel].begins_with_snapshot:
                await self._begin_book(topic)
        while topics := self._reading.kept & self._topics():
            page = await self._next(frozenset(topics), self._reading.cursor)
            if page is None:
                self._who.expire()
                return
            if page.shared is None:
                page.shared = Page(with_gaps(page))
            with self._holding(page.shared):
                has_expired = await self._play(page.shared.messages)
            if has_expired:
                return
            self._reading.cursor = page.end
            if self._is_over(page):
                self._watching.finish()
                return
            if not page.is_last:
                continue
            if self._pace.until_us is None and self._is_present():
                self._go_live(page)
                return
            await trio.sleep(limits.RESUME_LOOK_S)

    async def _begin(self) -> int:
        """Return the receive time that is due at once: of the position, or of the first message."""
        kept = [p for topic, p in self._progress.items() if topic in self._reading.kept]
        whole = [p.after_us for p in kept if p.reached is None and not (p.is_cut or p.is_new)]
        if whole or not kept:
            return min(whole, default=0)
        page = await self._next(frozenset(self._reading.kept), self._reading.cursor - 1)
        return page.messages[0].received_us if page is not None and page.messages else 0

    async def _find_end(self) -> int:
        """Return the place up to which the stretch goes; it is not known yet if that is to come."""
        past, until_us = self._resumes.past, self._pace.until_us
        if past is None or until_us is None or not self._is_stored(until_us):
            return _NEVER
        try:
            stretches, _ = await past.stretches(self._begin_us, until_us)
        except PastUnavailable:
            return _NEVER
        return stretches[-1].last if stretches else self._reading.cursor

    async def _next(self, topics: frozenset[Topic], after: int) -> PastPage | None:
        past = self._resumes.past
        try:
            return None if past is None else await past.page(topics, after)
        except PastUnavailable:
            return None

    async def _begin_book(self, topic: Topic) -> None:
        """Give the book as it was at the beginning of the stretch, if that is known."""
        past, begin = self._resumes.past, self._reading.cursor
        try:
            snapshot = None if past is None else await past.snapshot_before(topic, begin)
        except PastUnavailable:
            snapshot = None
        if snapshot is None:
            return
        await self._give_all(self._of_known_books([snapshot]))
        after = snapshot.id
        while after < begin:
            page = await self._next(frozenset({topic}), after)
            if page is None or page.end == after:
                break
            messages = [m for m in page.messages if m.id <= begin]
            await self._give_all(self._of_known_books(messages))
            after = page.end

    async def _play(self, messages: list[Message]) -> bool:
        """Give each message when it is due; what is due together is given together.

        Returns:
            Whether the stream has expired: it has no notices, and its topics have a gap here.
        """
        messages = self._of_known_books(messages)
        due: list[Message] = []
        for message in messages:
            if message.received_us > self._end_us or message.id > self._end:
                continue
            if message.type != "notice" and not self._is_wanted(message):
                continue
            at = self._due_at(message)
            if at > trio.current_time() + limits.REPLAY_TICK_S:
                await self._give_all(due)
                due = []
                await trio.sleep_until(at)
                if not self._topics():
                    return False
            if self._is_strict and isinstance(message, InBand) and self._lacks(message):
                await self._give_all(due)
                self._expire()
                return True
            due.append(message)
        await self._give_all(due)
        return False

    async def _give_all(self, messages: list[Message]) -> None:
        if messages:
            await self._give_wanted(messages)

    def _of_known_books(self, messages: list[Message]) -> list[Message]:
        """Return ``messages`` without changes to books that are not known yet."""
        kept = []
        for message in messages:
            if BY_TOPIC_CHANNEL[message.topic.channel].begins_with_snapshot:
                if message.type == "snapshot":
                    self._known |= {message.topic, message.also or message.topic}
                elif message.type != "notice" and message.topic not in self._known:
                    continue
            kept.append(message)
        return kept

    @property
    def _end_us(self) -> int:
        until_us = self._pace.until_us
        return _NEVER if until_us is None else until_us - 1

    def _due_at(self, message: Message) -> float:
        """Return when a message is due, on trio's clock; a notice is due with what follows."""
        if not self._pace.speed or not message.received_us:
            return 0.0
        self._begin_us = self._begin_us or message.received_us
        before_us, self._before_us = self._before_us or self._begin_us, message.received_us
        if abs(message.received_us - before_us) > limits.REPLAY_STEP_S * _US:
            # The clock was set: the pace goes on from this message, by the times of its era.
            self._begin_us, self._began_at = message.received_us, trio.current_time()
        return self._began_at + (message.received_us - self._begin_us) / _US / self._pace.speed

    def _is_over(self, page: PastPage) -> bool:
        """Say whether nothing of the stretch is left, nor will be stored."""
        return page.end >= self._end or (page.is_last and self._is_stored(self._end_us))

    def _is_stored(self, received_us: int) -> bool:
        """Say whether all that was received until then has been stored."""
        return self._resumes.wall_us() - int(limits.RESUME_MARGIN_S * _US) > received_us

    def _is_present(self) -> bool:
        """Say whether the pace has come to the present, all that is stored having been given."""
        if not self._pace.speed:
            return True
        passed_s = trio.current_time() - self._began_at
        now_us = self._begin_us + passed_s * self._pace.speed * _US
        return now_us >= self._resumes.wall_us()

    def _go_live(self, page: PastPage) -> None:
        """Go on with what is live, from the last ``page``."""
        # A clock that was ahead has dated the newest records later than now.
        written_to = min(page.written_to, self._resumes.wall_us())
        given_us = written_to - int(limits.RESUME_MARGIN_S * _US)
        starts = {
            topic: Start(progress.reached, max(progress.after_us, given_us))
            for topic, progress in self._progress.items()
            if BY_TOPIC_CHANNEL[topic.channel].resumes
        }
        self._watching.go_live(self, starts)
