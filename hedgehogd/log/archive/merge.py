"""The records of one block for one set of topics, merged in the order of their ids.

Groups are unpacked once and kept for the next page or reader; a merged block keeps the order of its
records, and makes a record when a page delivers it.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence

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


class Merged:
    """Records of one block in the order of their ids.

    Attributes:
        ids: their ids.
    """

    __slots__ = ("_is_plain", "_markers", "_owners", "_parts", "_places", "ids")

    def __init__(self, parts: Sequence[tuple[Part, Group, Topics]], extra: list[Marker]) -> None:
        """Merge.

        Args:
            parts: messages; with topics, only those whose second topic is one of them.
            extra: the markers, in the order of their ids.
        """
        self._parts = [(part.topic, group) for part, group, _ in parts]
        self._markers = extra
        self._is_plain = len(parts) == 1 and parts[0][2] is None and not extra
        rows: list[tuple[int, int, int]] = []
        for owner, (part, group, seconds) in enumerate(parts):
            places: Sequence[int] = range(part.begin, part.end)
            if seconds is not None:
                places = [at for at in places if group.also[at] in seconds]
            rows += [(group.ids[at], owner, at) for at in places]
        rows += [(marker.id, -1, at) for at, marker in enumerate(extra)]
        if len(parts) + bool(extra) > 1:
            rows.sort()
        self.ids = array("q", [row[0] for row in rows])
        self._owners = array("i", [row[1] for row in rows])
        self._places = array("i", [row[2] for row in rows])

    @property
    def weight(self) -> int:
        """Estimate of its memory without the groups, in bytes."""
        return 400 + 16 * len(self.ids) + 100 * len(self._parts) + 300 * len(self._markers)

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
        parts, extra = self._parts, self._markers
        if len(parts) == 1 and self._is_plain and begin < end:
            topic, group = parts[0]
            return list(group.messages(topic, self._places[begin], self._places[end - 1] + 1))
        found: list[Record] = []
        for owner, at in zip(self._owners[begin:end], self._places[begin:end], strict=True):
            if owner < 0:
                found.append(extra[at])
            else:
                topic, group = parts[owner]
                found.append(group.message(topic, at))
        return found


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

    def _merge(self, opened: Opened, number: int, topics: Topics) -> Merged:
        block = opened.contents.blocks[number]
        damaged: set[Topic] = set()
        parts: list[tuple[Part, Group, Topics]] = []
        extra: list[Marker] = []
        try:
            directory = opened.file.directory(block)
            for part, seconds in directory.find(topics):
                try:
                    group = self.group(opened, block, directory, part.group)
                    if part.end > len(group.ids):
                        raise DamagedArchive("a directory lists more messages than there are")
                except DamagedArchive:
                    damaged |= {part.topic} if seconds is None else seconds
                else:
                    parts.append((part, group, seconds))
        except DamagedArchive:
            damaged |= self._present(opened, number, topics)
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
