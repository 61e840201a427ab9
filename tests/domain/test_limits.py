"""Every limit has a unit in its name, a reason above it, and somebody who keeps it."""

import ast
import re
from pathlib import Path

import pytest

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
    """Return the comment over a constant; constants without a blank line between share one."""
    above = LINES[: line_number - 1]
    while above and above[-1].strip() and not above[-1].startswith("#"):
        above.pop()
    words = []
    while above and above[-1].startswith("#"):
        words.append(above.pop().lstrip("# "))
    return " ".join(reversed(words))


def test_the_module_holds_limits_and_nothing_else():
    """What is not seen here is not checked here."""
    names = {name for name in vars(limits) if not name.startswith("_")}

    assert names == set(CONSTANTS)
    assert len(names) > 40


@pytest.mark.parametrize("name", sorted(CONSTANTS))
def test_a_limit_names_its_unit(name):
    """Ten what? A limit in the wrong unit is no limit (invariant 4)."""
    assert UNIT.search(name)


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_limit_states_its_reason(name):
    """A number without one is changed by whoever is in a hurry."""
    assert len(reason_above(CONSTANTS[name])) >= len("Drain (DESIGN §6).")


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_limit_is_a_number_that_limits(name):
    """Nothing is unlimited, and a duration is a float wherever it is added to a clock."""
    value = getattr(limits, name)

    for each in value if isinstance(value, tuple) else (value,):
        assert 0 <= each < float("inf")
        assert isinstance(each, float if name.endswith("_S") else int)


def test_every_limit_is_kept_by_somebody():
    """A limit that nobody reads promises what does not happen."""
    package = SOURCE.parents[1]
    words = {
        word
        for path in package.rglob("*.py")
        if path != SOURCE
        for word in re.findall(r"\b[A-Z][A-Z0-9_]+\b", path.read_text())
    }

    assert CONSTANTS.keys() - words == set()


def test_our_own_end_comes_before_the_kernels():
    """A slow subscriber gets a close code and a position, not a reset."""
    assert limits.BACKLOG_AGE_MAX_S + limits.FAREWELL_S < limits.UNACKED_MAX_S


def test_pauses_and_pings_fit_into_the_silence_that_is_allowed():
    """A keep-alive rarer than the limit it serves would keep nothing alive."""
    assert limits.KEEP_ALIVE_S * 2 < limits.PEER_SILENCE_MAX_S
    assert limits.BACKOFF_FIRST_S < limits.BACKOFF_MAX_S
    assert (
        limits.DRAIN_NOTICE_S + limits.DRAIN_SPREAD_S + limits.FAREWELL_S < limits.DRAIN_TIMEOUT_S
    )
