"""Where one stream that comes back is in what is stored."""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from hedgehogd.domain.channel import FULL, MATCHES, Topic
from hedgehogd.recovery.history_port import PastPage, PastUnavailable
from hedgehogd.recovery.progress import Progress
from hedgehogd.recovery.service import Resumes


class Reading:
    """A place in the past, and the topics that are read from there.

    Attributes:
        cursor: the place up to which all has been given.
        kept: the topics that are read.
        is_located: the place is known.
    """

    def __init__(self, resumes: Resumes) -> None:
        self.cursor = 0
        self.kept: set[Topic] = set()
        self.is_located = False
        self._resumes = resumes

    async def locate(self, progresses: Mapping[Topic, Progress], now_us: int) -> None:
        """Find where the earliest of the positions is, and what is kept at all."""
        self.is_located = True
        places: list[int] = []
        begins = {0: 0}  # places by times: most topics of a stream have the same one
        for topic, progress in progresses.items():
            past = self._resumes.past
            if past is None or not past.keeps(topic):
                continue
            self.kept.add(topic)
            if progress.is_new:
                continue
            found = await self._find_position(topic, progress)
            if found is not None:
                places.append(found[0])
                continue
            first = None
            if progress.after_us not in begins:
                begins[progress.after_us] = await self._find_time(progress.after_us + 1)
            begin = begins[progress.after_us]
            with suppress(PastUnavailable):
                first = await past.first_place(topic)
            progress.is_cut = first is None or begin < first
            places.append(begin if first is None else max(first - 1, begin))
        self.cursor = min(places) if places else await self._find_time(now_us + 1)

    def has(self, topic: Topic) -> bool:
        """Say whether ``topic`` is read, perhaps as a part of full."""
        full = FULL.topic(topic.product_id)
        return topic in self.kept or (topic.channel == MATCHES.topic_channel and full in self.kept)

    async def page(self, topics: Iterable[Topic]) -> PastPage | None:
        """Return what follows of those of ``topics`` that are read; None when nothing can be."""
        past, wanted = self._resumes.past, self.kept.intersection(topics)
        if past is not None and wanted:
            with suppress(PastUnavailable):
                return await past.page(wanted, self.cursor)
        return None

    async def find(self, topic: Topic, sequence: int) -> tuple[int, int] | None:
        """Return place and sequence of the newest message of ``topic`` up to ``sequence``."""
        past = self._resumes.past
        if past is not None:
            with suppress(PastUnavailable):
                return await past.find(topic, sequence)
        return None

    async def _find_time(self, received_us: int) -> int:
        """Return the place before all that was received from then on; 0 when it is not known."""
        past = self._resumes.past
        if past is not None:
            with suppress(PastUnavailable):
                return await past.find_time(received_us)
        return 0

    async def _find_position(self, topic: Topic, progress: Progress) -> tuple[int, int] | None:
        return None if progress.reached is None else await self.find(topic, progress.reached)
