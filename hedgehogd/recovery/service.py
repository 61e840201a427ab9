"""Coming back: everybody who is catching up, and what they share.

A topic that is resumed stands aside until its subscriber has caught up (``catch_up``). Pages
are shared: who comes back to the same topics gets the same bytes, wherever it began.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Protocol

import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.engine.budget import Budget
from hedgehogd.engine.gap_marker import InBand
from hedgehogd.engine.tape import Tape
from hedgehogd.recovery.history_port import Others, Past
from hedgehogd.recovery.pages import Page, with_holes


class Catching(Protocol):
    """Somebody's way from where it was to the present."""

    async def run(self) -> None:
        """Go it."""


class Resumes:
    """Everybody who is catching up.

    Attributes:
        past: what is no longer on the tape; None where nothing is kept.
        turns: who gives something now; as many as fit into one turn of the loop.
        budget: what waits for all subscribers; pages in use are part of it.
        others: other instances of the machine; None where there are none.
        resumed: how many have caught up since start.
        replayed: messages given to them.
        expired: how often they were told, or ended, because something was gone.
    """

    def __init__(
        self,
        tape: Tape,
        wall_us: Callable[[], int],
        budget: Budget,
        past: Past | None = None,
        others: Others | None = None,
    ) -> None:
        self.past = past
        self.others = others
        self.resumed = 0
        self.replayed = 0
        self.expired = 0
        self._asking = trio.CapacityLimiter(limits.RESUMES_ASKING_MAX)
        # when no peer had the messages of some topics in a gap, by its place, or behind positions
        self._nowhere: dict[tuple[frozenset[Topic], int], tuple[float, Mapping[Topic, int]]] = {}
        self.turns = trio.CapacityLimiter(limits.RESUMES_PER_TURN_MAX)
        self.budget = budget
        self._account = budget.account(self._forget_pages)
        self._charges: dict[tuple[frozenset[Topic], int], int] = {}
        self.tape = tape
        self.wall_us = wall_us
        self._begun = deque[Catching]()
        self._asked = trio.Event()
        self._pages: OrderedDict[tuple[frozenset[Topic], int], Page] = OrderedDict()

    def start(self, catch_up: Catching) -> None:
        """Bring whom ``catch_up`` is about to the present."""
        self._begun.append(catch_up)
        self._asked.set()

    async def run(self) -> None:
        """Bring back whoever comes, for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._asked.wait()
                self._asked = trio.Event()
                while self._begun:  # no local name, which would keep the last ones alive
                    nursery.start_soon(self._begun.popleft().run)

    async def ask(
        self,
        others: Others,
        after: Mapping[Topic, int],
        hole: InBand | None,
        *,
        is_repeated: bool = False,
    ) -> list[Message] | None:
        """Return what ``others`` have behind these positions; None when nobody has all of it.

        A few are asked for at a time. That nobody has what is missing in a ``hole``, or behind the
        positions of an ask that ``is_repeated`` later, is remembered for a while: subscribers that
        resume together lack the same messages. Who lacks what follows on a position lacks it on a
        lower one, too.
        """
        key, pause_s = (frozenset(after), 0), limits.RESUME_MARGIN_S
        if hole is not None:
            key, pause_s = (frozenset(after), hole.id), limits.RESUME_NOWHERE_S
        is_remembered = is_repeated or hole is not None
        with trio.move_on_after(limits.RESUME_PATIENCE_S):
            async with self._asking:
                since, lacked = self._nowhere.get(key, (-math.inf, after))
                is_lower = all(after[topic] <= lacked[topic] for topic in after)
                is_lacked = is_lower or hole is not None
                if is_remembered and is_lacked and trio.current_time() < since + pause_s:
                    return None
                found = await others.fetch(after)
            if found is None and is_remembered:
                if len(self._nowhere) >= limits.RESUME_PAGES_MAX:
                    self._nowhere.clear()
                self._nowhere[key] = trio.current_time(), after
            return found
        return None  # too many come back at once

    def tape_page(self, topics: frozenset[Topic], window: int) -> Page:
        """Return what stands on the tape in one window of it, which is full."""
        page = self._pages.get((topics, window))
        if page is None:
            width = limits.RESUME_WINDOW_MESSAGES_MAX
            after = window * width
            holes = self.tape.holes(after, topics, after + width)
            placed = with_holes(self.tape.part(after, width, topics), holes)
            page = Page([message for _, message in placed])
            self._pages[topics, window] = page
            self._charges[topics, window] = self._account.share(page, page.weight)
            if len(self._pages) > limits.RESUME_PAGES_MAX:
                self._forget_page(next(iter(self._pages)))
            self._account.relieve()
        return page

    def _forget_page(self, key: tuple[frozenset[Topic], int]) -> None:
        self._account.release(self._pages.pop(key), self._charges.pop(key))

    def _forget_pages(self) -> None:
        for key in list(self._pages):
            self._forget_page(key)
