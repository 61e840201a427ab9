"""The inventory of an archive's directory at the start of its writer.

A writer may have ended at any instant. Its unfinished work is completed or removed here, and
damage is reported; nothing readable is removed.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from hedgehogd.log.archive import catalogue, files
from hedgehogd.log.archive.block import RECORDS
from hedgehogd.log.archive.block_file import BlockFile
from hedgehogd.log.archive.catalogue import Catalogue
from hedgehogd.log.archive.errors import DamagedArchive
from hedgehogd.log.archive.files import OPEN, SEGMENT, TAIL, FileName
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
        tails: the tails, in the order of their ids. All that is in them is durable.
        problems: texts for the operator, one for each problem.
    """

    catalogue: Catalogue
    opened: Growing | None
    tails: list[Growing]
    problems: list[str]

    def close(self) -> None:
        """Close all files."""
        for each in (*self.tails, self.opened):
            if each is not None:
                each.file.close()


def take(directory: Path, deployment: str) -> Inventory:
    """Complete the last writer's work in ``directory``; return the inventory.

    Raises:
        NewerFormat: a newer version wrote it.
        ForeignArchive: it is of another deployment, or another program's files are there.
        ArchiveError: it cannot be read or written.
    """
    problems: list[str] = []
    with ExitStack() as undo:
        found, names = _catalogue(directory, deployment, problems)
        present = {name.after_id for name in names if name.suffix == SEGMENT}
        problems += [
            f"{row.name} is missing; its records are a gap"
            for row in found.segments
            if row.after_id not in present
        ]
        sealed_id = found.segments[-1].last_id if found.segments else found.dropped_id
        opened: Growing | None = None
        stale: list[Path] = []
        growing = _Files(directory, deployment, names, found.growing, problems, undo)
        tails = list(growing.tails())
        for each in growing.opened([tail.file.header.after_id for tail in tails]):
            if opened is not None or (each.last_id and each.last_id <= sealed_id):
                stale.append(each.file.path)
            else:
                opened = each
        covered_id = opened.last_id if opened else sealed_id
        stale += [tail.file.path for tail in tails if tail.last_id and tail.last_id <= covered_id]
        tails = [tail for tail in tails if tail.file.path not in stale]
        in_order = [*([opened] if opened else []), *tails]
        for each in in_order:
            each.file.sync()  # before the removal of another file with the same records
        for path in stale:
            files.remove(path)
        us = found.segments[-1].max_us if found.segments else 0
        for each, following in pairwise(in_order):
            after_id = max(sealed_id, each.file.header.after_id)
            each.contents.lose(after_id, following.file.header.after_id, us)
            us = each.contents.blocks[-1].header.max_us if each.contents.blocks else us
        problems += _gaps(found, in_order)
        undo.pop_all()
        for each in growing.found:
            if each not in in_order:
                each.file.close()
        return Inventory(found, opened, tails, problems)


def _gaps(found: Catalogue, growing: list[Growing]) -> list[str]:
    """Return a text for each stretch of ids that no file has, although later ones exist."""
    problems = []
    last_id = found.dropped_id
    begins = [(row.name, row.after_id, row.last_id) for row in found.segments]
    if growing:
        first = growing[0]
        begins.append((first.file.path.name, first.file.header.after_id, 0))
    for name, after_id, end_id in begins:
        if after_id > last_id:
            problems.append(
                f"no file has the records after id {last_id} up to id {after_id}, "
                f"with which {name} begins; they are a gap"
            )
        last_id = end_id
    return problems


def _names(directory: Path) -> list[FileName]:
    """Return the names of the files of blocks; remove files that were not completed."""
    names = []
    try:
        for entry in os.scandir(directory):
            name = files.read_name(entry.name)
            if name is not None:
                names.append(name)
            elif files.is_part(entry.name):
                files.remove(directory / entry.name)
    except OSError as error:
        raise files.failed(directory, error) from None
    return names


def _catalogue(
    directory: Path, deployment: str, problems: list[str]
) -> tuple[Catalogue, list[FileName]]:
    """Return the catalogue with all segments, and the names of the files of blocks."""
    found: Catalogue | None = None
    fault = f"{files.CATALOGUE} is missing; it"
    try:
        found = catalogue.load(directory, deployment)
    except FileNotFoundError:
        pass
    except DamagedArchive as error:
        fault = f"{error}; the catalogue"
    names = _names(directory)
    if found is None:
        found = Catalogue(deployment)
        found.dropped_id = min((name.after_id for name in names), default=0)
        if names or "missing" not in fault:
            problems.append(f"{fault} is made again from the segments")
    known = {row.after_id for row in found.segments}
    last_id = found.segments[-1].last_id if found.segments else found.dropped_id
    for name in sorted(name for name in names if name.suffix == SEGMENT):
        path = directory / str(name)
        if name.after_id in known:
            continue
        if name.after_id < last_id:
            if name.after_id < found.dropped_id:  # retention was interrupted
                files.remove(path)
            else:
                problems.append(f"{name} is not in {files.CATALOGUE}, which has its records")
            continue
        following = [each.after_id for each in names if each.after_id > name.after_id]
        add_segment(found, path, deployment, problems, min(following, default=0))
    return found, names


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


