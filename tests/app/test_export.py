"""A stretch of history in a file: all of it, or the old file stays."""

import csv
import io
import sys

import pytest

from hedgehogd.app.export import Export, export
from hedgehogd.domain import limits
from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.errors import OperatorError
from hedgehogd.domain.instant import to_text
from hedgehogd.history.writer import Entry, Writer
from tests.fakes import make_message

NOW = 1_790_000_000_000_000
S = 1_000_000
TOPIC = MATCHES.topic("BTC-USD")
PAYLOADS = [make_message("matches", sequence=n, trade_id=n).payload for n in range(50)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A directory with fifty trades, one a second, in several blocks."""
    monkeypatch.setattr(limits, "BLOCK_BYTES", 700)
    writer = Writer(tmp_path, {})
    for n, payload in enumerate(PAYLOADS):
        writer.write([Entry(TOPIC, NOW + n * S, payload, n, n)], NOW + n * S)
    writer.close()
    return tmp_path


def lines(path):
    return path.read_bytes().splitlines()


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (0, 10**18, PAYLOADS),
        (NOW + 5 * S, 10**18, PAYLOADS[5:]),
        (0, NOW + 5 * S, PAYLOADS[:5]),
        (NOW + 5 * S, NOW + 6 * S, PAYLOADS[5:6]),
        (NOW + 5 * S + 1, NOW + 6 * S, []),
    ],
)
def test_the_file_is_the_messages_of_the_stretch(kept, since, until, expected):
    """Byte for byte, from its start to before its end."""
    file = kept / "out.ndjson"
    count = export(Export(kept, TOPIC, since, until, "ndjson", str(file)), io.StringIO())

    assert (count, lines(file)) == (len(expected), expected)
    assert not list(kept.glob("*.part"))


def test_as_csv_there_is_a_row_for_each(kept):
    """With the time at which it was received."""
    file = kept / "out.csv"
    export(Export(kept, TOPIC, 0, 10**18, "csv", str(file)), io.StringIO())
    found = list(csv.DictReader(io.StringIO(file.read_text(), newline="")))

    assert [row["trade_id"] for row in found] == [str(n) for n in range(50)]
    assert found[1]["received"] == to_text(NOW + S)


def test_a_terminal_sees_how_far_it_is(kept):
    """A week takes a while; a file that is written to by a timer wants no such lines."""
    terminal, pipe = Terminal(), io.StringIO()
    for progress in (terminal, pipe):
        export(Export(kept, TOPIC, 0, 10**18, "csv", str(kept / "out")), progress)
    shown = terminal.getvalue().split("\r")

    assert len(shown) > 3
    assert shown[-1] == "matches:BTC-USD  100%  50 messages\n"
    assert pipe.getvalue() == ""


def test_a_dash_is_standard_output(kept, capfdbinary):
    """For a pipe into something else."""
    export(Export(kept, TOPIC, 0, 10**18, "ndjson", "-"), io.StringIO())
    sys.stdout.flush()

    assert capfdbinary.readouterr().out.splitlines() == PAYLOADS


def test_who_has_read_enough_is_no_error(kept, monkeypatch):
    """``| head`` hangs up."""

    class Closed(io.RawIOBase):
        def write(self, data):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", type("Out", (), {"buffer": Closed()})())

    assert export(Export(kept, TOPIC, 0, 10**18, "ndjson", "-"), io.StringIO()) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"topic": Topic("ticker", "BTC-USD")}, "Kept is matches:BTC-USD."),
        ({"since_us": NOW + 60 * S}, f"Kept is {to_text(NOW)} to {to_text(NOW + 49 * S)}."),
        ({"until_us": NOW}, "of matches:BTC-USD nothing is kept then"),
        ({"file": "/nonexistent/out"}, "/nonexistent/out: No such file or directory"),
    ],
)
def test_what_cannot_be_is_said(kept, change, says):
    """The error names the recorded topics or times."""
    what = Export(kept, TOPIC, 0, 10**18, "csv", str(kept / "out"))._replace(**change)
    with pytest.raises(OperatorError, match="(?s)" + says.replace(".", r"\.")):
        export(what, io.StringIO())


def test_where_nothing_is_kept_nothing_is_written(tmp_path):
    """The old file stays."""
    file = tmp_path / "out"
    file.write_text("old")
    with pytest.raises(OperatorError, match="unable to open"):
        export(Export(tmp_path, TOPIC, 0, 10**18, "csv", str(file)), io.StringIO())
    Writer(tmp_path, {}).close()
    with pytest.raises(OperatorError, match=r"Kept is nothing\."):
        export(Export(tmp_path, TOPIC, 0, 10**18, "csv", str(file)), io.StringIO())

    assert file.read_text() == "old"
