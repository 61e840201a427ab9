"""The language of the house: counts of the private dialect and of citations, which may only fall.

``python -m tests.house.prose PATH`` names the lines. A word list cannot judge a sentence, so that
a count of 0 proves nothing; a count that rises shows that the dialect returns.
"""

import re
from collections import Counter
from pathlib import Path

from tests.house.prose import PATTERN, files, uses

ROOT = Path(__file__).resolve().parents[2]
ROOTS = [ROOT / name for name in ("hedgehogd", "tests", "docs", "scripts", "bench")]
NOT_OURS = {"build", "results", "__pycache__"}
# Later changes replace these modules whole.
EXCEPTED = (
    "hedgehogd/engine/gap_index.py",
    "hedgehogd/history",
    "hedgehogd/recovery",
    "hedgehogd/relay/tapes.py",
    "tests/engine/test_gap_index.py",
    "tests/history",
    "tests/recovery",
    "tests/relay/test_tapes.py",
)
# The most uses of banned words; a place that is not here has none. Lower a number, never raise it.
USES_MAX = {
    "CHANGELOG.md": 30,
    "CONTRIBUTING.md": 6,
    "README.md": 38,
    "bench": 168,
    "docs": 115,
    "hedgehogd/app": 75,
    "hedgehogd/arbitration": 184,
    "hedgehogd/books": 63,
    "hedgehogd/cli.py": 4,
    "hedgehogd/commands": 38,
    "hedgehogd/domain": 159,
    "hedgehogd/engine": 104,
    "hedgehogd/fanout": 122,
    "hedgehogd/feeds": 146,
    "hedgehogd/logs": 12,
    "hedgehogd/protocol": 63,
    "hedgehogd/relay": 14,
    "hedgehogd/settings": 31,
    "hedgehogd/simulator": 251,
    "hedgehogd/streaming": 100,
    "hedgehogd/web": 58,
    "scripts": 7,
    "tests/app": 46,
    "tests/arbitration": 142,
    "tests/books": 67,
    "tests/campaign": 36,
    "tests/clients": 51,
    "tests/cluster": 106,
    "tests/commands": 35,
    "tests/disks.py": 1,
    "tests/domain": 70,
    "tests/e2e": 37,
    "tests/engine": 54,
    "tests/fakes.py": 8,
    "tests/fanout": 118,
    "tests/feeds": 137,
    "tests/fuzz": 19,
    "tests/house": 35,
    "tests/logs": 7,
    "tests/protocol": 58,
    "tests/relay": 9,
    "tests/settings": 30,
    "tests/simulator": 123,
    "tests/soak": 11,
    "tests/streaming": 96,
    "tests/systemd": 83,
    "tests/test_cli.py": 11,
    "tests/test_command.py": 13,
    "tests/web": 76,
}
# The most lines that cite the documents this project was planned by, which are not in it.
CITATIONS_MAX = {
    "bench": 1,
    "hedgehogd/arbitration": 6,
    "hedgehogd/books": 6,
    "hedgehogd/domain": 34,
    "hedgehogd/engine": 1,
    "hedgehogd/fanout": 4,
    "hedgehogd/feeds": 3,
    "hedgehogd/history": 1,
    "hedgehogd/protocol": 11,
    "hedgehogd/recovery": 1,
    "hedgehogd/simulator": 30,
    "hedgehogd/streaming": 4,
    "hedgehogd/web": 1,
    "tests/arbitration": 14,
    "tests/books": 2,
    "tests/clients": 1,
    "tests/cluster": 1,
    "tests/domain": 23,
    "tests/e2e": 2,
    "tests/fanout": 3,
    "tests/feeds": 4,
    "tests/protocol": 16,
    "tests/recovery": 1,
    "tests/simulator": 58,
    "tests/streaming": 8,
}
CITATION = re.compile(r"\b(?:FEED|PAIN|DESIGN)(?: §|, invariant)")


def place_of(path: Path) -> str:
    """Return the package, the folder of tests, or the file at the top that ``path`` belongs to."""
    parts = path.relative_to(ROOT).parts
    if parts[:2] == ("scripts", "bench"):
        return "bench"
    return "/".join(parts[:2]) if parts[0] in {"hedgehogd", "tests"} else parts[0]


def is_ours(path: Path) -> bool:
    """Tell whether ``path`` is a file of this project, not one that a tool made."""
    return path.is_file() and not NOT_OURS & set(path.relative_to(ROOT).parts)


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


def raised(found: Counter[str], maxima: dict[str, int]) -> dict[str, str]:
    """Return the places where more was found than their maximum."""
    return {
        place: f"{count}, at most {maxima.get(place, 0)}"
        for place, count in sorted(found.items())
        if count > maxima.get(place, 0)
    }


def test_the_dialect_does_not_return() -> None:
    """Each place has at most the uses of banned words that it is known to have."""
    documents = sorted(ROOT.glob("*.md"))
    found: Counter[str] = Counter()
    for path in files(*ROOTS, *documents):
        if is_ours(path) and not is_excepted(path) and may_use(path):
            found[place_of(path)] += sum(1 for _ in uses(path))

    assert raised(found, USES_MAX) == {}


def test_no_line_cites_a_document_from_elsewhere() -> None:
    """What a reader cannot open explains nothing."""
    found: Counter[str] = Counter()
    folders = [*ROOTS, ROOT / "systemd", ROOT / "haproxy", ROOT / ".github"]
    inside = (path for folder in folders for path in folder.rglob("*"))
    for path in [*inside, *ROOT.glob("*.md")]:
        if is_ours(path):
            text = path.read_text(errors="replace")
            found[place_of(path)] += sum(bool(CITATION.search(row)) for row in text.split("\n"))

    assert raised(found, CITATIONS_MAX) == {}


def test_excepted_places_exist() -> None:
    """An exception for what is gone would one day cover something else."""
    assert [name for name in EXCEPTED if not (ROOT / name).exists()] == []


def test_the_check_finds_a_place_that_got_worse() -> None:
    """A check that cannot fail would be worse than none."""
    found = Counter({"docs": 3, "hedgehogd/web": 2, "hedgehogd/new": 1})

    assert raised(found, {"docs": 3, "hedgehogd/web": 1}) == {
        "hedgehogd/new": "1, at most 0",
        "hedgehogd/web": "2, at most 1",
    }
