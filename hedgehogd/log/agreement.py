"""The pairs and channels that the writer of an archive records, in a file beside it.

Instances that share a log must record the same, because only one of them writes. The file is not a
part of the archive: it describes the present writer.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.log.archive import files

FILE = "recorded.json"


def write_names(directory: Path, names: Mapping[str, str]) -> None:
    """Write the names of this writer; a fault of the disk leaves the former ones.

    The directory is created if it does not exist.

    Args:
        directory: the archive's directory.
        names: ``pairs`` and ``channels``, each sorted and joined by commas.
    """
    path = directory / f"{FILE}{files.PART}"
    with suppress(OSError):
        directory.mkdir(files.DIRECTORY_MODE, parents=True, exist_ok=True)
        path.write_text(json.dumps(dict(names)))
        path.chmod(files.FILE_MODE)
        path.replace(directory / FILE)


def read_names(directory: Path) -> dict[str, str]:
    """Return the names of the present or the last writer; none if they are not readable."""
    try:
        found = json.loads((directory / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def agree(directory: Path, names: Mapping[str, str]) -> bool:
    """Compare the names of the present writer with ours; return False if it has written none.

    Raises:
        OperatorError: the writer records other pairs or channels.
    """
    named = read_names(directory)
    for name, ours in names.items():
        theirs = named.get(name, ours)
        if theirs != ours:
            raise OperatorError(
                f"another instance records the history in {directory} for {name} {theirs};"
                f" this one has {ours}\n  Expected the same --pairs and --channels in all"
                " instances that share a history, or a --history of its own for each.",
                EXIT_CONFIG,
            )
    return bool(named)
