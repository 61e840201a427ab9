"""Logs: one line an event, whoever wrote it, in the form that the reader wants."""

import io
import json
import logging
import sys

import pytest
import structlog

from hedgehogd.logs import configure_logs


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def written(monkeypatch):
    """Configure logs to go to a text; put everything back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)

    def configure(*arguments, out=None):
        out = out or io.StringIO()
        monkeypatch.setattr(sys, "stderr", out)
        configure_logs(*arguments)
        return lambda: out.getvalue().splitlines()

    yield configure
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_pipe_gets_json(written):
    """Machines read journals."""
    lines = written("info", "auto", 3)
    structlog.get_logger("feed").warning("feed lost", reason="closed: 1006", lived_s=1.5)
    (line,) = map(json.loads, lines())

    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "feed lost",
        "reason": "closed: 1006",
        "lived_s": 1.5,
        "logger": "feed",
        "level": "warning",
        "instance": 3,
    }


def test_a_terminal_gets_colours(written):
    """People read terminals."""
    lines = written("info", "auto", out=Terminal())
    structlog.get_logger("feed").info("feed connected")

    assert "feed connected" in lines()[0]
    assert "\x1b[" in lines()[0]


@pytest.mark.parametrize(("form", "is_json"), [("json", True), ("human", False)])
@pytest.mark.parametrize("out", [Terminal, io.StringIO])
def test_the_form_can_be_chosen(written, form, is_json, out):
    """Whatever stderr is."""
    lines = written("info", form, out=out())
    structlog.get_logger("x").info("hello")

    assert lines()[0].startswith("{") is is_json


def test_libraries_logs_look_the_same(written):
    """One journal, one form."""
    lines = written("info", "json", 1)
    logging.getLogger("hypercorn.error").warning("bad %s", "thing")
    (line,) = map(json.loads, lines())

    assert (line["event"], line["level"], line["instance"]) == ("bad thing", "warning", 1)


@pytest.mark.parametrize("name", ["httpx", "httpcore", "trio-websocket", "quart.serving"])
def test_chatty_libraries_are_quiet(written, name):
    """A line per request is theirs, not ours."""
    lines = written("debug", "json")
    logging.getLogger(name).info("GET /products 200")
    logging.getLogger(name).warning("trouble")

    assert len(lines()) == 1


def test_below_the_level_nothing_is_written(written):
    """Debug is one line a request."""
    lines = written("warning", "json")
    log = structlog.get_logger("x")
    log.debug("a")
    log.info("b")
    log.warning("c")

    assert [json.loads(line)["event"] for line in lines()] == ["c"]


@pytest.mark.parametrize("form", ["json", "human"])
def test_an_exception_is_written_out(written, form):
    """A bug without its traceback cannot be mended."""
    lines = written("info", form)
    try:
        raise ZeroDivisionError("by what")
    except ZeroDivisionError:
        structlog.get_logger("bug").exception("a bug")
    text = "\n".join(lines())

    assert "ZeroDivisionError: by what" in text
    assert "Traceback" in text
    assert len(lines()) == 1 or form == "human"


@pytest.mark.parametrize(
    ("method", "number"),
    [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2), ("exception", 3)],
)
def test_the_journal_is_told_the_level(written, monkeypatch, method, number):
    """``journalctl -p err`` must find exceptions, too."""
    monkeypatch.setenv("JOURNAL_STREAM", "8:1234")
    lines = written("debug", "auto")
    getattr(structlog.get_logger("x"), method)("hello")
    getattr(logging.getLogger("y"), method)("hello")

    assert [line[:4] for line in lines()] == [f"<{number}>{{"] * 2


def test_a_line_of_an_attacker_is_one_line(written):
    """What others send is logged; it must not look like a line of ours."""
    lines = written("info", "json")
    structlog.get_logger("x").info("dropped", what='evil\n{"event":"drained"}')

    assert len(lines()) == 1


def test_configuring_twice_writes_once(written):
    """Tests, and ``simulate`` inside a daemon, do."""
    written("info", "json", 1)
    lines = written("info", "json")
    structlog.get_logger("x").info("hello")
    (line,) = map(json.loads, lines())

    assert "instance" not in line
