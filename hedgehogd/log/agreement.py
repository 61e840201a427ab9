"""The topics, the archive and the window of the writer of a log, in files that instances read.

Instances that share a window must record the same into one archive, because only one of them
writes: the writer names both in the window. An archive belongs to one window: the writer names that
in the archive.
"""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.log.archive import files
from hedgehogd.log.archive.errors import ArchiveError, ArchiveLocked
from hedgehogd.log.archive.lock import Lock

FILE = "recorded.json"
_TERM, _HISTORY, _WINDOW, _INODE = "term", "history", "window", "inode"
_LOOKS, _LOOK_S = 10, 0.1


def write_names(window: Path, archive: Path, names: Mapping[str, str], term: int) -> None:
    """Write the names of the writer of a term; a fault of the disk leaves the former ones.

    It does not touch the disk of the archive.

    Args:
        window: the directory of the window, which exists.
        archive: the directory of the archive.
        names: the values that are the same in all instances, by configuration key.
        term: the term.
    """
    _write(window, {**names, _HISTORY: str(archive.absolute()), _TERM: str(term)})


def write_window(archive: Path, window: Path) -> None:
    """Name the window of an archive, in the archive; a fault of the disk leaves the former name.

    Args:
        archive: the directory of the archive, which exists.
        window: the directory of the window.
    """
    with suppress(OSError):
        _write(archive, {_WINDOW: str(window.absolute()), _INODE: _inode(window)})


def agree(window: Path, archive: Path, names: Mapping[str, str], term: int) -> bool:
    """Compare the names of the writer of a term with ours; return False if it has written none.

    Raises:
        OperatorError: the writer records other topics, or into another archive.
    """
    named = _read(window)
    if named.get(_TERM) != str(term):
        return False
    for name, ours in names.items():
        theirs = named.get(name, ours)
        if theirs != ours:
            raise OperatorError(
                f"another instance records the history in {archive} with {name} {theirs};"
                f" this one has {ours}\n  Expected the same {', '.join(names)} in all instances"
                " that share a history, or a --history of its own for each.",
                EXIT_CONFIG,
            )
    theirs = named.get(_HISTORY, "")
    if theirs != str(archive.absolute()) and not _is_same(Path(theirs), archive):
        raise OperatorError(
            f"the instances that share the log in {window} record the history in {theirs};"
            f" this one has {archive}\n  Expected the same --history in all instances with one"
            " --runtime-dir, or a --runtime-dir of its own for each.",
            EXIT_CONFIG,
        )
    return True


def agree_on_window(archive: Path, window: Path) -> None:
    """Compare the window of an archive that is being written with ours; it may wait for its name.

    Not for the loop. A writer locks the archive and then names its window there: until it has,
    there is no name, or that of an earlier window, which the end of the machine has removed
    perhaps. An archive that is locked and stays without a name is being migrated.

    Raises:
        OperatorError: an instance with another window writes the archive.
    """
    with suppress(OSError):
        ours, named = _inode(window), _read(archive)
        for _ in range(_LOOKS):
            if named.get(_INODE) == ours or not _is_written(archive):
                return
            time.sleep(_LOOK_S)
            named = _read(archive)
        if named and named.get(_INODE) != ours:
            raise OperatorError(
                f"an instance whose log is in {named.get(_WINDOW)} records the history in"
                f" {archive}; this one has its log in {window}\n  Expected the same --runtime-dir"
                " in all instances that share a history, or a --history of its own for each.",
                EXIT_CONFIG,
            )


def _is_written(archive: Path) -> bool:
    try:
        Lock(archive).release()
    except ArchiveLocked:
        return True
    except ArchiveError:
        return False
    return False


def _is_same(theirs: Path, ours: Path) -> bool:
    try:
        return theirs.samefile(ours)
    except OSError:
        return False


def _inode(directory: Path) -> str:
    status = directory.stat()
    return f"{status.st_dev}:{status.st_ino}"


def _write(directory: Path, named: Mapping[str, str]) -> None:
    path = directory / f"{FILE}{files.PART}"
    with suppress(OSError):
        path.write_text(json.dumps(named))
        path.chmod(files.FILE_MODE)
        path.replace(directory / FILE)


def _read(directory: Path) -> dict[str, str]:
    """Return the names that ``_write`` wrote last; none if they are not readable."""
    try:
        found = json.loads((directory / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
