"""Every limit has a unit in its name, a reason in a comment above it, and a module that uses it."""

import ast
import re
from pathlib import Path

from hedgehogd.domain import limits

SOURCE = Path(limits.__file__)
LINES = SOURCE.read_text().splitlines()
UNIT = re.compile(r"_(?:S|MS|NS|BYTES|MAX|MIN|PER_S|BURST)$")

CONSTANTS = {
    node.targets[0].id: node.lineno
    for node in ast.parse(SOURCE.read_text()).body
    if isinstance(node, ast.Assign)
}


def reason_above(line_number):
    """Return the comment above a constant; adjacent constants share one comment."""
    above = LINES[: line_number - 1]
    while above and above[-1].strip() and not above[-1].startswith("#"):
        above.pop()
    words = []
    while above and above[-1].startswith("#"):
        words.append(above.pop().lstrip("# "))
    return " ".join(reversed(words))


def test_the_module_has_only_limits():
    """A name that is not a plain assignment would not be checked here."""
    names = {name for name in vars(limits) if not name.startswith("_")}

    assert names == set(CONSTANTS)
    assert len(names) > 40


def test_a_limit_names_its_unit():
    """A limit that is read in a wrong unit does not limit."""
    assert [name for name in CONSTANTS if not UNIT.search(name)] == []


def test_a_limit_states_its_reason():
    """A number without a reason is changed without thought."""
    shortest = len("Elements of one list")
    reasons = {name: reason_above(line) for name, line in CONSTANTS.items()}

    assert {name: words for name, words in reasons.items() if len(words) < shortest} == {}


def test_a_limit_is_a_number_that_limits():
    """No limit is infinite, and a duration is a float, as clocks are."""
    values = {
        name: value if isinstance(value := getattr(limits, name), tuple) else (value,)
        for name in CONSTANTS
    }

    assert {n: v for n, v in values.items() if not all(0 <= x < float("inf") for x in v)} == {}
    assert {
        name: each
        for name, each in values.items()
        if not all(isinstance(x, float if name.endswith("_S") else int) for x in each)
    } == {}


def test_every_limit_is_used():
    """A limit that no module reads has no effect."""
    package = SOURCE.parents[1]
    words = {
        word
        for path in package.rglob("*.py")
        if path != SOURCE
        for word in re.findall(r"\b[A-Z][A-Z0-9_]+\b", path.read_text())
    }

    assert CONSTANTS.keys() - words == set()


def test_the_daemon_ends_a_connection_before_the_kernel_does():
    """So a slow subscriber gets a close code and a position instead of a reset."""
    assert limits.BACKLOG_AGE_MAX_S + limits.FAREWELL_S < limits.UNACKED_MAX_S


def test_keep_alives_and_pauses_fit_into_their_timeouts():
    """A keep-alive that is rarer than the timeout would not keep a connection open."""
    assert limits.KEEP_ALIVE_S * 2 < limits.PEER_SILENCE_MAX_S
    assert limits.BACKOFF_FIRST_S < limits.BACKOFF_MAX_S
    assert (
        limits.DRAIN_NOTICE_S + limits.DRAIN_SPREAD_S + limits.FAREWELL_S < limits.DRAIN_TIMEOUT_S
    )
