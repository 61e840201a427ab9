"""Coming back: everything after a position, from the past and the tape, then live.

A topic that is resumed stands aside until its subscriber has caught up. A *catch-up* is one
task: it gives a page, waits until its bytes are written, and gives the next; first from
what is stored, as long as the tape does not reach back far enough, then from the tape. The
last page is given in the same turn in which the topic stands in, so nothing can slip
between (DESIGN §5).

What is not to be had any more is told in its place among the data. A position may also be
ahead of this instance's feed; it is waited for.
"""

import math
from collections.abc import Iterable, Mapping

import structlog
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import FULL, MATCHES, Topic
from hedgehogd.domain.position import Start
from hedgehogd.engine.gap_marker import InBand, in_band
from hedgehogd.engine.tape import Known
from hedgehogd.protocol import notices
from hedgehogd.recovery.delivery import Giving, Returning
from hedgehogd.recovery.history_cursor import Reading
from hedgehogd.recovery.history_port import CALLER, PastPage
from hedgehogd.recovery.pages import Page, with_gaps, with_holes
from hedgehogd.recovery.peer_recovery import Asks, Found, Neighbours
from hedgehogd.recovery.progress import Progress
from hedgehogd.recovery.service import Resumes

log = structlog.get_logger("resume")

_US = 1_000_000


