"""Log setup: one line per event of any module or library, as JSON or for people."""

import io
import json
import logging
import sys

import pytest
import structlog

from hedgehogd.domain import limits
from hedgehogd.domain.secret import NO_SECRETS, Secrets
from hedgehogd.logs import setup as logs
from hedgehogd.logs.setup import configure_logs, hide_in_logs, report_left_out


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def written(monkeypatch):
    """Yield a function that sends logs to a text; restore the configuration afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)

    def configure(*arguments, out=None, **more):
        out = out or io.StringIO()
        monkeypatch.setattr(sys, "stderr", out)
        configure_logs(*arguments, **more)
        return lambda: out.getvalue().splitlines()

    yield configure
    root.handlers[:] = handlers
    root.setLevel(level)
    logs._lines.secrets = NO_SECRETS
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_pipe_gets_json(written):
    """Programs read journals."""
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
    """The configured form applies to a terminal and to a pipe."""
    lines = written("info", form, out=out())
    structlog.get_logger("x").info("hello")

    assert lines()[0].startswith("{") is is_json


def test_lines_of_libraries_have_the_same_form(written):
    """A reader of the journal needs one form for all lines."""
    lines = written("info", "json", 1)
    logging.getLogger("hypercorn.error").warning("bad %s", "thing")
    (line,) = map(json.loads, lines())

    assert (line["event"], line["level"], line["instance"]) == ("bad thing", "warning", 1)


@pytest.mark.parametrize("name", ["httpx", "httpcore", "trio-websocket", "quart.serving"])
def test_libraries_with_a_line_per_request_log_warnings_only(written, name):
    """hedgehogd must not write a line per request."""
    lines = written("debug", "json")
    logging.getLogger(name).info("GET /products 200")
    logging.getLogger(name).warning("trouble")

    assert len(lines()) == 1
    logs.set_level("error")
    logging.getLogger(name).warning("more trouble")
    assert len(lines()) == 1


def test_lines_below_the_level_are_not_written(written):
    """At level debug there is one line per request."""
    lines = written("warning", "json")
    log = structlog.get_logger("x")
    log.debug("a")
    log.info("b")
    log.warning("c")

    assert [json.loads(line)["event"] for line in lines()] == ["c"]


@pytest.mark.parametrize("form", ["json", "human"])
def test_an_exception_is_written_with_its_traceback(written, form):
    """A bug without a traceback cannot be fixed."""
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
def test_a_line_for_the_journal_begins_with_its_level(written, monkeypatch, method, number):
    """``journalctl -p err`` must find exceptions too."""
    monkeypatch.setenv("JOURNAL_STREAM", "8:1234")
    lines = written("debug", "auto")
    getattr(structlog.get_logger("x"), method)("hello")
    getattr(logging.getLogger("y"), method)("hello")

    assert [line[:4] for line in lines()] == [f"<{number}>{{"] * 2


def test_a_line_with_a_peers_text_is_one_line_of_json(written):
    """A peer's text in a log line must not look like a line of hedgehogd."""
    lines = written("info", "json")
    structlog.get_logger("x").info("dropped", what='evil\n{"event":"drained"}')

    assert len(lines()) == 1


def test_a_second_configuration_replaces_the_first(written):
    """Tests configure logs repeatedly, and so does ``simulate`` inside a daemon."""
    written("info", "json", 1)
    lines = written("info", "json")
    structlog.get_logger("x").info("hello")
    (line,) = map(json.loads, lines())

    assert "instance" not in line


def write_own(number):
    structlog.get_logger("feed").warning("unexpected upstream message", what=str(number))


def write_foreign(number):
    logging.getLogger("hypercorn.error").warning("bad %s", number)


def write_bug(number):
    try:
        raise ZeroDivisionError(number)
    except ZeroDivisionError:
        structlog.get_logger("door").exception("bug while serving one peer")


@pytest.mark.parametrize("write", [write_own, write_foreign, write_bug])
@pytest.mark.parametrize("form", ["json", "human"])
def test_a_flood_of_one_kind_is_bounded_and_counted(written, write, form):
    """The next line of the kind reports the omitted lines, for all kinds of lines."""
    now = [0.0]
    lines = written("info", form, clock=lambda: now[0])
    for number in range(2196):
        write(number)
    flood = len(lines())
    structlog.get_logger("feed").warning("feed lost")
    now[0] = limits.LOG_PERIOD_S
    write(2196)

    traceback_lines = 10 if form == "human" and write is write_bug else 0
    assert limits.LOG_LINES_BURST <= flood <= limits.LOG_LINES_BURST + traceback_lines
    assert "feed lost" in lines()[flood]
    assert f"{2196 - limits.LOG_LINES_BURST}" in lines()[-1]
    assert "left_out" in lines()[-1]
    assert sum("Traceback" in line for line in lines()) == (write is write_bug)


def test_another_bug_is_written_during_a_flood(written):
    """Its traceback may explain the flood."""
    lines = written("info", "json", clock=lambda: 0.0)
    for number in range(100):
        write_bug(number)
    try:
        raise ValueError("another")
    except ValueError:
        structlog.get_logger("door").exception("bug while serving one peer")

    assert "ValueError: another" in json.loads(lines()[-1])["exception"]


def test_the_count_of_an_ended_flood_is_reported(written):
    """No further line of its kind reports it, so the daemon does once per period and at its end."""
    now = [0.0]
    lines = written("info", "json", clock=lambda: now[0])
    for number in range(limits.LOG_LINES_BURST + 3):
        write_own(number)
    report_left_out()
    now[0] = limits.LOG_PERIOD_S
    report_left_out()
    report_left_out(at_least_s=0)

    (line,) = map(json.loads, lines()[limits.LOG_LINES_BURST :])
    assert (line["event"], line["left_out"]) == ("lines left out", 3)
    assert line["kinds"] == {"feed: unexpected upstream message": 3}


@pytest.mark.parametrize("form", ["json", "human"])
def test_no_line_shows_a_secret(written, form):
    """This holds for values, keys, lists, arguments of libraries and texts of exceptions."""
    lines = written("info", form)
    hide_in_logs(Secrets(["t0ken-s3cret"]))
    log = structlog.get_logger("x")
    log.info("connected", url="wss://u:passw0rd@a/?token=q", echo=["x t0ken-s3cret"])
    log.info("t0ken-s3cret", **{"t0ken-s3cret": {"a": {"b": "t0ken-s3cret"}}})
    logging.getLogger("httpx").warning("GET %s", "https://u:passw0rd@a/?key=t0ken-s3cret")
    try:
        raise ZeroDivisionError("t0ken-s3cret")
    except ZeroDivisionError:
        log.exception("bug", request={"x": "T0KEN-S3CRET"})
    text = "\n".join(lines())

    assert "s3cret" not in text.lower()
    assert "passw0rd" not in text
    assert text.count("***") >= 8


def test_a_terminal_line_with_a_peers_text_is_one_line(written):
    """A peer's text must not look like a line of hedgehogd."""
    lines = written("info", "human")
    structlog.get_logger("x").info("dropped", what="evil\n2026 [info] drained\x1b[2J\u202e")

    assert len(lines()) == 1
    assert "\x1b[2J" not in lines()[0]
