"""The files of an archive as one reader sees them, in the order of their ids.

The writer replaces files while a reader reads: it never waits for it. The view follows the
catalogue, which changes when files do; a file that is gone before it was opened means that there is
a newer catalogue. Growing files are read again up to their present end. Not safe to share between
threads.
"""

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.lru import Lru
from hedgehogd.log.archive import catalogue, files
from hedgehogd.log.archive.block_file import BlockFile
from hedgehogd.log.archive.catalogue import Catalogue, SegmentRow
from hedgehogd.log.archive.errors import ArchiveError, DamagedArchive
from hedgehogd.log.archive.files import FileName
from hedgehogd.log.archive.index import Index, collect, growing, read_footer


class Opened(NamedTuple):
    """An open file and its index.

    Attributes:
        key: names the file's content: a segment has the same key before and after it is sealed.
        file: the file.
        contents: its index.
    """

    key: tuple[int, bool]
    file: BlockFile
    contents: Index


class Source(NamedTuple):
    """A file, not necessarily open, or a stretch of ids that no file has, although later ones do.

    Attributes:
        first_id: the smallest id.
        last_id: the largest id.
        row: the segment; else None.
        opened: the growing file; else None.
        max_us: of ids without a file: the latest receive time before them, µs since the epoch.
    """

    first_id: int
    last_id: int
    row: SegmentRow | None = None
    opened: Opened | None = None
    max_us: int = 0

    @property
    def after_id(self) -> int:
        """The position before the file: ids between it and the first one cannot be read."""
        if self.row is not None:
            return self.row.after_id
        return self.first_id - 1 if self.opened is None else self.opened.key[0]

    @property
    def is_gap(self) -> bool:
        """True if no file has these ids."""
        return self.row is None and self.opened is None


