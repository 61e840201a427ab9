"""``hedgehogd export``: its flags, its output and its errors."""

import time

import pytest

from hedgehogd.cli import run
from hedgehogd.domain.channel import MATCHES, Topic
from tests.fakes import make_message
from tests.log import past as archive

TOPIC = MATCHES.topic("BTC-USD")


def trades(times):
    payloads = [make_message("matches", sequence=n, trade_id=n).payload for n in range(len(times))]
    return [archive.recorded(TOPIC, at, text) for at, text in zip(times, payloads, strict=True)]


@pytest.fixture
def kept(tmp_path):
    now = time.time_ns() // 1000
    times = [now - age_s * 1_000_000 for age_s in (600, 400, 200, 10)]
    return archive.write(tmp_path, trades(times))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "4 messages"),
        (["--since", "-5m"], "2 messages"),
        (["--since=-1h", "--until", "-5m"], "2 messages"),
        (["--since", "2020-01-31T12:00:00Z", "--channel", "matches"], "4 messages"),
    ],
)
def test_ages_and_times_limit_the_range(kept, options, expected, capsys):
    """An age begins with a dash, and still is not a flag."""
    file = kept / "out.csv"
    status = run(["export", "--history", str(kept), "--pair", "btc-usd", *options, str(file)])

    assert (status, capsys.readouterr().err) == (0, f"{expected} in {file}\n")
    assert file.read_text().startswith("received,")


@pytest.mark.parametrize(
    ("name", "options", "begins"),
    [
        ("out.csv", [], "received,"),
        ("OUT.CSV", [], "received,"),
        ("out.ndjson", [], '{"type'),
        ("out.jsonl", [], '{"type'),
        ("out", [], '{"type'),
        ("out.txt", ["--format", "csv"], "received,"),
    ],
)
def test_the_suffix_of_a_file_chooses_its_format(kept, name, options, begins):
    """A file without a suffix, and standard output, have one message a line."""
    file = kept / name
    run(["export", "--history", str(kept), "--pair", "BTC-USD", *options, str(file)])

    assert file.read_text().startswith(begins)


@pytest.mark.parametrize("name", ["x.parquet", "x.csv.gz", "x.json", "x.txt", "x.cvs"])
def test_a_file_with_another_suffix_is_not_written(kept, name, run_command):
    """The programs for that suffix could not read it."""
    file = kept / name
    found, _, err = run_command("export", "--history", str(kept), "--pair", "BTC-USD", str(file))

    assert found == 64
    assert f"{file}: the suffix {file.suffix} is not known" in err
    assert ("Did you mean '.csv'?" in err) == (name == "x.cvs")
    assert "Expected .csv, .ndjson, .jsonl, or --format." in err
    assert not file.exists()


def test_standard_output_has_the_messages_and_nothing_else(kept, capfd):
    """Remarks go to stderr, and a pipe to standard output gets none."""
    assert run(["export", "--history", str(kept), "--pair", "BTC-USD", "-"]) == 0
    out, err = capfd.readouterr()

    assert (len(out.splitlines()), err) == (4, "")


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (
            ["--pair", "BTC-USD", "--since", "yesterday"],
            64,
            "--since: found 'yesterday', expected a",
        ),
        (["--pair", "BTC-USD", "--until", "7"], 64, "--until: found '7', expected a time like"),
        (["--pair", "BTC-USD", "--channel", "match"], 64, "Did you mean 'matches'?"),
        (["--pair", "BTC"], 64, "'BTC' is not a pair like BTC-USD"),
        (["--pair", "BTC-USD", "--history", "/nonexistent"], 78, "there is no archive"),
        (["--pair", "BTC-USD", "--config", "/nonexistent"], 78, "No such file"),
        ([], 64, "--pair"),
    ],
)
def test_a_wrong_argument_is_an_error(options, status, says, run_command):
    """Before a byte is written."""
    found, out, err = run_command("export", *options, "-")

    assert (found, out) == (status, "")
    assert says in err


def test_without_times_a_file_has_messages_dated_by_a_fast_clock(tmp_path, capsys):
    """An export ends at the newest message, not at the wall clock, which may be slow."""
    year_2100_us = 4_102_444_800_000_000
    archive.write(tmp_path, trades(range(year_2100_us, year_2100_us + 3)))
    file = tmp_path / "out.csv"
    status = run(["export", "--history", str(tmp_path), "--pair", "BTC-USD", str(file)])

    assert (status, capsys.readouterr().err) == (0, f"3 messages in {file}\n")


@pytest.mark.parametrize(("options", "status"), [([], 0), (["--strict"], 1)])
def test_gaps_that_remain_are_reported(tmp_path, options, status, capsys):
    """A script fails on an incomplete file with ``--strict``; the file is written anyway."""
    archive.write(tmp_path, archive.usual())
    file = tmp_path / "out.csv"
    found = run(["export", "--history", str(tmp_path), "--pair", "BTC-USD", *options, str(file)])

    assert found == status
    assert capsys.readouterr().err == (
        f"19 messages in {file}\n1 gap remains:\n"
        "  missing: trade id 9, noted 2026-09-21T14:13:29.999999Z\n"
    )


def test_strict_export_without_gaps_exits_0(tmp_path, capsys):
    archive.write(tmp_path, [archive.match(1)])
    arguments = ["export", "--history", str(tmp_path), "--pair", "BTC-USD", "--strict"]

    assert run([*arguments, str(tmp_path / "out")]) == 0


def test_many_gaps_are_counted_and_the_first_ones_named(tmp_path, capsys):
    """A day without a feed has thousands."""
    topic = Topic("ticker", "BTC-USD")
    records = [archive.match(1, topic=topic)]
    records.append(archive.gap(None, None, 150, archive.NOW, topic=topic))
    records.append(archive.gap(2, 3, 200, archive.NOW, topic=topic))
    records += [archive.gap(n, n, 100 * n, archive.NOW, topic=topic) for n in range(4, 26)]
    records.append(archive.match(26, topic=topic))
    archive.write(tmp_path, records, each=9)
    arguments = ["--pair", "BTC-USD", "--channel", "ticker", str(tmp_path / "out")]
    run(["export", "--history", str(tmp_path), *arguments])
    rows = capsys.readouterr().err.splitlines()

    assert rows[1] == "24 gaps remain:"
    assert rows[2].startswith("  missing: unknown numbers, noted 2026-")
    assert rows[3].startswith("  missing: sequences 2 to 3, noted 2026-")
    assert rows[4].startswith("  missing: sequence 4, noted 2026-")
    assert (len(rows), rows[-1]) == (23, "  and 4 more")
