"""The language of the house: no private dialect, and no citation of a document from elsewhere.

``python -m tests.house.prose PATH`` names the lines too. A word list cannot judge a sentence: no
use proves nothing, but a use shows that the dialect returns.
"""

import os
import re
from pathlib import Path

from tests.house.prose import PATTERN, files, uses

ROOT = Path(__file__).resolve().parents[2]
ROOTS = [ROOT / name for name in ("hedgehogd", "tests", "docs", "scripts", "bench")]
NOT_OURS = {"build", "results", "__pycache__"}
# Not reworded yet.
EXCEPTED = (
    "hedgehogd/engine/gap_index.py",
    "hedgehogd/recovery",
    "hedgehogd/relay/tapes.py",
    "tests/engine/test_gap_index.py",
    "tests/recovery",
    "tests/relay/test_tapes.py",
)
CITATION = re.compile(r"\b(?:FEED|PAIN|DESIGN)(?: §|, invariant)")


def is_ours(path: Path) -> bool:
    """Tell whether ``path`` is a file of this project, not one that a tool made."""
    return path.is_file() and not NOT_OURS & set(path.relative_to(ROOT).parts)


def below(folder: Path) -> list[Path]:
    """Return the files below ``folder``, without those that other processes write meanwhile."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in NOT_OURS]
        found += [Path(root, name) for name in names]
    return found


def is_excepted(path: Path) -> bool:
    """Tell whether the language of ``path`` is not counted."""
    name = path.relative_to(ROOT).as_posix()
    return any(name == each or name.startswith(f"{each}/") for each in EXCEPTED)


def may_use(path: Path) -> bool:
    """Tell whether ``path`` has to be parsed: five seconds for all of them, and most need not."""
    text = path.read_text()
    if path.suffix != ".py":
        return True
    comments = (row.partition("#")[2] for row in text.split("\n"))
    return bool(PATTERN.search("\n".join([*text.split('"""')[1::2], *comments])))


def test_the_dialect_does_not_return() -> None:
    """Each use is named with its line and the words to use."""
    documents = sorted(ROOT.glob("*.md"))
    paths = [path for path in files(*ROOTS, *documents) if is_ours(path) and not is_excepted(path)]

    assert [use for path in paths if may_use(path) for use in uses(path)] == []


def test_no_line_cites_a_document_from_elsewhere() -> None:
    """A document that a reader cannot open explains nothing."""
    folders = [*ROOTS, ROOT / "systemd", ROOT / "haproxy", ROOT / ".github"]
    inside = [path for folder in folders for path in below(folder)]
    found = [
        f"{path.relative_to(ROOT)}: {row.strip()}"
        for path in [*inside, *ROOT.glob("*.md")]
        if is_ours(path) and not is_excepted(path)
        for row in path.read_text(errors="replace").split("\n")
        if CITATION.search(row)
    ]

    assert found == []


def test_excepted_places_exist() -> None:
    """An exception for a removed module could later cover another one."""
    assert [name for name in EXCEPTED if not (ROOT / name).exists()] == []


def test_the_check_finds_a_use(tmp_path: Path) -> None:
    """A check that cannot fail would be worse than none."""
    path = tmp_path / "module.py"
    path.write_text('"""Return what was asked for."""\n\nwhat = 1  # nobody reads it\n')

    assert [(use.line, use.word) for use in uses(path)] == [(1, "what"), (3, "nobody")]
    assert may_use(path)
