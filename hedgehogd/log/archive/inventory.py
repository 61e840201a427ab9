"""The inventory of an archive's directory at the start of its writer.

A writer may have ended at any instant. Its unfinished work is completed or removed here, and
damage is reported; nothing readable is removed.
"""

import os
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from hedgehogd.log.archive import catalogue, files
from hedgehogd.log.archive.block_file import BlockFile
from hedgehogd.log.archive.catalogue import Catalogue
from hedgehogd.log.archive.errors import DamagedArchive
from hedgehogd.log.archive.files import OPEN, PART, SEGMENT, TAIL, FileName
from hedgehogd.log.archive.index import Index, collect, growing, read_footer


class Growing(NamedTuple):
    """A file that may grow, and its index.

    Attributes:
        file: the file.
        contents: its index.
    """

    file: BlockFile
    contents: Index

    @property
    def last_id(self) -> int:
        """The largest id in it; 0 without records."""
        blocks = self.contents.blocks
        return blocks[-1].header.last_id if blocks else 0


class Inventory(NamedTuple):
    """The files of a directory.

    Attributes:
        catalogue: the catalogue, complete.
        opened: the open segment; None without one.
        tails: the tails, in the order of their ids.
        problems: texts for the operator, one for each problem.
        is_changed: True if the catalogue must be written.
    """

    catalogue: Catalogue
    opened: Growing | None
    tails: list[Growing]
    problems: list[str]
    is_changed: bool


def take(directory: Path, deployment: str) -> Inventory:
    """Complete the last writer's work in ``directory``; return the inventory.

    Raises:
        NewerFormat: a newer version wrote it.
        ForeignArchive: it is of another deployment.
        ArchiveError: it cannot be read or written.
    """
    problems: list[str] = []
    names = _names(directory)
    found, is_changed = _catalogue(directory, deployment, names, problems)
    present = {name.after_id for name in names if name.suffix == SEGMENT}
    problems += [
        f"{row.name} is missing; its records are a gap"
        for row in found.segments
        if row.after_id not in present
    ]
    not_sealed = [name for name in names if name.suffix in {OPEN, TAIL}]
    sealed_id = max(found.dropped_id, found.segments[-1].last_id if found.segments else 0)
    opened: Growing | None = None
    tails: list[Growing] = []
    for name in sorted(not_sealed):
        path = directory / str(name)
        try:
            is_rewritten = name.suffix == TAIL or any(n.suffix == TAIL for n in not_sealed)
            packed = found.growing.get(str(name), b"")
            each = _growing(path, deployment, problems, packed, is_rewritten=is_rewritten)
        except DamagedArchive as error:
            problems.append(f"{error}; it is set aside")
            path.rename(path.with_suffix(path.suffix + ".damaged"))
            continue
        is_stale = each.last_id and each.last_id <= (opened.last_id if opened else sealed_id)
        if is_stale or (name.suffix == OPEN and opened is not None):
            each.file.close()
            path.unlink()
        elif name.suffix == OPEN:
            opened = each
        else:
            tails.append(each)
    files_in_order = [*([opened] if opened else []), *tails]
    for each, following in pairwise(files_in_order):
        each.contents.lose(
            max(sealed_id, each.file.header.after_id), following.file.header.after_id, 0
        )
    return Inventory(found, opened, tails, problems, is_changed)


def _names(directory: Path) -> list[FileName]:
    """Return the names of the files of blocks; remove files that were not completed."""
    names = []
    try:
        for entry in os.scandir(directory):
            name = files.read_name(entry.name)
            if name is not None:
                names.append(name)
            elif entry.name.endswith(PART):
                (directory / entry.name).unlink()
    except OSError as error:
        raise files.failed(directory, error) from None
    return names


def _catalogue(
    directory: Path, deployment: str, names: list[FileName], problems: list[str]
) -> tuple[Catalogue, bool]:
    """Return the catalogue with all segments, and whether it differs from the one on disk."""
    segments = sorted(name for name in names if name.suffix == SEGMENT)
    is_changed = False
    try:
        found = catalogue.load(directory, deployment)
    except FileNotFoundError:
        is_changed = True
        found = Catalogue(deployment)
        if names:
            problems.append(f"{files.CATALOGUE} is missing; it is made again from the segments")
    except DamagedArchive as error:
        is_changed = True
        found = Catalogue(deployment)
        problems.append(f"{error}; the catalogue is made again from the segments")
    known = {row.after_id for row in found.segments}
    last_id = found.segments[-1].last_id if found.segments else 0
    for name in segments:
        if name.after_id in known:
            continue
        path = directory / str(name)
        if known and name.after_id < last_id:  # retention was interrupted, or a stale copy
            if name.after_id < found.dropped_id:
                path.unlink()
            continue
        following = [each.after_id for each in names if each.after_id > name.after_id]
        add_segment(found, path, deployment, problems, min(following, default=0))
        is_changed = True
    return found, is_changed


def add_segment(
    found: Catalogue, path: Path, deployment: str | None, problems: list[str], end_id: int
) -> None:
    """Add the segment at ``path`` to a catalogue, or the reason why not to ``problems``.

    The next file begins after ``end_id``; 0 without one.

    Raises:
        NewerFormat: a newer version wrote it.
        ForeignArchive: it is of another deployment.
    """
    try:
        file = BlockFile(path, deployment)
    except DamagedArchive as error:
        problems.append(str(error))
        return
    try:
        index = read_footer(file)
        problems += [f"{each.file}: {each.fault}" for each in index.damages]
        index.lose(file.header.after_id, end_id, 0)
        found.add(file.header.after_id, index, file.size)
    finally:
        file.close()


def _growing(
    path: Path, deployment: str, problems: list[str], packed: bytes, *, is_rewritten: bool
) -> Growing:
    """Read a growing file; remove a block that its writer could not complete.

    Args:
        path: the file.
        deployment: the deployment that it must be of.
        problems: receives a text for each removed or damaged part.
        packed: its index, as the catalogue has it.
        is_rewritten: True if the records of a damaged last block are in another file, too, or
            will be appended again.
    """
    file = BlockFile(path, deployment)
    index = growing(file, packed)
    whole = list(file.blocks)
    while is_rewritten and whole and not file.is_whole(whole[-1]):
        whole.pop()
    if len(whole) < len(file.blocks):
        file.add(whole)
        index = Index()
        collect(file, index, whole)
    surplus = file.size - file.end
    if surplus:
        try:
            os.truncate(path, file.end)
        except OSError as error:
            raise files.failed(path, error) from None
        problems.append(f"{path.name}: {surplus} bytes of an unfinished write are removed")
    problems += [f"{each.file}: {each.fault} at {each.offset}" for each in index.damages]
    return Growing(file, index)
