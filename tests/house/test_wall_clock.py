"""The places of the package that read the wall clock, each with the reason.

The wall clock may step at any time, by any amount, in both directions: durations, ages and
deadlines are read from the clock of the loop (``trio.current_time``) or from a monotonic one. A
function that needs a time of day is listed here; a function that is not listed fails the test.
"""

import ast

import pytest

from tests.house.test_layers import MODULES, name_of, tree_of

# Attributes of a module or class that read the wall clock, and names of parameters and attributes
# by which the daemon's wall clock is passed on.
SOURCES = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime"}
    | {"clock_gettime", "clock_gettime_ns"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "structlog": {"TimeStamper"},
    "processors": {"TimeStamper"},
}
PASSED_ON = {"wall_us", "_wall_us"}

READERS = {
    "app/daemon.py wall_us": "the one clock of an instance; its pipe passes it on",
    "app/replay_server.py replay": "``/time`` answers with the present",
    "commands/export.py run": "ages such as -5m count from now",
    "commands/replay.py run": "ages such as -5m count from now",
    "fanout/broker.py Broker._publish": "the time of publication: the place on the tape",
    "feeds/dialer.py Dialer.sign": "the exchange checks the time of a signature",
    "feeds/recording.py RecordingFeed._send": "the receive time of recorded messages",
    "feeds/tap.py FrameTap._receive_frames": "the receive time of the messages of one read",
    "feeds/tap.py FrameTap._receive_head": "the receive time of the messages after the handshake",
    "log/appender.py Appender.begin": "the receive time of a record",
    "log/appender.py Appender._batches": "the receive time of a record",
    "log/appender.py Appender._lose": "the receive time of a record",
    "log/appender.py Appender._note_feed_state": "the receive time of a record",
    "log/appender.py Appender._snapshot": "the receive time of a record",
    "log/archiver.py Archiver._append_gap": "the receive time of a record",
    "log/archiver.py Archiver._retain": "retention is an age of stored records; a step suspends it",
    "log/window.py Window.append": "a record's id begins with the time and rises after a step back",
    "logs/setup.py configure_logs": "each log line has a time",
    "recovery/catch_up.py CatchUp.__init__": "places of the store are receive times",
    "recovery/catch_up.py CatchUp._read_past": "places of the store are receive times",
    "recovery/catch_up.py CatchUp.join": "a new topic begins at the present place",
    "recovery/peer_recovery.py Asks.due": "the flow of the feed has a receive time",
    "recovery/peer_recovery.py Neighbours._wait": "peers are asked some time after a receive time",
    "recovery/replay.py Replay._go_live": "compared with receive times, which are wall-clock",
    "recovery/replay.py Replay._is_stored": "the end of a stretch is a receive time",
    "recovery/replay.py Replay._is_present": "the present is a place of the store",
    "simulator/__init__.py _replay_server": "``/time`` answers with the present",
    "simulator/__init__.py serve_exchange": "the simulated market begins at the present",
    "streaming/door.py Door._read_request": "ages such as since=-5m count from now",
    "web/exchange.py add_exchange.the_time": "``/time`` answers with the present",
    "web/health.py _health_of": "the age of the newest stored message",
    "web/history.py add_history.history": "ages such as start=-5m count from now",
    "web/metrics.py InstanceCollector._history": "the age of the newest stored message",
    "web/own_books.py OwnBooks.rest_book": "a book of the exchange states its time",
}
"""``MODULE FUNCTION``, and the reason why the function needs the time of day."""


class _Finder(ast.NodeVisitor):
    """Collects the functions that read the wall clock, by qualified name."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self._names: list[str] = []
        self._imported: dict[str, str] = {}  # local name to the last part of the imported name

    def _inside(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._names.append(node.name)
        self.generic_visit(node)
        self._names.pop()

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _inside  # noqa: N815

    def _note(self) -> None:
        self.found.add(".".join(self._names) or "module")

    def visit_Import(self, node: ast.Import) -> None:
        """Record the local names of modules."""
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            self._imported[name] = alias.name.rpartition(".")[2]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Record local names of classes; an imported clock is a reader of its own."""
        for alias in node.names:
            if alias.name in SOURCES.get((node.module or "").rpartition(".")[2], ()):
                self._note()
            self._imported[alias.asname or alias.name] = alias.name

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Find ``time.time`` and the like, called or passed on."""
        owner = node.value
        name = self._imported.get(getattr(owner, "id", ""), "") or getattr(owner, "attr", "")
        if node.attr in SOURCES.get(name, ()):
            self._note()
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Find calls of a wall clock that was passed on."""
        called = getattr(node.func, "id", "") or getattr(node.func, "attr", "")
        if called in PASSED_ON:
            self._note()
        self.generic_visit(node)


def readers_of(tree: ast.Module) -> set[str]:
    """Return the qualified names of the functions in ``tree`` that read the wall clock."""
    finder = _Finder()
    finder.visit(tree)
    return finder.found


def test_every_reader_of_the_wall_clock_is_listed_with_its_reason() -> None:
    """A duration or an age by the wall clock is wrong after a step; list only times of day."""
    found = {f"{name_of(path)} {name}" for path in MODULES for name in readers_of(tree_of(path))}

    assert found == READERS.keys()
    assert all(READERS.values())


@pytest.mark.parametrize(
    "source",
    [
        "import time\ndef reader(): return time.time()",
        "import time as t\ndef reader(): return t.time_ns()",
        "import time\ndef reader(clock=time.time): return clock()",
        "def reader():\n    from time import time_ns\n    return time_ns()",
        "from datetime import datetime\ndef reader(): return datetime.now(UTC)",
        "import datetime\ndef reader(): return datetime.datetime.now(UTC)",
        "import datetime as dt\ndef reader(): return dt.date.today()",
        "import time\ndef reader(): return time.clock_gettime(time.CLOCK_REALTIME)",
        "def reader(pipe): return pipe.wall_us()",
        "class reader:\n    value = [clock._wall_us() for clock in clocks]",
        "import structlog\nasync def reader(): return structlog.processors.TimeStamper()",
    ],
)
def test_the_check_finds_a_reader(source: str) -> None:
    """Each spelling of a wall clock, called or passed on."""
    assert readers_of(ast.parse(source)) == {"reader"}


@pytest.mark.parametrize(
    "source",
    [
        "import trio\ndef other(): return trio.current_time()",
        "import time\ndef other(): return time.monotonic() + time.perf_counter()",
        "def other(time): return time.strftime('%H')",
        "def other(pipe): return Pipe(wall_us=pipe.wall_us)",
    ],
)
def test_the_check_permits_a_steady_clock(source: str) -> None:
    """A steady clock, a local variable of such a name, and a clock that is only passed on."""
    assert readers_of(ast.parse(source)) == set()
