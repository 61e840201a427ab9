"""The topics and the archive of the writer of a log, in a file that all instances read.

Instances that share a window must record the same into one archive, because only one of them
writes.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.log.archive import files

FILE = "recorded.json"
_HISTORY, _INODE = "history", "inode"


def write_names(window: Path, archive: Path, names: Mapping[str, str]) -> None:
    """Write the names of this writer; a fault of the disk leaves the former ones.

    Args:
        window: the directory of the window, which exists.
        archive: the directory of the archive.
        names: ``pairs`` and ``channels``, each sorted and joined by commas.
    """
    path = window / f"{FILE}{files.PART}"
    with suppress(OSError):
        path.write_text(json.dumps({**names, **_place(archive)}))
        path.chmod(files.FILE_MODE)
        path.replace(window / FILE)


def read_names(window: Path) -> dict[str, str]:
    """Return the names of the present or the last writer; none if they are not readable."""
    try:
        found = json.loads((window / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def agree(window: Path, archive: Path, names: Mapping[str, str]) -> bool:
    """Compare the names of the present writer with ours; return False if it has written none.

    Two paths of one directory agree: a container may have mounted it elsewhere.

    Raises:
        OperatorError: the writer records other pairs or channels, or into another archive.
    """
    named = read_names(window)
    for name, ours in names.items():
        theirs = named.get(name, ours)
        if theirs != ours:
            raise OperatorError(
                f"another instance records the history in {archive} for {name} {theirs};"
                f" this one has {ours}\n  Expected the same --pairs and --channels in all"
                " instances that share a history, or a --history of its own for each.",
                EXIT_CONFIG,
            )
    place = _place(archive)
    if named and all(named.get(name, ours) != ours for name, ours in place.items()):
        raise OperatorError(
            f"the instances that share the log in {window} record the history in"
            f" {named[_HISTORY]}; this one has {place[_HISTORY]}\n  Expected the same --history in"
            " all instances with one --runtime-dir, or a --runtime-dir of its own for each.",
            EXIT_CONFIG,
        )
    return bool(named)


def _place(archive: Path) -> dict[str, str]:
    """Return the path of a directory, and its inode if it exists."""
    place = {_HISTORY: str(archive.absolute())}
    with suppress(OSError):
        place[_HISTORY] = os.path.realpath(archive)
        status = archive.stat()
        place[_INODE] = f"{status.st_dev}:{status.st_ino}"
    return place