class _Files:
    """The growing files of a directory.

    Args:
        directory: the directory.
        deployment: the deployment that they must be of.
        names: the names of all files of blocks.
        packed: the indexes of growing files, as the catalogue has them.
        problems: receives a text for each removed or damaged part.
        undo: closes the files.

    Attributes:
        found: the files that were opened.
    """

    def __init__(
        self,
        directory: Path,
        deployment: str,
        names: list[FileName],
        packed: dict[str, bytes],
        problems: list[str],
        undo: ExitStack,
    ) -> None:
        self.found: list[Growing] = []
        self._directory = directory
        self._deployment = deployment
        self._names = sorted(names)
        self._packed = packed
        self._problems = problems
        self._undo = undo

    def tails(self) -> Iterator[Growing]:
        """Open the tails. The last writer replaced all but the newest one after it had synced them.

        So the newest one alone may end with a block that was not written to its end.
        """
        names = [name for name in self._names if name.suffix == TAIL]
        for name in names:
            each = self._opened(name)
            if each is not None:
                if name == names[-1]:
                    end = len(each.file.blocks)
                    while end and not each.file.is_whole(each.file.blocks[end - 1]):
                        end -= 1
                    each = self._cut(each, end)
                elif each.file.size > each.file.end:
                    self._note_surplus(each.file)
                yield self._reported(each)

    def opened(self, tails: list[int]) -> Iterator[Growing]:
        """Open the open segment. It may end with a block that was not written to its end.

        A tail is removed after its records in the open segment are durable. So if no tail begins
        before a block, the block was complete, and is damaged now.

        Args:
            tails: the ids after which the readable tails begin.
        """
        for name in [name for name in self._names if name.suffix == OPEN]:
            each = self._opened(name)
            if each is None:
                continue
            file = each.file
            position = file.header.after_id
            for number, block in enumerate(file.blocks):
                is_covered = min(tails, default=position + 1) <= position
                if (is_covered or number + 1 == len(file.blocks)) and not file.is_whole(block):
                    if is_covered:
                        each = self._cut(each, number)
                        break
                    fault = "the checksum of a block is wrong"
                    self._problems.append(f"{name}: {fault} at {block.offset}")
                if block.header.kind == RECORDS:
                    position = block.header.last_id
            surplus = file.size - file.end
            if surplus and min(tails, default=position + 1) <= position:
                each = self._cut(each, len(file.blocks))
            elif surplus:
                self._note_surplus(file)
                file.add(file.blocks, file.size)
            yield self._reported(each)

    def _opened(self, name: FileName) -> Growing | None:
        path = self._directory / str(name)
        try:
            file = BlockFile(path, self._deployment)
        except DamagedArchive as error:
            self._problems.append(f"{error}; it is set aside")
            try:
                path.rename(path.with_suffix(path.suffix + ".damaged"))
            except OSError as failure:
                raise files.failed(path, failure) from None
            return None
        self._undo.callback(file.close)
        each = Growing(file, growing(file, self._packed.get(str(name), b"")))
        self.found.append(each)
        return each

    def _cut(self, each: Growing, count: int) -> Growing:
        """Remove all bytes after the first ``count`` blocks: an unfinished write."""
        file, contents = each
        if count < len(file.blocks):
            end = file.blocks[count].offset
            contents = Index()
            file.add([])
            collect(file, contents, end)
        surplus = file.size - file.end
        if surplus:
            name = file.path.name
            try:
                os.truncate(file.path, file.end)
            except OSError as error:
                raise files.failed(file.path, error) from None
            self._problems.append(f"{name}: {surplus} bytes of an unfinished write are removed")
        self.found.remove(each)
        self.found.append(Growing(file, contents))
        return self.found[-1]

    def _note_surplus(self, file: BlockFile) -> None:
        surplus = file.size - file.end
        self._problems.append(f"{file.path.name}: {surplus} bytes at {file.end} are damaged")

    def _reported(self, each: Growing) -> Growing:
        self._problems += [f"{d.file}: {d.fault} at {d.offset}" for d in each.contents.damages]
        return each
