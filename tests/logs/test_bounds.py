"""Limits of log lines: number per kind, length and content."""

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain import limits
from hedgehogd.logs.bounds import LineBudget, Tidier, Tracebacks, printable, raised

BURST, PERIOD_S = limits.LOG_LINES_BURST, limits.LOG_PERIOD_S


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(0, 3 * PERIOD_S), st.sampled_from(["a", "b", "c"]), st.integers(1, 60))
    )
)
def test_lines_are_bounded_per_kind_and_every_line_is_counted(floods):
    """In any interval a kind has its burst and one line per period; omitted lines are counted."""
    clock = Clock()
    budget = LineBudget(clock)
    written, requested, reported = {}, {}, {}
    for pause_s, kind, lines in floods:
        clock.now += pause_s
        for _ in range(lines):
            requested[kind] = requested.get(kind, 0) + 1
            left_out = budget.admit((kind,))
            if left_out is not None:
                written.setdefault(kind, []).append(clock.now)
                reported[kind] = reported.get(kind, 0) + left_out
    for (kind,), count in budget.take_left_out(0).items():
        reported[kind] = reported.get(kind, 0) + count

    assert budget.take_left_out(0) == {}
    for kind, times in written.items():
        assert len(times) + reported.get(kind, 0) == requested[kind]
        for first, begin in enumerate(times):
            for last in range(first, len(times)):
                allowed = BURST + (times[last] - begin) / PERIOD_S
                assert last - first + 1 <= allowed + 1e-6


def test_a_flood_has_a_burst_then_one_line_per_period_with_a_count():
    """A daemon once wrote 2,196 lines in four seconds because of one faulty exchange."""
    clock = Clock()
    budget = LineBudget(clock)
    admitted = []
    for _ in range(2196):
        admitted.append(budget.admit(("feed", "unexpected message")))
        clock.now += 4 / 2196
    clock.now = PERIOD_S
    admitted.append(budget.admit(("feed", "unexpected message")))

    assert [each for each in admitted if each is not None] == [0] * BURST + [2196 - BURST]


def test_one_kind_does_not_suppress_another():
    """The line that explains a flood is usually of another kind."""
    budget = LineBudget(Clock())
    for _ in range(1000):
        budget.admit(("feed", "unexpected message"))

    assert budget.admit(("feed", "lost")) == 0


def test_a_clock_that_steps_back_admits_no_further_lines():
    """The daemon's clock is monotonic, but the limit must not depend on that."""
    clock = Clock()
    budget = LineBudget(clock)
    for _ in range(BURST):
        budget.admit(("a",))
    clock.now = -1e9

    assert budget.admit(("a",)) is None


def test_a_count_is_reported_after_a_period():
    """After a flood there is no next line to report the count."""
    clock = Clock()
    budget = LineBudget(clock)
    for _ in range(BURST + 7):
        budget.admit(("a",))

    assert budget.take_left_out(PERIOD_S) == {}
    clock.now = PERIOD_S
    assert budget.take_left_out(PERIOD_S) == {("a",): 7}


def test_kinds_are_bounded_and_further_kinds_share_one_budget():
    """A library may include a peer's text in the event of its lines."""
    budget = LineBudget(Clock())
    admitted = [budget.admit((str(number),)) for number in range(3 * limits.LOG_KINDS_MAX)]

    written = sum(each is not None for each in admitted)
    assert written == limits.LOG_KINDS_MAX + BURST
    assert budget.take_left_out(0) == {("other kinds",): len(admitted) - written}


def failing(text="why", depth=0):
    if depth:
        failing(text, depth - 1)
    raise ZeroDivisionError(text)


def caught(*arguments):
    try:
        failing(*arguments)
    except ZeroDivisionError:
        return sys.exc_info()


def test_a_traceback_is_written_once_per_code_location():
    """A bug that every message triggers would fill the journal with one traceback."""
    tracebacks = Tracebacks()
    lines = [tracebacks(None, "", {"event": "bug", "exc_info": caught(str(n))}) for n in range(3)]
    elsewhere = tracebacks(None, "", {"event": "bug", "exc_info": ValueError("x")})

    assert "ZeroDivisionError: 0" in lines[0]["exception"]
    assert [set(line) for line in lines[1:]] == [{"event", "error", "place"}] * 2
    assert lines[2]["error"] == "ZeroDivisionError: 2"
    assert lines[2]["place"].startswith(f"ZeroDivisionError at {__file__}:")
    assert elsewhere["exception"] == "ValueError: x"


