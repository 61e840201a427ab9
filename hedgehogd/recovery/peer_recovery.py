"""Other instances, as one stream that comes back has them asked."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.engine.gap_marker import InBand
from hedgehogd.engine.tape import Known, Tape, positions
from hedgehogd.recovery.service import Resumes

_US = 1_000_000


class Found(NamedTuple):
    """What others had.

    Attributes:
        messages: all that came behind the positions, but what is on our tape.
        records: where our record of each topic began then, of those they had all before.
    """

    messages: list[Message]
    records: Mapping[Topic, Known]


class Asks:
    """When one stream asks peer instances about topics that have no message here.

    A message that a peer does not have yet has to come here as well, so our own feed must have
    flowed for ``RESUME_MARGIN_S``. There are up to ``RESUME_ASKS_MAX`` asks for each topic, with a
    pause of as many seconds after each answer.

    Args:
        tape: our tape.
        wall_us: the wall clock, µs since the epoch.
    """

    def __init__(self, tape: Tape, wall_us: Callable[[], int]) -> None:
        self._tape = tape
        self._wall_us = wall_us
        self._answered: Counter[Topic] = Counter()
        self._next_at: dict[Topic, float] = {}
        self._flow_seen_at: dict[Topic, float] = {}  # the wall clock may step back

    def may_follow(self, topic: Topic) -> bool:
        """Return True if an ask for ``topic`` is due, now or later."""
        has_flow = self._tape.flows_since(topic.product_id) is not None
        is_silent = self._tape.known_from(topic) is None
        return is_silent and has_flow and self._answered[topic] < limits.RESUME_ASKS_MAX

    def due(self, topics: Iterable[Topic]) -> list[Topic]:
        """Return those of ``topics`` for which an ask is due now."""
        now, margin_s = trio.current_time(), limits.RESUME_MARGIN_S
        since_us = self._wall_us() - int(margin_s * _US)
        found = []
        for topic in filter(self.may_follow, topics):
            seen_at = self._flow_seen_at.setdefault(topic, now)
            flows_us = self._tape.flows_since(topic.product_id)
            has_flowed = flows_us is not None and flows_us < since_us
            is_waiting = now < self._next_at.get(topic, -math.inf)
            if (has_flowed or now >= seen_at + margin_s) and not is_waiting:
                found.append(topic)
        return found

    def answered(self, topics: Iterable[Topic]) -> None:
        """Note that the peer instances have answered an ask for ``topics``."""
        for topic in topics:
            self._answered[topic] += 1
            self._next_at[topic] = trio.current_time() + limits.RESUME_MARGIN_S


class Neighbours:
    """Those who may have what nobody here has.

    Args:
        resumes: who knows them.
        is_alone: nobody is asked: it is another instance that asks.
    """

    def __init__(self, resumes: Resumes, *, is_alone: bool) -> None:
        self._resumes = resumes
        self._tape = resumes.tape
        self._is_alone = is_alone
        self._asked: set[Topic] = set()

    @property
    def exist(self) -> bool:
        """Whether there are any who can be asked."""
        return not self._is_alone and self._resumes.others is not None

    def were_asked(self, topics: Iterable[Topic]) -> bool:
        """Say whether they were asked for all of ``topics`` already."""
        return self._asked.issuperset(topics)

    def ask_again(self) -> None:
        """Those who lacked something may have been starting."""
        self._asked.clear()

    async def fetch(
        self,
        after: Mapping[Topic, int | None],
        hole: InBand | None = None,
        *,
        is_repeated: bool = False,
    ) -> Found | None:
        """Return what they have behind ``after``; None when they lack some of it.

        Of each topic, and of each ``hole`` in what is stored, they are asked once; and not
        before they have all that came before our records, although they may be a little late.
        """
        were_asked = hole is None and self._asked.intersection(after)
        self._asked.update(after)
        known = {topic: number for topic, number in after.items() if number is not None}
        others = self._resumes.others
        if not self.exist or others is None or were_asked or len(known) < len(after):
            return None
        await self._wait(after, hole)
        found = await self._resumes.ask(others, known, hole, is_repeated=is_repeated)
        if found is None:
            return None
        last = {t: each.sequence or 0 for each in found for t in positions(each)}
        records = {topic: self._tape.known_from(topic) for topic in (*after, *last)}
        rest = [each for each in found if not _is_in(records.get(each.topic), each)]
        # Everybody is given what our record begins with: who has it has all before it.
        whole = {t: r for t, r in records.items() if r is not None and r.sequence <= last.get(t, 0)}
        return Found(rest, whole)

    async def _wait(self, topics: Iterable[Topic], hole: InBand | None) -> None:
        """Wait until they have what our records begin with, and what follows on the hole."""
        records = [self._tape.known_from(topic) for topic in topics]
        begun = [known.published_us for known in records if known is not None]
        newest_us = max([*begun, 0 if hole is None else hole.published_us], default=0)
        passed_s = (self._resumes.wall_us() - newest_us) / _US
        rest_s = limits.RESUME_MARGIN_S - passed_s
        await trio.sleep(max(0.0, min(rest_s, limits.RESUME_MARGIN_S)))  # clocks may step back


def _is_in(record: Known | None, message: Message) -> bool:
    """Say whether our tape has it."""
    return record is not None and (message.sequence or 0) > record.before
