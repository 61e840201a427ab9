"""A stretch of history in a file: all of it, or the old file stays."""

import csv
import io
import json
import sys
from contextlib import closing

import pytest

from hedgehogd.app.export import Export, Exported, export
from hedgehogd.domain import limits
from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.errors import OperatorError
from hedgehogd.domain.instant import NEVER_US, to_text
from hedgehogd.domain.record import GapKind
from tests.fakes import make_message
from tests.log import past as archive

NOW = 1_790_000_000_000_000
S = 1_000_000
TOPIC = MATCHES.topic("BTC-USD")
PAYLOADS = [make_message("matches", sequence=n, trade_id=n).payload for n in range(50)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A directory with an archive of fifty trades, one a second, in several pages and segments."""
    monkeypatch.setattr(limits, "ARCHIVE_PAGE_RECORDS_MAX", 7)
    trades = [archive.recorded(TOPIC, NOW + n * S, each) for n, each in enumerate(PAYLOADS)]
    return archive.write(tmp_path, trades)


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
    found = export(Export(kept, TOPIC, since, until, "ndjson", str(file)), io.StringIO())

    assert (found, lines(file)) == (Exported(len(expected), []), expected)
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

    assert export(Export(kept, TOPIC, 0, 10**18, "ndjson", "-"), io.StringIO()) == (0, [])


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
    with pytest.raises(OperatorError, match="there is no archive"):
        export(Export(tmp_path, TOPIC, 0, 10**18, "csv", str(file)), io.StringIO())
    archive.write(tmp_path, [])
    with pytest.raises(OperatorError, match=r"Kept is nothing\."):
        export(Export(tmp_path, TOPIC, 0, 10**18, "csv", str(file)), io.StringIO())

    assert file.read_text() == "old"


# Gaps, and backfilled trades


@pytest.fixture
def archived(tmp_path):
    """A directory with an archive of trades 1 to 20 without 9; 8 was backfilled."""
    return archive.write(tmp_path / "archive", archive.usual())


@pytest.mark.parametrize(
    ("since", "until", "expected", "gaps"),
    [
        (0, NEVER_US, [*range(1, 9), *range(10, 21)], [(9, 9)]),
        (NOW + 5 * S, NEVER_US, [5, 6, 7, 8, *range(10, 21)], [(9, 9)]),
        (NOW + 10 * S, NOW + 12 * S, [10, 11], []),
        (NOW + 10 * S - 1, NOW + 10 * S, [8], [(9, 9)]),
        (NOW + 5 * S + 1, NOW + 6 * S, [], []),
    ],
)
def test_an_archive_has_backfilled_trades_and_the_gaps_that_remain(
    archived, since, until, expected, gaps
):
    """An export is complete, or its gaps are reported."""
    file = archived.parent / "out.ndjson"
    found = export(Export(archived, TOPIC, since, until, "ndjson", str(file)), io.StringIO())

    assert [json.loads(line)["trade_id"] for line in lines(file)] == expected
    assert found.messages == len(expected)
    assert [(gap.first, gap.last) for gap in found.gaps] == gaps


def test_an_archive_is_exported_beside_its_writer(tmp_path):
    """Up to its newest record, also if that is dated by a clock that was ahead."""
    year_2100_us = 4_102_444_800_000_000
    with closing(archive.Writer(tmp_path / "archive", archive.DEPLOYMENT)) as writer:
        writer.append([archive.match(1, received_us=year_2100_us), archive.match(2)])
        writer.sync()
        file = tmp_path / "out.csv"
        wish = Export(tmp_path / "archive", TOPIC, 0, NEVER_US, "csv", str(file))
        assert export(wish, io.StringIO()).messages == 2
        early = wish._replace(since_us=NOW, until_us=NOW + 10 * S)
        assert export(early, io.StringIO()).messages == 1
    [row] = csv.DictReader(io.StringIO(file.read_text(), newline=""))
    assert (row["trade_id"], row["received"]) == ("2", to_text(NOW + 2 * S))


@pytest.mark.parametrize("is_first", [True, False])
def test_a_gap_at_either_end_of_an_archive_is_exported_with_its_trades(tmp_path, is_first):
    """Retention has removed the messages before it, or none has come since."""
    filled = archive.gap(5, 7, 500, NOW + 5 * S)
    trades = [archive.backfilled(n, 500, 900 + n) for n in (5, 6)]
    rest = [archive.match(n) for n in (range(10, 13) if is_first else range(1, 4))]
    archive.write(tmp_path, sorted([filled, *trades, *rest], key=lambda record: record.id))
    for since, until in ((0, NEVER_US), (NOW + 4 * S, NOW + 6 * S)):
        file = tmp_path / "out.ndjson"
        found = export(Export(tmp_path, TOPIC, since, until, "ndjson", str(file)), io.StringIO())
        numbers = [json.loads(line)["trade_id"] for line in lines(file)]
        assert [n for n in numbers if n in (5, 6)] == [5, 6]
        assert len(numbers) == (5 if until == NEVER_US else 2)
        assert [(gap.first, gap.last) for gap in found.gaps] == [(7, 7)]


def test_lost_records_are_gaps_of_any_time(tmp_path):
    """The times of damaged records are not known."""
    lost = archive.gap(None, None, 300, NOW + 9 * S, kind=GapKind.UNREADABLE)
    archive.write(tmp_path, [archive.match(1), archive.match(2), lost, archive.match(4)], each=9)
    wish = Export(tmp_path, TOPIC, NOW + 2 * S, NOW + 3 * S, "csv", str(tmp_path / "out"))

    assert [gap.kind for gap in export(wish, io.StringIO()).gaps] == ["unreadable"]


def test_errors_about_an_archive_name_its_directory(archived):
    wish = Export(archived, TOPIC, NOW + 7200 * S, NEVER_US, "csv", str(archived / "out"))
    with pytest.raises(OperatorError, match="of matches:BTC-USD nothing is kept then"):
        export(wish, io.StringIO())
    (archived / "catalogue.sqlite").write_bytes(b"spoiled" * 999)
    with pytest.raises(OperatorError, match=f"the history in {archived}: "):
        export(wish, io.StringIO())
