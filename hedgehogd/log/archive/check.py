"""Verifying an archive: every checksum, the order of ids, the catalogue against the segments."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from hedgehogd.domain import limits
from hedgehogd.domain.record import GapRecord
from hedgehogd.log.archive import catalogue, files
from hedgehogd.log.archive.block_file import BlockFile
from hedgehogd.log.archive.catalogue import Catalogue, SegmentRow
from hedgehogd.log.archive.errors import ArchiveError, DamagedArchive
from hedgehogd.log.archive.files import OPEN, SEGMENT, TAIL, FileName
from hedgehogd.log.archive.index import Index, collect, read_footer
from hedgehogd.log.archive.reader import Reader

_ORDER = (SEGMENT, OPEN, TAIL)


class Finding(NamedTuple):
    """One result of ``check``.

    Attributes:
        text: the damage or the gap, for the operator.
        is_damage: True for damage, False for a recorded gap.
    """

    text: str
    is_damage: bool


class Totals:
    """The counts of ``check`` so far.

    Attributes:
        files: number of files of blocks.
        blocks: number of blocks.
        messages: number of messages.
        bytes: size of the files.
    """

    def __init__(self) -> None:
        self.files = self.blocks = self.messages = self.bytes = 0


class _Report(NamedTuple):
    """One examined file.

    Attributes:
        name: its name.
        damages: texts, one for each damaged part.
        unfinished: the text about bytes after the last block; empty without such bytes.
        first_id: the smallest id; 0 without records.
        last_id: the largest id; 0 without records.
        row: the row that the catalogue should have; None without records.
        blocks: number of blocks.
        bytes: size of the file.
    """

    name: FileName
    damages: list[str]
    unfinished: str
    first_id: int
    last_id: int
    row: SegmentRow | None
    blocks: int
    bytes: int


def check(
    directory: Path, totals: Totals, pauses_s: Sequence[float] = limits.ARCHIVE_CHECK_PAUSES_S
) -> Iterator[Finding]:
    """Iterate over the damage and the gaps of the archive in ``directory``.

    The archive is not changed. Its writer may be running: catalogue and directory are read again
    after each pause, until there is no damage; damage that was found every time is reported.

    Args:
        directory: where it is.
        totals: receives the counts.
        pauses_s: seconds to wait before each further look.

    Raises:
        NewerFormat: a newer version wrote it.
        ForeignArchive: files of several deployments, or another program's.
        ArchiveError: there is no archive, or it cannot be read.
    """
    examination = _Examination(directory)
    texts = examination.texts()
    for pause_s in pauses_s:
        if not texts:
            break
        time.sleep(pause_s)
        again = set(examination.texts())
        texts = [text for text in texts if text in again]
    reports = examination.reports
    totals.files = len(reports)
    totals.blocks = sum(each.blocks for each in reports)
    totals.messages = sum(each.row.messages for each in reports if each.row is not None)
    totals.bytes = sum(each.bytes for each in reports)
    yield from (Finding(text, is_damage=True) for text in texts)
    if examination.has_catalogue:
        yield from _gaps(directory)


class _Examination:
    """Repeated looks at one archive; a sound sealed segment is read once.

    Args:
        directory: where it is.

    Attributes:
        reports: of the files, as of the last look, in the order of their records.
        has_catalogue: True if the catalogue was readable.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sealed: dict[tuple[str, int, int], _Report] = {}
        self.reports: list[_Report] = []
        self.has_catalogue = False

    def texts(self) -> list[str]:
        """Look at all files and at the catalogue; return a text for each damage.

        Raises:
            ArchiveError: there is no archive, or it cannot be read.
        """
        found: list[str] = []
        names = _names(self._directory)
        known: Catalogue | None = None
        try:
            known = catalogue.load(self._directory)
        except FileNotFoundError:
            if not names:
                raise ArchiveError(f"there is no archive in {self._directory}") from None
            found.append(f"{files.CATALOGUE} is missing")
        except DamagedArchive as error:
            found.append(str(error))
        self.has_catalogue = known is not None
        self.reports = []
        deployment = known.deployment if known else None
        with ExitStack() as closing:
            growing: dict[FileName, BlockFile] = {}
            # Tails first: records that compaction moves meanwhile are read twice.
            for name in reversed(names):
                if name.suffix != SEGMENT and (file := self._opened(name, deployment, found)):
                    closing.callback(file.close)
                    growing[name] = file
            for name in names:
                if name in growing:
                    self.reports.append(self._report(name, growing[name]))
                elif name.suffix == SEGMENT and (file := self._opened(name, deployment, found)):
                    try:
                        self.reports.append(self._report(name, file))
                    finally:
                        file.close()
        for report in self.reports:
            found += report.damages
            if report.unfinished:
                found.append(report.unfinished)
        rows = {row.after_id: row for row in known.segments} if known else {}
        if known is not None:
            found += self._differences(rows, known)
        return found + self._order(rows, known.dropped_id if known else None)

    def _opened(self, name: FileName, deployment: str | None, found: list[str]) -> BlockFile | None:
        """Open a file; return None if it was removed meanwhile, or is damaged, which is noted."""
        try:
            return BlockFile(self._directory / str(name), deployment)
        except FileNotFoundError:
            return None  # retention or compaction has removed it
        except DamagedArchive as error:
            found.append(str(error))
            return None

    def _report(self, name: FileName, file: BlockFile) -> _Report:
        key = (str(name), file.inode, file.size)
        if key in self._sealed:
            return self._sealed[key]
        size = file.size
        if name.suffix == SEGMENT:
            index = read_footer(file)
        else:
            index = Index()
            collect(file, index)
        damages = [f"{each.file} at {each.offset}: {each.fault}" for each in index.damages]
        damages += [
            f"{name} at {block.offset}: the checksum of a block is wrong"
            for block in index.all_blocks
            if not file.is_whole(block)
        ]
        last_id = 0
        for block in index.blocks:
            header = block.header
            if not last_id < header.first_id <= header.last_id:
                damages.append(f"{name} at {block.offset}: its ids do not follow those before it")
            last_id = max(last_id, header.last_id)
        unfinished = ""
        if name.suffix != SEGMENT and not file.refresh() and file.end < size:
            unfinished = f"{name} at {file.end}: an unfinished write, or a damaged block"
        fresh = Catalogue("")
        fresh.add(name.after_id, index, size)
        report = _Report(
            name, damages, unfinished, index.blocks[0].header.first_id if index.blocks else 0,
            last_id, fresh.segments[0] if fresh.segments else None, len(index.all_blocks), size,
        )  # fmt: skip
        if name.suffix == SEGMENT and not damages:
            self._sealed[key] = report
        return report

    def _differences(self, rows: dict[int, SegmentRow], known: Catalogue) -> list[str]:
        """Compare the segments with the catalogue.

        A segment that follows those of the catalogue was sealed just before its writer ended, and
        one that precedes them was being dropped; a start completes both.
        """
        found = []
        last_id = known.segments[-1].last_id if known.segments else known.dropped_id
        for report in self.reports:
            if report.name.suffix != SEGMENT:
                continue
            row = rows.get(report.name.after_id)
            if row is None:
                if known.dropped_id <= report.name.after_id < last_id:
                    found.append(f"{report.name} is not in {files.CATALOGUE}")
            elif report.row is None or report.row[:-1] != row[:-1]:
                found.append(f"{report.name} differs from {files.CATALOGUE}")
        return found + [
            f"{row.name} is missing"
            for row in rows.values()
            if not (self._directory / row.name).exists()
        ]

    def _order(self, rows: dict[int, SegmentRow], dropped_id: int | None) -> list[str]:
        """Compare the ids of each file with those of the file before it."""
        found = []
        ends = {
            (_ORDER.index(each.name.suffix), each.name.after_id): (
                str(each.name), each.first_id, each.last_id
            ) for each in self.reports
        }  # fmt: skip
        for row in rows.values():  # also of a segment that is missing or damaged
            ends[0, row.after_id] = (row.name, row.first_id, row.last_id)
        last_id = dropped_id
        for (kind, after_id), (name, first_id, end_id) in sorted(ends.items()):
            if last_id is None:
                last_id = after_id  # retention may have removed older ones
            if after_id > last_id:
                found.append(
                    f"no file has the records after id {last_id} up to id {after_id}, "
                    f"with which {name} begins"
                )
            is_repeated = kind == _ORDER.index(TAIL) and end_id <= last_id
            if first_id and first_id <= last_id and not is_repeated:
                found.append(f"{name}: its ids do not follow those before it")
            last_id = max(last_id, after_id, end_id)
        return found


def _names(directory: Path) -> list[FileName]:
    """Return the names of all files of blocks, in the order of their records."""
    try:
        names = [files.read_name(path.name) for path in directory.iterdir()]
    except OSError as error:
        raise files.failed(directory, error) from None
    return sorted(
        (name for name in names if name is not None),
        key=lambda name: (_ORDER.index(name.suffix), name.after_id),
    )


def _gaps(directory: Path) -> Iterator[Finding]:
    try:
        reader = Reader(directory)
        try:
            for gap in reader.gaps():
                yield Finding(f"gap: {_described(gap)}", is_damage=False)
        finally:
            reader.close()
    except DamagedArchive as error:
        yield Finding(str(error), is_damage=True)


def _described(gap: GapRecord) -> str:
    kind = gap.kind.name.lower()
    if gap.first is None:
        return f"{gap.topic} {kind} at id {gap.id}"
    if gap.last is None:
        numbers = f"from {gap.first}"
    else:
        numbers = f"{gap.first}" if gap.first == gap.last else f"{gap.first} to {gap.last}"
    return f"{gap.topic} {kind} {numbers} at id {gap.id}"
