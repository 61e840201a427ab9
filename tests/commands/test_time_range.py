"""From when, up to when, and where: what ``export`` and ``replay`` are told alike."""

import argparse

import pytest

from hedgehogd.commands.time_range import STATE_DIRECTORY, add_stretch, directory_of, joined
from hedgehogd.domain.errors import OperatorError

NOW = 1_769_860_800_000_000  # 2026-01-31T12:00:00Z, µs since the epoch


def asked(*argv, **since):
    parser = argparse.ArgumentParser()
    add_stretch(parser, NOW, **since)
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
    assert asked("--since", text, "--until", text) == (us, us)
    assert asked(f"--since={text}", f"--until={text}") == (us, us)


def test_a_stretch_goes_up_to_now():
    """Where it begins is the command's to say."""
    assert asked(default=0) == (0, NOW)
    with pytest.raises(SystemExit):
        asked(required=True)


@pytest.mark.parametrize("text", ["yesterday", "7", ""])
def test_what_is_no_moment_is_told(text, capsys):
    """A sequence is one of one product, and of one channel."""
    with pytest.raises(SystemExit):
        asked("--until", text, default=0)

    assert f"found '{text}', expected a time like 2026-01-31T12:00:00Z" in capsys.readouterr().err


def test_only_the_two_flags_take_ages():
    """Another flag behind them would be swallowed."""
    assert joined(["--since", "-5m", "-x", "--until", "now", "-"]) == [
        "--since=-5m", "-x", "--until", "now", "-",
    ]  # fmt: skip


def test_history_is_looked_for_where_a_daemon_keeps_it(clean, tmp_path, monkeypatch):
    """As set; else as systemd says; else where the unit's is, since nobody runs us here."""
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
def test_none_is_an_error_that_says_what_is_expected(clean, monkeypatch, setting, flag, status):
    """Whose fault it is follows from where that was said."""
    monkeypatch.setenv("HEDGEHOGD_HISTORY_WHERE", setting)
    with pytest.raises(OperatorError, match="no history is kept here\n  Expected --history") as it:
        directory_of(flag, None)

    assert it.value.exit_status == status
