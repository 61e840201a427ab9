"""Verifying an archive: every checksum, the order of ids, the catalogue against the segments."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hedgehogd.domain.record import GapRecord
from hedgehogd.log.archive import catalogue, files
from hedgehogd.log.archive.block_file import BlockFile
from hedgehogd.log.archive.catalogue import Catalogue
from hedgehogd.log.archive.errors import ArchiveError, DamagedArchive
from hedgehogd.log.archive.files import OPEN, SEGMENT, TAIL, FileName
from hedgehogd.log.archive.index import Index, collect, read_footer
from hedgehogd.log.archive.reader import Reader


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


def check(directory: Path, totals: Totals) -> Iterator[Finding]:
    """Iterate over the damage and the gaps of the archive in ``directory``.

    The archive is not changed; its writer may be running.

    Raises:
        NewerFormat: a newer version wrote it.
        ForeignArchive: files of several deployments.
        ArchiveError: there is no archive, or it cannot be read.
    """
    known: Catalogue | None = None
    try:
        known = catalogue.load(directory)
    except FileNotFoundError:
        yield Finding(f"{files.CATALOGUE} is missing", is_damage=True)
    except DamagedArchive as error:
        yield Finding(str(error), is_damage=True)
    names = _names(directory)
    if known is None and not names:
        raise ArchiveError(f"there is no archive in {directory}")
    yield from _check_files(directory, names, known, totals)
    if known is not None:
        yield from _gaps(directory)


def _names(directory: Path) -> list[FileName]:
    """Return the names of all files of blocks, in the order of their records."""
    try:
        names = [files.read_name(path.name) for path in directory.iterdir()]
    except OSError as error:
        raise files.failed(directory, error) from None
    order = (SEGMENT, OPEN, TAIL)
    return sorted(
        (name for name in names if name is not None),
        key=lambda name: (order.index(name.suffix), name.after_id),
    )


def _check_files(
    directory: Path, names: list[FileName], known: Catalogue | None, totals: Totals
) -> Iterator[Finding]:
    rows = {row.after_id: row for row in known.segments} if known else {}
    last_id = 0
    for name in names:
        try:
            file = BlockFile(directory / str(name), known.deployment if known else None)
        except FileNotFoundError:
            continue  # retention or compaction has removed it
        except DamagedArchive as error:
            yield Finding(str(error), is_damage=True)
            continue
        try:
            size = file.size
            index = _index(file, name)
            totals.files += 1
            totals.bytes += file.size
            yield from (
                Finding(f"{each.file} at {each.offset}: {each.fault}", is_damage=True)
                for each in index.damages
            )
            yield from _check_blocks(file, index, last_id, totals)
            if name.suffix != SEGMENT and not file.refresh() and file.end < size:
                text = f"{name} at {file.end}: an unfinished write, or a damaged block"
                yield Finding(text, is_damage=True)
            row = rows.pop(name.after_id, None) if name.suffix == SEGMENT else None
            if row is not None:
                fresh = Catalogue("")
                fresh.add(name.after_id, index, file.size)
                if [each[:-1] for each in fresh.segments] != [row[:-1]]:
                    yield Finding(f"{name} differs from {files.CATALOGUE}", is_damage=True)
            elif name.suffix == SEGMENT and known is not None:
                yield Finding(f"{name} is not in {files.CATALOGUE}", is_damage=True)
        finally:
            file.close()
        if index.blocks:
            last_id = max(last_id, index.blocks[-1].header.last_id)
    for row in rows.values():
        yield Finding(f"{row.name} is missing", is_damage=True)


def _index(file: BlockFile, name: FileName) -> Index:
    if name.suffix == SEGMENT:
        return read_footer(file)
    index = Index()
    collect(file, index, file.refresh())
    return index


def _check_blocks(file: BlockFile, index: Index, last_id: int, totals: Totals) -> Iterator[Finding]:
    """Check the blocks of one file; those of a tail may repeat records of the open segment."""
    for block in index.all_blocks:
        where = f"{file.path.name} at {block.offset}"
        totals.blocks += 1
        if not file.is_whole(block):
            yield Finding(f"{where}: the checksum of a block is wrong", is_damage=True)
    for block in index.blocks:
        where = f"{file.path.name} at {block.offset}"
        header = block.header
        totals.messages += header.messages
        is_repeat = file.path.suffix == TAIL and header.last_id <= last_id
        if not is_repeat and not last_id < header.first_id <= header.last_id:
            yield Finding(f"{where}: its ids do not follow those before it", is_damage=True)
        last_id = max(last_id, header.last_id)


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
    numbers = f"{gap.first}" if gap.first == gap.last else f"{gap.first} to {gap.last}"
    return f"{gap.topic} {kind} {numbers} at id {gap.id}"
