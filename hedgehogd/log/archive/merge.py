"""The records of one block for one set of topics, merged in the order of their ids.

Groups are unpacked once and kept for the next page or reader; a merged block keeps the order of its
records, and makes a record when a page delivers it.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.lru import Lru
from hedgehogd.domain.record import GapKind, GapRecord, Record
from hedgehogd.log.archive import markers
from hedgehogd.log.archive.block import Directory, Part
from hedgehogd.log.archive.block_file import BlockAt
from hedgehogd.log.archive.compaction import unreadable
from hedgehogd.log.archive.errors import DamagedArchive
from hedgehogd.log.archive.group import Group
from hedgehogd.log.archive.markers import Marker
from hedgehogd.log.archive.view import Opened

Topics = frozenset[Topic] | None
"""The topics that a reader wants; None for all."""
Key = tuple[object, ...]
_MARKERS = -1  # the owner of the records that are not messages


class Merged:
    """Records of one block in the order of their ids.

    Attributes:
        ids: their ids.
    """

    __slots__ = ("_chosen_bytes", "_is_plain", "_markers", "_owners", "_parts", "_places", "ids")

    def __init__(self, parts: Sequence[tuple[Part, Group, Topics]], extra: list[Marker]) -> None:
        """Merge.

        Args:
            parts: messages; with topics, only those whose second topic is one of them.
            extra: the markers.
        """
        extra = sorted(extra, key=attrgetter("id"))
        self._parts: list[tuple[Topic, Group]] = []
        self._chosen_bytes = 0
        self._markers = extra
        self._is_plain = len(parts) == 1 and not extra
        # The markers come first: of equal ids they precede the messages.
        ids = [marker.id for marker in extra]
        owners = array("i", [_MARKERS]) * len(extra)
        places = array("i", range(len(extra)))
        for owner, (part, group, seconds) in enumerate(parts):
            chosen, begin, end = group, part.begin, part.end
            if seconds is not None:
                chosen = group.chosen([at for at in range(begin, end) if group.also[at] in seconds])
                begin, end = 0, len(chosen.ids)
                self._chosen_bytes += chosen.weight
            self._parts.append((part.topic, chosen))
            ids += chosen.ids[begin:end]
            owners += array("i", [owner]) * (end - begin)
            places += array("i", range(begin, end))
        if len(parts) + bool(extra) > 1:
            order = sorted(range(len(ids)), key=ids.__getitem__)
            ids = [ids[at] for at in order]
            owners = array("i", [owners[at] for at in order])
            places = array("i", [places[at] for at in order])
        self.ids = array("q", ids)
        self._owners, self._places = owners, places

    @property
    def weight(self) -> int:
        """Estimate of its memory without the groups of the blocks, in bytes."""
        own = 400 + 16 * len(self.ids) + 100 * len(self._parts) + 300 * len(self._markers)
        return own + self._chosen_bytes

    def first_from(self, received_us: int) -> int | None:
        """Return the id of the first record received at ``received_us`` or later, if any."""
        for id_, owner, at in zip(self.ids, self._owners, self._places, strict=True):
            us = self._markers[at].received_us if owner < 0 else self._parts[owner][1].received[at]
            if us >= received_us:
                return id_
        return None

    def after(self, id_: int) -> int:
        """Return the number of records with ids up to ``id_``."""
        return bisect_right(self.ids, id_)

    def before(self, id_: int) -> int:
        """Return the number of records with ids smaller than ``id_``."""
        return bisect_left(self.ids, id_)

    @property
    def has_markers(self) -> bool:
        """True if some of the records are not messages."""
        return bool(self._markers)

    def unreadable_before(self, gap: GapRecord, after_id: int) -> int:
        """Return the id of the unreadable gap of the same topic before ``gap``, else ``after_id``.

        The unreadable records that ``gap`` reports have larger ids.
        """
        ids = [
            each.id
            for each in self._markers
            if isinstance(each, GapRecord)
            and (each.kind, each.topic) == (gap.kind, gap.topic)
            and each.id < gap.id
        ]
        return max(ids, default=after_id)

    def records(self, begin: int, end: int) -> list[Record]:
        """Return the records ``begin`` to ``end``."""
        if begin >= end:
            return []
        owners, places = self._owners[begin:end], self._places[begin:end]
        if self._is_plain:
            topic, group = self._parts[0]
            return [*group.messages(topic, places[0], places[-1] + 1)]
        # The records of one owner are a stretch of it, because their ids rise.
        last = dict(zip(owners, places, strict=True))
        first = dict(zip(reversed(owners), reversed(places), strict=True))
        queues = {owner: self._queue(owner, first[owner], last[owner] + 1) for owner in first}
        return [next(queues[owner]) for owner in owners]

    def _queue(self, owner: int, begin: int, end: int) -> Iterator[Record]:
        if owner == _MARKERS:
            return iter(self._markers[begin:end])
        topic, group = self._parts[owner]
        return iter(group.messages(topic, begin, end))


class Blocks:
    """The unpacked blocks of one reader, bounded by ``limits.ARCHIVE_CACHE_BYTES_MAX``.

    Args:
        known: returns all topics of the archive; a block may have any of them if its directory is
            damaged.
    """

    def __init__(self, known: Callable[[], Iterable[Topic]]) -> None:
        self._known = known
        self._groups: Lru[Key, Group] = Lru(weight_max=limits.ARCHIVE_CACHE_BYTES_MAX)
        self._merged: Lru[Key, Merged] = Lru(weight_max=limits.ARCHIVE_CACHE_BYTES_MAX // 4)

    @property
    def bytes(self) -> int:
        """Estimate of their memory."""
        return self._groups.weight + self._merged.weight

    def merged(self, opened: Opened, number: int, topics: Topics) -> Merged:
        """Return the records of ``topics`` in block ``number`` of a file.

        A part that is damaged becomes a gap record of each of its topics.
        """
        block = opened.contents.blocks[number]
        key = (opened.key, block.offset, topics)
        found = self._merged.get(key)
        if found is None:
            found = self._merge(opened, number, topics)
            self._merged.put(key, found, found.weight)
        return found

    def group(self, opened: Opened, block: BlockAt, directory: Directory, number: int) -> Group:
        """Return one group of a block.

        Raises:
            DamagedArchive: it is damaged.
        """
        key = (opened.key, block.offset, number)
        found = self._groups.get(key)
        if found is None:
            found = opened.file.group(block, directory.place(number))
            self._groups.put(key, found, found.weight)
        return found

    def parts(
        self, opened: Opened, number: int, topics: Topics
    ) -> tuple[list[tuple[Part, Group, Topics]], set[Topic]]:
        """Return the messages of ``topics`` in block ``number`` of a file, not yet merged.

        Returns:
            The parts, as of ``Directory.find``, each with its group; and the topics of damaged
            parts, for one that was found by its second topics these.
        """
        block = opened.contents.blocks[number]
        damaged: set[Topic] = set()
        parts: list[tuple[Part, Group, Topics]] = []
        try:
            directory = opened.file.directory(block)
            for part, seconds in directory.find(topics):
                try:
                    group = self.group(opened, block, directory, part.group)
                    if part.end > len(group.ids):
                        raise DamagedArchive("a directory lists more messages than there are")
                    ids = group.ids[part.begin : part.end].tolist()
                    if ids != sorted(ids):
                        raise DamagedArchive("the ids of a topic do not rise")
                except DamagedArchive:
                    damaged |= {part.topic} if seconds is None else seconds
                else:
                    parts.append((part, group, seconds))
        except DamagedArchive:
            damaged |= self._present(opened, number, topics)
        return parts, damaged

    def _merge(self, opened: Opened, number: int, topics: Topics) -> Merged:
        block = opened.contents.blocks[number]
        parts, damaged = self.parts(opened, number, topics)
        extra: list[Marker] = []
        try:
            found = opened.file.markers(block)
            extra += [marker for marker in found if markers.concerns(marker, topics)]
        except DamagedArchive:  # a topic may have had a record there and no message
            damaged |= set(self._known() if topics is None else topics)
        known = {
            each.topic
            for each in extra
            if isinstance(each, GapRecord)
            and (each.kind, each.id) == (GapKind.UNREADABLE, block.header.last_id)
        }
        extra += [unreadable(topic, block) for topic in sorted(damaged - known)]
        return Merged(parts, extra)

    def _present(self, opened: Opened, number: int, topics: Topics) -> set[Topic]:
        """Return those of ``topics`` that a block has, or may have."""
        if opened.contents.is_unknown(number):
            return set(self._known() if topics is None else topics)
        present = opened.contents.topics(number)
        return set(present if topics is None else topics.intersection(present))