class CatchUp(Giving):
    """One stream's way from where it was to the present."""

    def __init__(
        self,
        resumes: Resumes,
        who: Returning,
        starts: Mapping[Topic, Start],
        *,
        is_strict: bool = False,
        is_alone: bool = False,
        sent: int = 0,
    ) -> None:
        super().__init__(resumes, who, starts, is_strict=is_strict)
        self.messages = sent
        self._tape = resumes.tape
        self._neighbours = Neighbours(resumes, is_alone=is_alone)
        self._began_us = resumes.wall_us()
        self._resumed = frozenset(starts)
        self._reading = Reading(resumes)
        self._told = 0  # the place in the past up to which nobody has what is missing
        self._offset = 0  # up to which all on the tape has been given
        self._last: dict[Topic, int | None] = {}  # what has come here of what is past the tape
        self._moved_at = -math.inf  # when some of that came last
        self._flows_at = math.inf  # since when it comes, or nothing does

    def join(self, topics: Iterable[Topic]) -> None:
        """``topics`` are new, and become live together with those that are resumed."""
        start = Start(after_us=self._resumes.wall_us(), is_new=True)
        self._progress.update((topic, Progress(start)) for topic in topics)

    async def run(self) -> None:
        """Catch up; a bug while doing so ends this stream alone.

        The task reads the past in the turn of the stream's address.
        """
        CALLER.set(self._who.share)
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
            elif ahead := self._past_tape():
                await self._follow(ahead)
            elif await self._read_tape():
                self._resumes.resumed += 1
                return

    def _behind(self) -> list[Topic]:
        """Return the topics of which something is missing on the tape."""
        return [topic for topic in sorted(self._topics()) if not self._is_covered(topic)]

    def _is_covered(self, topic: Topic) -> bool:
        topic = self._carrier(topic)
        return self._progress[topic].is_covered(self._record_of(topic))

    def _record_of(self, topic: Topic) -> Known | None:
        """Return where what is to be taken from the tape begins."""
        if self._progress[topic].is_given_up:
            return self._tape.held_from(topic)
        return self._tape.known_from(topic)

    async def _wait_for_the_feed(self) -> None:
        """Wait while a position is ahead of what has come; this instance is a little late.

        A topic without a message here waits, beyond the deadline and for ``RESUME_PATIENCE_S`` at
        most, for ``RESUME_ASKS_MAX`` answers of peer instances: they may be busy or starting.
        """
        began = trio.current_time()
        until = began + limits.RESUME_AHEAD_MAX_S
        asks = Asks(self._tape, self._resumes.wall_us)
        while ahead := [topic for topic in sorted(self._topics()) if await self._is_ahead(topic)]:
            now = trio.current_time()
            can_ask = self._neighbours.exist and now < began + limits.RESUME_PATIENCE_S
            lost = [topic for topic in ahead if not (can_ask and asks.may_follow(topic))]
            if now >= until and lost:
                await self._lose(lost)
                continue
            quiet = asks.due(ahead) if can_ask else []
            if not quiet:
                await trio.sleep(limits.RESUME_LOOK_S)
                continue
            if await self._fetch_quiet(quiet):
                until = max(until, trio.current_time() + limits.RESUME_AHEAD_MAX_S)
            asks.answered(quiet)

    async def _lose(self, ahead: Iterable[Topic]) -> None:
        """These positions are not of this market, or nobody has what follows on them any more.

        A topic whose messages have come here meanwhile, or that has been left, is left out.
        """
        for topic in ahead:
            reached, last = self._progress[topic].reached or 0, self._tape.last_sequence(topic)
            if (last is not None and last >= reached) or topic not in self._topics():
                continue
            self._progress[topic] = Progress(Start(after_us=self._began_us, is_new=True))
            await self._tell_gap(topic, reached + 1, None)

    async def _is_ahead(self, topic: Topic) -> bool:
        reached = self._progress[topic].reached
        if reached is None or self._progress[topic].quiet_us is not None:
            return False
        last = self._tape.last_sequence(topic)
        if last is not None and last >= reached:
            return False
        found = await self._reading.find(topic, reached)
        return found is None or found[1] < reached

    async def _read_past(self, behind: list[Topic]) -> None:
        """Give the next page of what is stored; give up what is not there."""
        page = await self._read_more()
        lost = [topic for topic in behind if not self._reading.has(topic)]
        if page is None or lost:
            await self._ask_others(lost or behind)
            return
        if not await self._give_page(page, behind) or not page.is_last:
            return
        for topic in behind:
            self._find_quiet(topic, page.written_to)
        behind = self._behind()
        if not behind:
            return
        now_us = self._resumes.wall_us()
        waited_s, idle_s = ((now_us - at) / _US for at in (self._began_us, page.written_to))
        were_asked = self._neighbours.were_asked(behind)
        if waited_s > limits.RESUME_PATIENCE_S:
            await self._ask_others(behind)
        elif max(waited_s, idle_s) > limits.RESUME_ASK_S and not were_asked:
            await self._fill(behind)
        else:
            await trio.sleep(limits.RESUME_LOOK_S)  # what is missing is about to be written

    async def _give_page(self, page: PastPage, needs: list[Topic]) -> bool:
        """Give what is stored to who ``needs`` it; False when some is sought elsewhere first."""
        for topic, progress in self._progress.items():
            progress.is_cut = progress.is_cut and topic in needs
        if page.shared is None:
            page.shared = Page(with_gaps(page))
        shared: Page = page.shared
        if self._is_cut(shared) and await self._fill(needs):
            return False
        for hole in shared.holes:
            if hole.id > self._told and self._lacks(hole):
                await self._meet(hole, shared)
                return False
        await self._give(shared)
        self._reading.cursor = page.end
        return True

    def _is_cut(self, page: Page) -> bool:
        """Say whether what precedes the first of a topic in ``page`` was removed, or never kept."""
        return any(
            self._progress[topic].is_cut_before(first)
            for topic, first in page.first.items()
            if topic in self._progress
        )

    async def _meet(self, hole: InBand, page: Page) -> None:
        """Something that is wanted was never stored: the tape may have it, or others.

        Else it is told when the rest of the page is given.
        """
        # A backfilled trade before the gap has the same place: the next page delivers it.
        before = next(n for n, message in enumerate(page.messages) if message.id >= hole.id)
        await self._give(Page(page.messages[:before]))
        self._reading.cursor = hole.id - 1
        needs = {*self._behind(), *self._past_tape()}
        if hole.topic not in needs:
            self._reading.kept.discard(hole.topic)  # the tape has it, and more
            return
        product_id = hole.topic.product_id
        has_found = await self._fill(sorted(t for t in needs if t.product_id == product_id), hole)
        if not has_found or hole.topic in self._behind():
            self._told = hole.id

    def _find_quiet(self, topic: Topic, written_to: int) -> None:
        """All that is stored has been given: a topic that has not spoken here may be whole.

        Of one that has, what it said first will be stored, if the rest is whole.
        """
        if self._tape.known_from(topic) is None:
            flows_us = self._tape.flows_since(topic.product_id)
            margin_us = int(limits.RESUME_MARGIN_S * _US)
            if flows_us is not None and written_to > flows_us + margin_us:
                # All up to there was stored and given, and what came later would be here.
                self._progress[topic].quiet_us = flows_us - 1

    async def _ask_others(self, topics: list[Topic]) -> None:
        """Take from other instances what nobody here has; if they lack it too, give it up."""
        for product_id in sorted({topic.product_id for topic in topics}):
            lacking = [topic for topic in topics if topic.product_id == product_id]
            for _ in range(limits.RESUME_ASKS_MAX):
                self._neighbours.ask_again()
                has_found = await self._fill(lacking)
                lacking = [topic for topic in lacking if topic in self._behind()]
                if not lacking or not has_found:
                    break
                # A record has begun, or broken off, meanwhile; nobody was asked about that.
            await self._give_up(lacking)

    async def _fill(
        self, topics: list[Topic], hole: InBand | None = None, *, is_repeated: bool = False
    ) -> bool:
        """Take from other instances what they have of ``topics``; say whether they had it."""
        after = {topic: self._progress[topic].reached for topic in topics}
        found = await self._neighbours.fetch(after, hole, is_repeated=is_repeated)
        if found is None:
            return False
        await self._give_found(topics, found)
        return True

    async def _give_found(self, topics: Iterable[Topic], found: Found) -> None:
        for topic in topics:
            self._progress[topic].is_cut = False  # what they had follows on what was reached
        await self._give(Page(found.messages))
        for topic in topics:
            if topic in found.records:
                self._reach(self._progress[topic], found.records[topic])

    async def _fetch_quiet(self, quiet: list[Topic]) -> bool:
        """Take what peers have of topics that have no message here; return whether that is all."""
        # A trade that is behind both of its positions has its place among the events of full.
        twins = [
            full
            for topic in quiet
            if topic.channel == MATCHES.topic_channel
            and (full := FULL.topic(topic.product_id)) in self._progress
            and full not in quiet
        ]
        both = [*quiet, *twins]
        self._neighbours.ask_again()
        if not await self._fill(both, is_repeated=True):
            return False
        for topic in both:
            if self._tape.known_from(topic) is None:
                flows_us = self._tape.flows_since(topic.product_id) or 0
                self._progress[topic].quiet_us = flows_us - 1
        return True

    async def _give_up(self, topics: list[Topic]) -> None:
        """Nobody has what is between these positions and the tape: say so, and go on there."""
        for topic in topics:
            progress, known = self._progress[topic], self._tape.held_from(topic)
            first = None if progress.reached is None else progress.reached + 1
            progress.is_given_up = True
            if progress.is_covered(known):
                continue  # what is missing lies between what is here, and is told in its place
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

    async def _read_tape(self) -> bool:
        """Give the next window of the tape, or all that is left; say whether that was all."""
        topics, width = self._topics(), limits.RESUME_WINDOW_MESSAGES_MAX
        self._last, self._flows_at = {}, math.inf
        self._offset = max(self._offset, self._tape.begin - 1)
        window = self._offset // width
        end = (window + 1) * width
        if end <= self._tape.end:
            await self._give(self._resumes.tape_page(topics, window))
            await trio.lowlevel.checkpoint()  # there may be thousands of these, of little use
            self._offset = end
            return False
        placed = with_holes(
            self._tape.read(self._offset, topics), self._tape.holes(self._offset, topics)
        )
        holes = [each for _, each in placed if isinstance(each, InBand) and self._lacks(each)]
        if holes and self._is_strict:
            await self._give(Page([message for _, message in placed]))
            return False
        if self._is_strict and self._tape.is_open(self._resumed & topics):
            self._expire()
            return False
        self._note_lacking(hole.topic for hole in holes)
        owed = [(offset, message) for offset, message in placed if self._is_wanted(message)]
        self._count(len(owed) - len(holes))
        for topic, given in self._given().items():
            self._tape.precede(topic, given)
        notice = in_band(Topic("", ""), notices.resumed(self._resumed, self.messages))
        self._who.stand_in(self, owed, notice)
        return True

    def _past_tape(self) -> list[Topic]:
        """Return the topics of which more was given than has come here; it may come yet."""
        now, ahead = trio.current_time(), []
        for topic in sorted(self._topics()):
            progress, last = self._progress[topic], self._tape.last_sequence(topic)
            if progress.reached is None or self._carrier(topic) != topic:
                continue
            if last is None:
                is_past = now < progress.given_at + limits.RESUME_MARGIN_S
            else:
                is_past = last < progress.reached
            if is_past:
                ahead.append(topic)
        return ahead

    async def _follow(self, ahead: list[Topic]) -> None:
        """Our feed is late: wait for it. It has stopped: go on with what others write."""
        now = trio.current_time()
        before, self._last = self._last, {t: self._tape.last_sequence(t) for t in ahead}
        if any(before.get(topic, last) != last for topic, last in self._last.items()):
            self._moved_at, self._flows_at = now, min(self._flows_at, now)
        elif now >= self._moved_at + limits.RESUME_MARGIN_S:
            page = await self._read_more()
            if page is None:  # nobody writes
                self._flows_at = min(self._flows_at, now)
            else:
                await self._give_page(page, ahead)
        if now > self._flows_at + limits.RESUME_PATIENCE_S:  # or its numbers have begun anew
            await self._lose([topic for topic in self._past_tape() if topic in ahead])
        await trio.sleep(limits.RESUME_LOOK_S)

    async def _read_more(self) -> PastPage | None:
        if not self._reading.is_located:
            await self._reading.locate(self._progress, self._began_us)
        return await self._reading.page(self._topics())
