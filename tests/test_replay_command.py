"""The words of ``replay``: times, ages, defaults, and where history is looked for."""

import time

import pytest
import trio

from hedgehogd import replay_command
from hedgehogd.replay_command import replay_parser

pytestmark = pytest.mark.usefixtures("clean")

NOW = 1_769_860_800_000_000  # 2026-01-31T12:00:00Z, µs since the epoch


@pytest.fixture
def asked(said, monkeypatch):
    """Run the command without serving anything; return its status, stderr and what was asked."""
    seen = []

    async def replay(wish):
        await trio.lowlevel.checkpoint()
        seen.append(wish)

    monkeypatch.setattr(replay_command, "replay", replay)
    monkeypatch.setattr(replay_command, "configure_logs", lambda *arguments: None)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)

    def asked(*argv):
        status, _, err = said("replay", "--port", "0", *argv)
        return status, err, seen.pop() if seen else None

    return asked


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
    """Ages count back from the start of the command."""
    arguments = replay_parser(NOW).parse_args([f"--since={text}", f"--until={text}", "--port", "1"])

    assert (arguments.since, arguments.until) == (us, us)


@pytest.mark.parametrize(
    "argv", [["--since", "-2d", "--until", "-1d"], ["--until=-1d", "--since=-2d"]]
)
def test_an_age_needs_no_equals_sign(asked, tmp_path, argv):
    """``-2d`` looks like a flag, and is none."""
    before_us = time.time_ns() // 1000
    status, _, wish = asked(*argv, "--history", str(tmp_path))

    day_us = 86_400_000_000
    assert status == 0
    assert wish.until_us - wish.since_us == day_us
    assert before_us - day_us <= wish.until_us <= time.time_ns() // 1000 - day_us


def test_all_else_has_a_default(asked, tmp_path):
    """Up to now, all that is kept, at the pace it had."""
    status, _, wish = asked("--since", "-1h", "--history", str(tmp_path))

    assert status == 0
    assert wish.until_us - wish.since_us == 3_600_000_000
    assert (wish.pairs, wish.channels, wish.speed) == ((), (), 1.0)
    assert (wish.host, wish.port, wish.directory) == ("127.0.0.1", 0, tmp_path)


def test_history_is_looked_for_where_serve_keeps_it(asked, monkeypatch, tmp_path):
    """The flag, then what is set, then what systemd says."""
    monkeypatch.setenv("STATE_DIRECTORY", "/state")
    assert str(asked("--since", "-1h")[2].directory) == "/state"
    monkeypatch.setenv("HEDGEHOGD_HISTORY_WHERE", "/set")
    assert str(asked("--since", "-1h")[2].directory) == "/set"
    assert asked("--since", "-1h", "--history", str(tmp_path))[2].directory == tmp_path


@pytest.mark.parametrize(("setting", "flag", "expected"), [
    (None, [], 78), ("none", [], 78), (None, ["--history", "none"], 64),
])  # fmt: skip
def test_no_history_is_an_error_that_says_what_is_expected(
    asked, monkeypatch, setting, flag, expected
):
    """Whose fault it is follows from where that was said."""
    if setting is not None:
        monkeypatch.setenv("HEDGEHOGD_HISTORY_WHERE", setting)
    status, err, wish = asked("--since", "-1h", *flag)

    assert (status, wish) == (expected, None)
    assert err.startswith("hedgehogd: no history is kept here\n  Expected --history DIR, ")


def test_a_directory_without_a_history_is_78(said, tmp_path, monkeypatch):
    """And is named; nothing is made there."""
    monkeypatch.setattr(replay_command, "configure_logs", lambda *arguments: None)
    argv = ("--port", "0", "--since", "-1h", "--history", str(tmp_path))
    status, out, err = said("replay", *argv)

    assert (status, out) == (78, "")
    assert f"the history in {tmp_path} cannot be read: " in err
    assert list(tmp_path.iterdir()) == []
