"""The time range and the directory of history, for ``export`` and ``replay``."""

import argparse

import pytest

from hedgehogd.commands.time_range import STATE_DIRECTORY, add_time_range, directory_of, joined
from hedgehogd.domain.errors import OperatorError
from hedgehogd.domain.instant import NEVER_US

NOW = 1_769_860_800_000_000  # 2026-01-31T12:00:00Z, µs since the epoch


def parse(*argv, **since):
    parser = argparse.ArgumentParser()
    add_time_range(parser, NOW, **since)
    arguments = parser.parse_args(joined(argv))
    return arguments.since, arguments.until


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("2026-01-31T11:00:00Z", NOW - 3_600_000_000),
        ("2026-01-31T13:00:00.5+01:00", NOW + 500_000),
        ("-5m", NOW - 300_000_000),
        ("-20ms", NOW - 20_000),
    ],
)
def test_a_moment_is_a_time_or_an_age(text, us):
    """Ages count back from the start of the command; they look like flags, and are none."""
    assert parse("--since", text, "--until", text) == (us, us)
    assert parse(f"--since={text}", f"--until={text}") == (us, us)


def test_a_range_ends_at_the_newest_record_by_default():
    """Each command sets the default of its start."""
    assert parse(default=0) == (0, NEVER_US)
    with pytest.raises(SystemExit):
        parse(required=True)


@pytest.mark.parametrize("text", ["yesterday", "7", ""])
def test_an_invalid_time_is_an_error(text, capsys):
    """A sequence is not accepted: it belongs to one product and one channel."""
    with pytest.raises(SystemExit):
        parse("--until", text, default=0)

    assert f"found '{text}', expected a time like 2026-01-31T12:00:00Z" in capsys.readouterr().err


def test_only_the_two_flags_take_ages():
    """Another flag after them would be read as an age."""
    assert joined(["--since", "-5m", "-x", "--until", "now", "-"]) == [
        "--since=-5m", "-x", "--until", "now", "-",
    ]  # fmt: skip


def test_the_directory_is_that_of_a_daemon_here(clean, tmp_path, monkeypatch):
    """As set; else as systemd sets it; else the unit's, since systemd does not run the command."""
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert directory_of(None, None) == STATE_DIRECTORY
    monkeypatch.setenv("STATE_DIRECTORY", "/mnt/state")
    assert str(directory_of(None, None)) == "/mnt/state"
    file = tmp_path / "hedgehogd.toml"
    file.write_text('[history]\nwhere = "/mnt/file"\n')
    assert str(directory_of(None, file)) == "/mnt/file"
    monkeypatch.setenv("HEDGEHOGD_HISTORY_WHERE", "/mnt/set")
    assert str(directory_of(None, file)) == "/mnt/set"
    assert str(directory_of("/mnt/flag", file)) == "/mnt/flag"


@pytest.mark.parametrize(("setting", "flag", "status"), [("none", None, 78), ("/a", "none", 64)])
def test_none_is_an_error_with_the_expected_flag(clean, monkeypatch, setting, flag, status):
    """The status depends on the origin of the value."""
    monkeypatch.setenv("HEDGEHOGD_HISTORY_WHERE", setting)
    with pytest.raises(OperatorError, match="no history is kept here\n  Expected --history") as it:
        directory_of(flag, None)

    assert it.value.exit_status == status
