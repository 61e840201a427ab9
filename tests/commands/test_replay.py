"""The flags of ``replay`` and their defaults; ``test_time_range`` has those it shares."""

import time

import pytest
import trio

from hedgehogd.app import replay_server
from hedgehogd.app.replay_server import Replay, Stretch
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.instant import NEVER_US
from tests.fakes import make_message
from tests.log import past as archive

pytestmark = pytest.mark.usefixtures("clean")

NOW = 1_769_860_800_000_000  # 2026-01-31T12:00:00Z, µs since the epoch


@pytest.fixture
def run_replay(run_command, monkeypatch):
    """Run the command without serving anything; return its status, stderr and ``Replay``."""
    seen = []

    async def replay(wish):
        await trio.lowlevel.checkpoint()
        seen.append(wish)

    monkeypatch.setattr(replay_server, "replay", replay)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)

    def run_replay(*argv):
        status, _, err = run_command("replay", "--port", "0", *argv)
        return status, err, seen.pop() if seen else None

    return run_replay


@pytest.mark.parametrize(
    "argv", [["--since", "-2d", "--until", "-1d"], ["--until=-1d", "--since=-2d"]]
)
def test_an_age_needs_no_equals_sign(run_replay, tmp_path, argv):
    """``-2d`` looks like a flag, and is none."""
    before_us = time.time_ns() // 1000
    status, _, wish = run_replay(*argv, "--history", str(tmp_path))

    day_us = 86_400_000_000
    assert status == 0
    assert wish.until_us - wish.since_us == day_us
    assert before_us - day_us <= wish.until_us <= time.time_ns() // 1000 - day_us


def test_other_flags_have_defaults(run_replay, tmp_path):
    """Up to the newest record, all recorded topics, at the recorded speed."""
    before_us = time.time_ns() // 1000
    status, _, wish = run_replay("--since", "-1h", "--history", str(tmp_path))

    assert status == 0
    assert wish.until_us == NEVER_US
    assert before_us <= wish.since_us + 3_600_000_000 <= time.time_ns() // 1000
    assert (wish.pairs, wish.channels, wish.speed) == ((), (), 1.0)
    assert (wish.host, wish.port, wish.directory) == ("127.0.0.1", 0, tmp_path)


def test_a_directory_without_a_history_is_78(run_command, tmp_path, monkeypatch):
    """The error names it, and no file is created there."""
    argv = ("--port", "0", "--since", "-1h", "--history", str(tmp_path))
    status, out, err = run_command("replay", *argv)

    assert (status, out) == (78, "")
    assert f"the history in {tmp_path} cannot be read: " in err
    assert list(tmp_path.iterdir()) == []


def test_without_until_a_replay_has_messages_dated_by_a_fast_clock(run_replay, tmp_path):
    """A replay ends at the newest message, not at the wall clock, which may be slow."""
    topic, year_2100_us = Topic("matches", "BTC-USD"), 4_102_444_800_000_000
    payloads = [make_message("matches", sequence=n, trade_id=n).payload for n in range(3)]
    trades = [archive.recorded(topic, year_2100_us + n, each) for n, each in enumerate(payloads)]
    archive.write(tmp_path, trades)
    _, _, wish = run_replay("--since", "2026-01-31T12:00:00Z", "--history", str(tmp_path))
    stretch = Stretch(wish)
    with stretch.opened() as timeline:
        found = [due.message.trade_id for due in timeline]
    stretch.close()

    assert found == [0, 1, 2]


def test_replay_passes_its_flags_on(run_command, monkeypatch, tmp_path):
    """With the directory of history from the configuration."""
    seen = []

    async def replay(wish):
        await trio.lowlevel.checkpoint()
        seen.append(wish)

    monkeypatch.setattr(replay_server, "replay", replay)
    argv = ["--since", "2026-01-31T12:00:00Z", "--until", "2026-01-31T13:00:00Z", "--port", "9"]
    argv += ["--speed", "10", "--pairs", "a-b,c-d", "--channels", "ticker", "--bind", "::1"]

    assert run_command("replay", *argv, "--history", str(tmp_path)) == (0, "", "")
    noon = 1_769_860_800_000_000
    assert seen == [
        Replay(tmp_path, noon, noon + 3_600_000_000, ("A-B", "C-D"), ("ticker",), 10.0, "::1", 9)
    ]