class View:
    """The files of the archive in one directory.

    Args:
        directory: where it is.
        deployment: the deployment that it must be of; None for any.

    Attributes:
        catalogue: the catalogue, as of the last ``refresh``.
        sources: the files with records, in the order of their ids, which do not overlap.
    """

    def __init__(self, directory: Path, deployment: str | None = None) -> None:
        self._directory = directory
        self._deployment = deployment
        self._identity: tuple[int, int, int, int] | None = None
        self._growing: dict[str, Opened] = {}
        self._segments: Lru[int, Opened] = Lru(
            limits.ARCHIVE_FILES_OPEN_MAX, limits.ARCHIVE_INDEXES_BYTES_MAX
        )
        self.catalogue = Catalogue("")
        self._gap_ids: list[int] = []
        self.sources: list[Source] = []

    @property
    def last_id(self) -> int:
        """The largest id; 0 for none."""
        return self.sources[-1].last_id if self.sources else self.catalogue.dropped_id

    def topics(self) -> set[Topic]:
        """Return all topics that the archive is known to have, or to have had."""
        found = set(self.catalogue.messages)
        for opened in self._growing.values():
            found.update(opened.contents.summaries)
        return found

    def close(self) -> None:
        """Close all files."""
        for opened in self._growing.values():
            opened.file.close()
        for opened in [opened for _, opened in self._segments.items()]:
            opened.file.close()
        self._growing.clear()
        self._segments.clear()

    def refresh(self) -> None:
        """Read the records that were written since the last call.

        Raises:
            DamagedArchive: the catalogue is damaged; its writer makes it again at its start.
            NewerFormat: a newer version writes the archive.
            ForeignArchive: it is of another deployment.
            ArchiveError: there is no archive, or it cannot be read.
        """
        for _ in range(limits.ARCHIVE_VIEW_TRIES_MAX):
            identity = catalogue.identity(self._directory)
            try:
                if identity != self._identity or identity is None:
                    self._load()
                    self._identity = identity
                self._grow()
            except FileNotFoundError:
                self._identity = None  # the writer has removed a file: there is a newer catalogue
                continue
            return
        raise ArchiveError(f"there is no archive in {self._directory}, or its files are missing")

    def open(self, source: Source) -> Opened:
        """Return the open file of ``source``, and its index.

        Raises:
            FileNotFoundError: retention has removed it, or it is missing; or no file has its ids.
            DamagedArchive: it is not a segment.
        """
        if source.opened is not None:
            return source.opened
        row = source.row
        if row is None:
            raise FileNotFoundError(f"{self._directory} has no file with id {source.first_id}")
        opened = self._segments.get(row.after_id)
        if opened is None:
            file = BlockFile(self._directory / row.name, self.catalogue.deployment)
            index = read_footer(file)
            index.lose(row.after_id, row.last_id, row.max_us)
            opened = Opened((row.after_id, False), file, index)
            self._make_room(index.weight)
            self._segments.put(row.after_id, opened, index.weight)
        return opened

    def backfilled(self, after_id: int, to_id: int) -> list[int]:
        """Return the ids of gaps with backfilled trades, larger than ``after_id``, up to ``to_id``.

        The gaps need not be readable.
        """
        known = self._gap_ids
        found = set(known[bisect_right(known, after_id) : bisect_right(known, to_id)])
        for opened in self._growing.values():
            found.update(each for each in opened.contents.backfills if after_id < each <= to_id)
        return sorted(found)

    def sources_after(self, id_: int) -> Iterator[Source]:
        """Iterate over the files with larger ids than ``id_``, in order."""
        return (source for source in self.sources if source.last_id > id_)

    def sources_before(self, id_: int) -> Iterator[Source]:
        """Iterate over the files with smaller ids than ``id_``, newest first."""
        return (source for source in reversed(self.sources) if source.first_id < id_)

    def _make_room(self, weight: int) -> None:
        """Drop the segments that were used longest ago, for one more of ``weight``."""
        for after_id, _ in list(self._segments.items()):
            is_full = len(self._segments) >= limits.ARCHIVE_FILES_OPEN_MAX
            if not is_full and self._segments.weight + weight <= limits.ARCHIVE_INDEXES_BYTES_MAX:
                break
            self._segments.pop(after_id)

    def _load(self) -> None:
        """Read the catalogue, open the growing files that it names, and close the rest."""
        self.catalogue = catalogue.load(self._directory, self._deployment)
        self._deployment = self.catalogue.deployment
        self._gap_ids = sorted(self.catalogue.backfills)
        newest = max(self.catalogue.growing, default="")
        for name, packed in self.catalogue.growing.items():
            # A writer that starts again replaces its last tail if that has no records.
            if name not in self._growing or not self._growing[name].file.is_in_place:
                found = files.read_name(name)
                if found is None:
                    raise DamagedArchive(f"{files.CATALOGUE} names {name!r}")
                opened = self._opened(found, packed, is_newest=name == newest)
                if opened is not None:
                    self._growing[name] = opened
        for name in self._growing.keys() - self.catalogue.growing.keys():
            del self._growing[name]
        for after_id in {after_id for after_id, _ in self._segments.items()} - {
            row.after_id for row in self.catalogue.segments
        }:
            self._segments.pop(after_id)

    def _opened(self, name: FileName, packed: bytes, *, is_newest: bool) -> Opened | None:
        """Open a growing file; return None if its header is damaged and a later file exists."""
        path = self._directory / str(name)
        try:
            try:
                file = BlockFile(path, self._deployment)
            except FileNotFoundError:
                if name.suffix != files.OPEN:
                    raise
                # It is sealed, and its writer has not written the catalogue yet.
                file = BlockFile(path.with_suffix(files.SEGMENT), self._deployment)
        except DamagedArchive:
            if is_newest:
                raise
            return None
        try:
            return Opened((name.after_id, name.suffix == files.TAIL), file, growing(file, packed))
        except BaseException:
            file.close()
            raise

    def _grow(self) -> None:
        """Read growing files up to their present end, and list the sources.

        Each file begins where the one before ends. Where none does, its ids are a gap.
        """
        sources: list[Source] = []
        last_id, max_us = self.catalogue.dropped_id, 0

        def add(after_id: int, source: Source | None, us: int) -> None:
            nonlocal last_id, max_us
            if after_id > last_id:
                sources.append(Source(last_id + 1, after_id, max_us=max_us or us))
                last_id = after_id
            if source is not None and source.last_id > last_id:
                sources.append(source)
                last_id, max_us = source.last_id, us

        for row in self.catalogue.segments:
            add(row.after_id, Source(row.first_id, row.last_id, row), row.max_us)
        in_order = sorted(self._growing.values(), key=lambda opened: (opened.key[1], opened.key[0]))
        for opened in in_order:
            collect(opened.file, opened.contents)
            blocks = opened.contents.blocks
            if blocks:
                first, last = blocks[0].header, blocks[-1].header
                source = Source(first.first_id, last.last_id, opened=opened)
                add(opened.key[0], source, last.max_us)
            else:
                add(opened.key[0], None, 0)
        self.sources = sources