def test_the_location_of_a_group_is_that_of_its_first_leaf():
    """Nurseries wrap the exception of a task in groups."""
    _, error, _ = caught()
    group = BaseExceptionGroup("tasks", [BaseExceptionGroup("more", [error])])

    assert raised(group).place == raised(error).place
    assert raised(group).whole is group
    assert (raised(None), raised((None, None, None)), raised(False)) == (None, None, None)


def test_code_locations_are_bounded(monkeypatch):
    """Code that is generated at run time has any number of locations."""
    monkeypatch.setattr(limits, "LOG_KINDS_MAX", 2)
    tracebacks = Tracebacks()
    kinds = [type(f"Error{number}", (Exception,), {}) for number in range(4)]
    lines = [tracebacks(None, "", {"event": "bug", "exc_info": kind()}) for kind in kinds]

    assert ["exception" in line for line in lines] == [True, True, False, False]


class Unprintable:
    def __str__(self):
        raise RuntimeError


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
    max_leaves=20,  # twenty values nest as deep as a hundred need to, in a third of the time
)


@settings(max_examples=60)
@given(st.dictionaries(st.text(min_size=1).filter("exception".__ne__), values), st.booleans())
def test_any_line_can_be_rendered_and_has_a_limited_length(event, escapes):
    """Exceptions and decoded JSON contain values of peers."""
    line = Tidier(str, escapes=escapes)(None, "", dict(event))
    text = json.dumps(line)

    assert len(text) < 12 * (limits.LOG_LINE_CHARACTERS_MAX + 10_000)


@pytest.mark.parametrize(
    "value",
    [
        "x" * 1_000_000,
        b"x" * 1_000_000,
        ["x" * 10_000] * 10_000,
        {str(n): "y" * 100 for n in range(10_000)},
        10**5000 if sys.version_info < (3, 11) else 2**5000,
        [[[[["x" * 100_000]]]]],
        {"x" * 100_000},
        Unprintable(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_large_value_does_not_affect_other_values(value):
    """The line must stay readable, and short enough for the journal."""
    line = Tidier(str, escapes=True)(None, "", {"event": "large", "detail": value, "line": 0})

    assert (line["event"], line["line"]) == ("large", 0)
    assert len(json.dumps(line)) < 2 * limits.LOG_LINE_CHARACTERS_MAX


@given(st.text())
def test_a_terminal_receives_no_control_character(text):
    """An escape sequence can overwrite earlier output, and a line break can forge a line."""
    line = Tidier(str, escapes=True)(None, "", {"event": text, "detail": [text], text: text})
    shown = "".join([line["event"], *line["detail"], *line, printable(text)])

    assert not [
        c for c in shown if not c.isprintable() and c in "\n\r\t\b\x1b\x07\x9b\x7f\u202e\u2028"
    ]


def test_a_forged_line_in_a_traceback_is_indented():
    """An exception may quote a peer; only hedgehogd's lines begin in the first column."""
    error = caught("evil\n2026-01-01 [info] drained\x1b[2J" + "x" * 200_000)
    line = Tracebacks()(None, "", {"event": "bug", "exc_info": error})
    text = Tidier(str, escapes=True)(None, "", line)["exception"]

    assert all(row.startswith("  ") for row in text.split("\n"))
    assert "\x1b" not in text
    assert "Traceback" in text
    assert len(text) < 2 * limits.LOG_TRACEBACK_CHARACTERS_MAX


def test_secrets_are_hidden_before_a_value_is_truncated():
    """A truncated value could otherwise end with a part of a secret."""
    secret = "s3cr" + "et" * 20
    tidier = Tidier(lambda text: text.replace(secret, "***"), escapes=False)
    line = tidier(None, "", {"event": "large", "detail": secret * 1000, secret: [{"x": secret}]})

    assert "s3cr" not in json.dumps(line)
