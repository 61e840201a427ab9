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
    "hedgehogd/arbitration": 1,
    "hedgehogd/domain": 2,
    "tests/books": 1,
    "tests/e2e": 1,
    "tests/engine": 1,
    "tests/fakes.py": 2,
}
# The most lines that cite the documents this project was planned by, which are not in it.
CITATIONS_MAX = {
    "hedgehogd/history": 1,
    "hedgehogd/recovery": 1,
    "tests/recovery": 1,
}
CITATION = re.compile(r"\b(?:FEED|PAIN|DESIGN)(?: §|, invariant)")


def place_of(path: Path) -> str:
    """Return the package, the folder of tests, or the file at the top that ``path`` belongs to."""
    parts = path.relative_to(ROOT).parts
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
    """A document that a reader cannot open explains nothing."""
    found: Counter[str] = Counter()
    folders = [*ROOTS, ROOT / "systemd", ROOT / "haproxy", ROOT / ".github"]
    inside = (path for folder in folders for path in folder.rglob("*"))
    for path in [*inside, *ROOT.glob("*.md")]:
        if is_ours(path):
            text = path.read_text(errors="replace")
            found[place_of(path)] += sum(bool(CITATION.search(row)) for row in text.split("\n"))

    assert raised(found, CITATIONS_MAX) == {}


def test_excepted_places_exist() -> None:
    """An exception for a removed module could later cover another one."""
    assert [name for name in EXCEPTED if not (ROOT / name).exists()] == []


def test_the_check_finds_a_place_that_got_worse() -> None:
    """A check that cannot fail would be worse than none."""
    found = Counter({"docs": 3, "hedgehogd/web": 2, "hedgehogd/new": 1})

    assert raised(found, {"docs": 3, "hedgehogd/web": 1}) == {
        "hedgehogd/new": "1, at most 0",
        "hedgehogd/web": "2, at most 1",
    }
