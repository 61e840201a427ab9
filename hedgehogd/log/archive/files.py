"""The files of an archive: their names, their header, their modes.

    ID.segment   sealed: blocks, then a footer that indexes them
    ID.open      the segment that grows: blocks
    ID.tail      the newest records, in small blocks, until they become a block of the open segment
    catalogue.sqlite, archive.lock

ID is the id after which the records of the file begin, in 20 digits. Every file of blocks begins
with the same header, so each can be identified alone.
"""

import errno
import os
import re
import struct
import zlib
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from hedgehogd.log.archive.errors import (
    ArchiveError,
    ArchiveFull,
    DamagedArchive,
    ForeignArchive,
    NewerFormat,
)

# Trades are public, but which pairs an operator keeps is not: only the group may read.
FILE_MODE = 0o640
VERSION = 1
CATALOGUE = "catalogue.sqlite"
LOCK = "archive.lock"
SEGMENT, OPEN, TAIL = ".segment", ".open", ".tail"
PART = ".part"
"""The suffix of a file that is not complete; it is removed at the next start."""

_MAGIC = b"HEDGARCH"
_HEADER = struct.Struct("<8sHxx8sQ")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
_NAME = re.compile(r"([0-9]{20})(\.segment|\.open|\.tail)")
DEPLOYMENT = re.compile(r"[a-z2-7]{6}")


class FileHeader(NamedTuple):
    """The header of a file.

    Attributes:
        deployment: the deployment whose log it holds: 6 characters of base32.
        after_id: its records have larger ids.
    """

    deployment: str
    after_id: int


class FileName(NamedTuple):
    """The parts of a file's name.

    Attributes:
        after_id: its records have larger ids.
        suffix: ``SEGMENT``, ``OPEN`` or ``TAIL``.
    """

    after_id: int
    suffix: str

    def __str__(self) -> str:
        return f"{self.after_id:020}{self.suffix}"


def read_name(name: str) -> FileName | None:
    """Return the parts of ``name``; None if it is not the name of a file of blocks."""
    found = _NAME.fullmatch(name)
    return FileName(int(found[1]), found[2]) if found else None


def is_part(name: str) -> bool:
    """Say whether ``name`` is that of a file of an archive that was not completed."""
    whole = name.removesuffix(PART)
    return whole != name and (whole == CATALOGUE or read_name(whole) is not None)


def pack_header(header: FileHeader) -> bytes:
    """Encode the header of a file."""
    head = _HEADER.pack(_MAGIC, VERSION, header.deployment.encode(), header.after_id)
    return head + _CRC.pack(zlib.crc32(head))


def unpack_header(data: bytes, name: str, deployment: str | None = None) -> FileHeader:
    """Decode the header at the start of ``data``.

    Args:
        data: the first bytes of a file.
        name: its name, for error messages.
        deployment: the deployment that it must be of; None for any.

    Raises:
        DamagedArchive: there is none.
        NewerFormat: it is of a newer version.
        ForeignArchive: it is of another deployment.
    """
    if len(data) < HEADER_BYTES or not data.startswith(_MAGIC):
        raise DamagedArchive(f"{name} does not begin like a file of an archive")
    _, version, found, after_id = _HEADER.unpack_from(data)
    if version > VERSION:
        raise NewerFormat(f"{name} has version {version}, this hedgehogd reads up to {VERSION}")
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if crc != zlib.crc32(data[: _HEADER.size]) or version < 1:
        raise DamagedArchive(f"the header of {name} is damaged")
    header = FileHeader(found.rstrip(b"\0").decode("ascii", "replace"), after_id)
    if deployment not in {None, header.deployment}:
        raise ForeignArchive(
            f"{name} is of deployment {header.deployment}, this one is {deployment}"
        )
    return header


def failed(path: Path, error: OSError) -> ArchiveError:
    """Return the error of the archive for an error of the file system."""
    is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return (ArchiveFull if is_full else ArchiveError)(f"{path}: {error.strerror or error}")


def part_of(path: Path) -> Path:
    """Return the path at which the file at ``path`` is made."""
    return path.with_suffix(path.suffix + PART)


def create(path: Path, header: FileHeader, blocks: Iterable[bytes] = ()) -> tuple[int, int]:
    """Create a file with its header and first blocks; it replaces one of the same name.

    The file has its name only when it is complete and durable; its name is durable after
    ``sync_directory``. After an error there is no new file.

    Args:
        path: its path.
        header: its header.
        blocks: its first blocks.

    Returns:
        Its descriptor, for appending; the caller closes it. And its size, in bytes.

    Raises:
        ArchiveError: it cannot be created.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
    part = part_of(path)
    try:
        descriptor = os.open(part, flags, FILE_MODE)
        try:
            os.fchmod(descriptor, FILE_MODE)  # for any umask
            size = 0
            for data in chain((pack_header(header),), blocks):
                write_all(descriptor, data)
                size += len(data)
            os.fsync(descriptor)
            part.replace(path)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):  # else the next start removes it
                part.unlink()
            raise
    except OSError as error:
        raise failed(path, error) from None
    return descriptor, size


def remove(path: Path) -> None:
    """Remove the file at ``path`` if there is one.

    Raises:
        ArchiveError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise failed(path, error) from None


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable.

    Raises:
        ArchiveError: it cannot be done.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise failed(directory, error) from None
