"""Coming back: everything after a position, from the past and the tape, then live.

A topic that is resumed stands aside until its subscriber has caught up. A *catch-up* is one
task: it gives a page, waits until its bytes are written, and gives the next; first from
what is stored, as long as the tape does not reach back far enough, then from the tape. The
last page is given in the same turn in which the topic stands in, so nothing can slip
between (DESIGN §5).

What is not to be had any more is told in its place among the data. A position may also be
ahead of this instance's feed; it is waited for.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Protocol

import structlog
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import FULL, MATCHES, Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.position import Start, to_text
from hedgehogd.engine.member import Chunk
from hedgehogd.engine.pages import Page, Part, cut, in_band, with_gaps
from hedgehogd.engine.past import PastPage, PastUnavailable
from hedgehogd.engine.progress import Progress
from hedgehogd.engine.resume import Resumes
from hedgehogd.engine.tape import Known, positions
from hedgehogd.protocol import notices
from hedgehogd.protocol.wire import WireForm

log = structlog.get_logger("resume")

_US = 1_000_000


class Returning(Protocol):
    """Someone who comes back: a session.

    Attributes:
        form: how messages look on its stream.
        is_closed: it is gone.
    """

    form: WireForm
    is_closed: bool

    def resumes(self, topic: Topic, catch_up: "CatchUp") -> bool:
        """Say whether it waits for ``catch_up`` to bring ``topic``."""

    def take_past(self, chunk: Chunk) -> None:
        """Take what is not live."""

    def stand_in(self, catch_up: "CatchUp", owed: list[tuple[int, Message]], end: Message) -> None:
        """Be live from now on, behind what is ``owed``, by offset; then comes ``end``."""

    def expire(self) -> None:
        """End: what it asked for is gone, and it wants all or nothing."""

    def fail(self) -> None:
        """End: a bug of ours was met."""

    async def wait_written(self) -> None:
        """Return when nothing waits to be written to it, or it is gone."""


class CatchUp:
    """One stream's way from where it was to the present.

    Attributes:
        messages: how many it has been given.
    """

    def __init__(
        self,
        resumes: Resumes,
        who: Returning,
        starts: Mapping[Topic, Start],
        *,
        is_strict: bool = False,
        is_alone: bool = False,
    ) -> None:
        self.messages = 0
        self._resumes = resumes
        self._tape = resumes.tape
        self._who = who
        self._is_strict = is_strict
        self._others = None if is_alone else resumes.others
        self._asked: set[Topic] = set()  # of which others have been asked, once
        self._began_us = resumes.wall_us()
        self._resumed = frozenset(starts)
        self._progress = {topic: Progress(start) for topic, start in starts.items()}
        self._cursor = 0  # the place in the past up to which all has been given
        self._kept: set[Topic] = set()  # topics to be read from the past
        self._is_located = False
        self._offset = 0  # the same on the tape
        self._written = self._given()  # the position before what is being written
        self._writing: list[Message] = []

    def join(self, topics: Iterable[Topic]) -> None:
        """``topics`` are new, and become live together with those that are resumed."""
        start = Start(after_us=self._resumes.wall_us(), is_new=True)
        self._progress.update((topic, Progress(start)) for topic in topics)

    def position(self, waiting: Iterable[Message]) -> dict[Topic, int]:
        """Return the position of who still has to be sent ``waiting``."""
        still = {id(message) for message in waiting}
        position = dict(self._written)
        for message in self._writing:
            if id(message) in still:
                break
            self._move(position, message)
        return position

    async def run(self) -> None:
        """Catch up; a bug while doing so ends this stream alone."""
        try:
            await self._run()
        except Exception:
            log.exception("bug while one stream caught up")
            self._who.fail()

    async def _run(self) -> None:
        await self._wait_for_the_feed()
        while self._topics():
            behind = self._behind()
            if behind:
                await self._read_past(behind)
            elif await self._read_tape():
                self._resumes.resumed += 1
                return

    def _topics(self) -> frozenset[Topic]:
        """Return the topics that are still wanted; none when the stream is gone."""
        who = self._who
        if who.is_closed:
            return frozenset()
        return frozenset(topic for topic in self._progress if who.resumes(topic, self))

    def _behind(self) -> list[Topic]:
        """Return the topics of which something is missing on the tape."""
        return [
            topic
            for topic in sorted(self._topics())
            if not self._progress[topic].is_covered(self._tape.known_from(topic))
        ]

    def _given(self) -> dict[Topic, int]:
        return {
            topic: progress.given
            for topic, progress in self._progress.items()
            if progress.given is not None
        }

    async def _wait_for_the_feed(self) -> None:
        """Wait while a position is ahead of what has come; this instance is a little late."""
        until = trio.current_time() + limits.RESUME_AHEAD_MAX_S
        while True:
            ahead = [topic for topic in sorted(self._topics()) if await self._is_ahead(topic)]
            if not ahead:
                return
            if await self._fetch_quiet(ahead):
                continue
            if trio.current_time() >= until:
                break
            await trio.sleep(limits.RESUME_LOOK_S)
        for topic in ahead:  # its numbers are not of this market, or nobody has them any more
            progress = self._progress[topic]
            await self._tell_gap(topic, (progress.reached or 0) + 1, None)
            self._progress[topic] = Progress(Start(after_us=self._began_us, is_new=True))

    async def _is_ahead(self, topic: Topic) -> bool:
        reached = self._progress[topic].reached
        if reached is None or self._progress[topic].quiet_us is not None:
            return False
        last = self._tape.last_sequence(topic)
        if last is not None and last >= reached:
            return False
        found = await self._find(topic, reached)
        return found is None or found[1] < reached

    async def _find(self, topic: Topic, sequence: int) -> tuple[int, int] | None:
        past = self._resumes.past
        if past is not None:
            with suppress(PastUnavailable):
                return await past.find(topic, sequence)
        return None

    async def _read(self) -> PastPage | None:
        past, topics = self._resumes.past, self._kept & self._topics()
        if past is not None and topics:
            with suppress(PastUnavailable):
                return await past.page(topics, self._cursor)
        return None

    async def _read_past(self, behind: list[Topic]) -> None:
        """Give the next page of what is stored; give up what is not there."""
        if not self._is_located:
            await self._locate()
        lost = [topic for topic in behind if not self._is_kept(topic)]
        page = await self._read()
        if page is None or lost:
            await self._ask_others(lost or behind)
            return
        if page.shared is None:
            page.shared = Page(with_gaps(page))
        await self._give(page.shared)
        self._cursor = page.end
        if not page.is_last:
            return
        for topic in behind:
            self._join_tape(topic, page.written_to)
        behind = self._behind()
        if not behind:
            return
        waited_s = (self._resumes.wall_us() - self._began_us) / _US
        if waited_s > limits.RESUME_PATIENCE_S:
            await self._ask_others(behind)
        elif waited_s > limits.RESUME_ASK_S and not self._asked.issuperset(behind):
            await self._ask_others(behind, is_last=False)
        else:
            await trio.sleep(limits.RESUME_LOOK_S)  # what is missing is about to be written

    def _join_tape(self, topic: Topic, written_to: int) -> None:
        """All that is stored has been given: see whether the tape goes on from there."""
        progress, known = self._progress[topic], self._tape.known_from(topic)
        margin_us = int(limits.RESUME_MARGIN_S * _US)
        if known is None:
            flows_us = self._tape.flows_since(topic.product_id)
            if flows_us is not None and written_to > flows_us + margin_us:
                # All up to there was stored and given, and what came later would be here.
                progress.quiet_us = flows_us - 1
        elif written_to > known.received_us + margin_us and not progress.is_cut:
            # All up to there was stored, so nothing lies between it and the tape.
            self._reach(progress, known)

    async def _locate(self) -> None:
        """Find where in the past the earliest of the positions is, and what is kept at all."""
        self._is_located = True
        past = self._resumes.past
        places: list[int] = []
        for topic, progress in self._progress.items():
            if past is None or not past.keeps(topic):
                continue
            self._kept.add(topic)
            if progress.is_new:
                continue
            if progress.reached is not None:
                found = await self._find(topic, progress.reached)
                if found is not None:
                    places.append(found[0])
                    continue
            first = None
            with suppress(PastUnavailable):
                first = await past.first_place(topic)
            progress.is_cut = first is None or progress.after_us < first
            places.append(progress.after_us if first is None else max(first - 1, progress.after_us))
        # A trade that came on full is there twice, and is given once, for both.
        full = {t.product_id for t in self._kept if t.channel == FULL.topic_channel}
        self._kept -= {
            t for t in self._kept if t == MATCHES.topic(t.product_id) and t.product_id in full
        }
        self._cursor = min(places, default=self._began_us)

    def _is_kept(self, topic: Topic) -> bool:
        full = FULL.topic(topic.product_id)
        return topic in self._kept or (
            topic.channel == MATCHES.topic_channel and full in self._kept
        )

    async def _ask_others(self, topics: list[Topic], *, is_last: bool = True) -> None:
        """Take from other instances what nobody here has; if they lack it too, give it up.

        Not before ``is_last``: it may yet be written.
        """
        found = await self._fetch(topics, again=is_last)
        missing = [t for t in topics if found is None or self._tape.known_from(t) is None]
        await self._give(Page(found or []))
        for topic in topics:
            known = self._tape.known_from(topic)
            if topic not in missing and known is not None:
                self._reach(self._progress[topic], known)
        if missing and is_last:
            await self._give_up(missing)

    async def _fetch(self, topics: list[Topic], *, again: bool = False) -> list[Message] | None:
        """Return what others have of ``topics`` and is not on the tape; None when they lack some.

        Of each topic they are asked once, and ``again`` before it is given up: those who lacked
        it may have been starting.
        """
        were_asked = not again and self._asked.intersection(topics)
        self._asked.update(topics)
        after = {topic: self._progress[topic].reached for topic in topics}
        known = {topic: number for topic, number in after.items() if number is not None}
        if self._others is None or were_asked or len(known) < len(topics):
            return None
        found = await self._others.fetch(known)
        return None if found is None else [each for each in found if not self._is_on_tape(each)]

    def _is_on_tape(self, message: Message) -> bool:
        known = self._tape.known_from(message.topic)
        if known is None:
            return False
        return (message.sequence or 0) > known.before

    async def _fetch_quiet(self, topics: list[Topic]) -> bool:
        """Take what others have of topics that have not spoken here; say whether that is all.

        What comes later has to come here as well, so our own feed must have flowed for a while.
        """
        since_us = self._resumes.wall_us() - int(limits.RESUME_MARGIN_S * _US)
        quiet = []
        for topic in topics:
            flows_us = self._tape.flows_since(topic.product_id)
            is_silent = self._tape.known_from(topic) is None and topic not in self._asked
            if is_silent and flows_us is not None and flows_us < since_us:
                quiet.append(topic)
        # A trade that is behind both of its positions has its place among the events of full.
        twins = [
            full
            for topic in quiet
            if topic.channel == MATCHES.topic_channel
            and (full := FULL.topic(topic.product_id)) in self._progress
            and full not in quiet
        ]
        found = await self._fetch([*quiet, *twins]) if quiet else None
        if found is None:
            return False
        await self._give(Page(found))
        for topic in (*quiet, *twins):
            known = self._tape.known_from(topic)
            if known is None:
                flows_us = self._tape.flows_since(topic.product_id) or 0
                self._progress[topic].quiet_us = flows_us - 1
            else:
                self._reach(self._progress[topic], known)
        return True

    async def _give_up(self, topics: list[Topic]) -> None:
        """Nobody has what is between these positions and the tape: say so, and go on there."""
        for topic in topics:
            progress, known = self._progress[topic], self._tape.known_from(topic)
            first = None if progress.reached is None else progress.reached + 1
            if known is None:
                await self._tell_gap(topic, first, None)
                self._progress[topic] = Progress(Start(after_us=self._began_us, is_new=True))
                continue
            self._reach(progress, known)
            await self._tell_gap(topic, first, progress.reached)

    def _reach(self, progress: Progress, known: Known) -> None:
        """The tape is next: its record begins at ``known``."""
        reached = progress.reached
        progress.reached = known.before if reached is None else max(reached, known.before)
        progress.is_cut = False

    async def _tell_gap(self, topic: Topic, first: int | None, last: int | None) -> None:
        """Say that a topic lacks something here; or end, for who wants all or nothing."""
        self._resumes.expired += 1
        if self._is_strict or not self._who.form.has_notices:
            self._who.expire()
            return
        await self._give(Page([in_band(topic, notices.lost(topic, first, last))]))

    async def _read_tape(self) -> bool:
        """Give the next window of the tape, or all that is left; say whether that was all."""
        topics, width = self._topics(), limits.RESUME_WINDOW_MESSAGES_MAX
        self._offset = max(self._offset, self._tape.begin - 1)
        window = self._offset // width
        end = (window + 1) * width
        if end <= self._tape.end:
            page = self._resumes.tape_page(topics, window)
            if not page.messages:
                await trio.lowlevel.checkpoint()  # there may be thousands of these
            await self._give(page)
            self._offset = end
            return False
        owed = [
            (offset, message)
            for offset, message in self._tape.read(self._offset, topics)
            if self._is_wanted(message)
        ]
        self._count(len(owed))
        for topic, given in self._given().items():
            self._tape.precede(topic, given)
        notice = in_band(Topic("", ""), notices.resumed(self._resumed, self.messages))
        self._who.stand_in(self, owed, notice)
        return True

    async def _give(self, page: Page) -> None:
        """Write a page to the stream, as far as it is wanted, in parts that it keeps up with."""
        for topic, first in page.first.items():
            progress = self._progress.get(topic)
            if progress is not None and progress.is_cut:
                progress.is_cut = False
                reached = progress.reached
                if reached is None or first > reached + 1:
                    await self._tell_gap(topic, None if reached is None else reached + 1, first - 1)
        form = self._who.form
        is_whole = not form.states_position and all(
            self._progress[topic].wants(first, 0) and self._progress[topic].reached is not None
            for topic, first in page.first.items()
            if topic in self._progress
        )
        if is_whole and form.has_notices:
            for part, chunk in page.parts(form):
                await self._write(part, chunk)
            return
        await self._give_wanted(page)

    async def _give_wanted(self, page: Page) -> None:
        wanted = [message for message in page.messages if self._is_wanted(message)]
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

    def _chunk_of(self, messages: list[Message]) -> Chunk:
        """Return ``messages`` in the stream's form, with positions where it states them."""
        form = self._who.form
        if not form.states_position:
            return Chunk([form.data(message, "") for message in messages], messages, [])
        position, pieces = dict(self._written), []
        every = len(self._progress) <= limits.SSE_ID_TOPICS_MAX
        for index, message in enumerate(messages, 1):
            self._move(position, message)
            states = every or index == len(messages)
            pieces.append(form.data(message, to_text(position) if states else ""))
        return Chunk(pieces, messages, [])

    def _is_wanted(self, message: Message) -> bool:
        if message.type == "notice":
            return self._who.form.has_notices
        is_own = message.topic in self._progress
        progress = self._progress[message.topic if is_own else message.also or message.topic]
        number = message.sequence
        return number is None or progress.wants(number, message.received_us)

    def _advance(self, last: Mapping[Topic, int]) -> None:
        """All up to these sequences has been given."""
        for topic, sequence in last.items():
            progress = self._progress.get(topic)
            if progress is not None:
                progress.reached = max(progress.reached or 0, sequence)
                progress.given = max(progress.given or 0, sequence)

    def _move(self, position: dict[Topic, int], message: Message) -> None:
        for topic in positions(message):
            if topic in self._progress:
                position[topic] = message.sequence or 0

    def _count(self, count: int) -> None:
        self.messages += count
        self._resumes.replayed += count
