"""The log of an instance: its directories, the checks of its start, and its recorder."""

import json
import os
import stat
from contextlib import asynccontextmanager

import pytest
import trio
from structlog.testing import capture_logs

from hedgehogd.app.daemon import make_instance, wall_us
from hedgehogd.app.log import check, log_files, names_of, open_log, recording
from hedgehogd.domain import limits
from hedgehogd.domain.channel import MATCHES, TICKER, Topic
from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.domain.message import Message
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.health import HistoryState
from hedgehogd.log.agreement import FILE
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.migration.old_store import FILE_NAME
from hedgehogd.settings.keys import Settings
from tests.fakes import make_message

BTC = ("BTC-USD",)


def settings_of(directory, **more):
    return Settings(
        feed_pairs=BTC,
        feed_channels=("matches", "ticker"),
        history_where=str(directory),
        **more,
    )


@asynccontextmanager
async def running(settings):
    """Run the recorder of a new instance; yield the instance."""
    async with open_log(settings) as its_log:
        instance = make_instance(settings, None if its_log is None else its_log.past)
        async with recording(its_log, instance, wall_us):
            yield instance


async def record(settings, number=1):
    """Record one trade; return the instance, and the access to its recorded messages."""
    async with running(settings) as instance:
        past = instance.pipe.resumes.past
        if past is None:
            return instance, None
        trade = make_message("matches", sequence=10 * number, trade_id=number)
        await instance.broker.publish([Delivery([trade])])
        await wait_state(instance, HistoryState.WRITING)
    return instance, past


async def wait_state(instance, state):
    with trio.fail_after(20):
        while instance.history.state is not state:
            await trio.sleep(0.01)


def test_the_window_is_in_the_runtime_directory(tmp_path):
    """Systemd has it in memory; without one the window is beside the archive."""
    without = log_files(settings_of(tmp_path), tmp_path, "")
    files = log_files(
        settings_of(
            tmp_path, history_demanded=True, log_window_s=60.0, log_window_bytes_max=2**26,
            log_lease_s=3.0, history_age_max_s=90.0, history_bytes_max=2**30,
        ),
        tmp_path,
        str(tmp_path / "run"),
    )  # fmt: skip
    topics = {MATCHES.topic("BTC-USD"), TICKER.topic("BTC-USD")}

    assert (tmp_path / "window", tmp_path, topics, False) == (
        without.window, without.archive, without.kept.topics, without.kept.demanded
    )  # fmt: skip
    assert tmp_path / "run" / "log" == files.window
    assert (topics, True, 90.0, 2**30) == files.kept
    assert (60.0, 2**26) == files.bounds[:2]
    assert 3.0 == files.lease_s
    assert files.names == {
        "feed.pairs": "BTC-USD", "feed.channels": "matches,ticker", "history.demanded": "true"
    }  # fmt: skip


async def test_all_messages_are_recorded_at_the_end(tmp_path):
    """The last append of the recorder comes after the last message of the broker."""
    settings = settings_of(tmp_path / "a" / "b")
    for number in (1, 2):
        instance, _ = await record(settings, number)
        assert 1 == instance.history.kept
    reader = Reader(tmp_path / "a" / "b")
    found = reader.read(0, frozenset({Topic("matches", "BTC-USD")})).records
    reader.close()

    assert [1, 2] == [each.trade_id for each in found if isinstance(each, Message)]
    named = json.loads((tmp_path / "a" / "b" / "window" / FILE).read_text())
    assert names_of(settings).items() <= named.items()


@pytest.mark.parametrize(
    "settings",
    [Settings(history_where="somewhere"), Settings(feed_pairs=BTC, history_where="none")],
)
async def test_without_pairs_or_a_directory_nothing_is_recorded(settings, tmp_path, monkeypatch):
    """An empty archive would look as if messages were recorded."""
    monkeypatch.chdir(tmp_path)

    instance, past = await record(settings)

    assert past is None
    assert instance.history.state is HistoryState.OFF
    assert list(tmp_path.iterdir()) == []


async def test_demanded_topics_are_recorded_without_pairs(tmp_path):
    """An instance without pairs of its own records the topics that its subscribers demand."""
    settings = Settings(history_where=str(tmp_path), history_demanded=True)

    instance, past = await record(settings)

    assert past.keeps(Topic("ticker", "ETH-USD"))
    assert 1 == instance.history.kept


async def test_the_demo_keeps_a_temporary_one(tmp_path, monkeypatch):
    """In a demo resume works, and the temporary log is removed at the end."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    runtime = tmp_path / "run"

    instance, past = await record(
        Settings(feed_pairs=BTC, feed_where="demo", serve_runtime_dir=str(runtime))
    )

    assert past is not None
    assert instance.history.kept == 1
    assert list(tmp_path.iterdir()) == []  # the window was not shared, either


async def test_instances_that_share_a_log_record_the_same(tmp_path):
    """After a takeover an instance would record other topics; the error names those of both."""
    ours = settings_of(tmp_path)
    theirs = Settings(feed_pairs=("ETH-USD",), history_where=str(tmp_path))
    async with running(ours) as instance:
        await wait_state(instance, HistoryState.WRITING)
        with pytest.raises(OperatorError, match=r"feed\.pairs BTC-USD") as caught:
            async with running(theirs):
                pytest.fail("it started")
        assert caught.value.exit_status == EXIT_CONFIG
        assert "ETH-USD" in str(caught.value)
        async with running(ours) as candidate:
            await wait_state(candidate, HistoryState.READING)
            assert candidate.pipe.resumes.past.keeps(Topic("ticker", "BTC-USD"))
    async with running(theirs):
        pass  # the writer has ended


async def test_instances_that_share_a_window_share_the_archive(tmp_path):
    """A candidate with another archive would answer queries from an archive that stays empty."""
    runtime = str(tmp_path / "run")
    async with running(settings_of(tmp_path / "a", serve_runtime_dir=runtime)) as instance:
        await wait_state(instance, HistoryState.WRITING)
        with pytest.raises(OperatorError, match="same --history") as caught:
            async with running(settings_of(tmp_path / "b", serve_runtime_dir=runtime)):
                pytest.fail("it started")
        (tmp_path / "c").symlink_to(tmp_path / "a")
        async with running(settings_of(tmp_path / "c", serve_runtime_dir=runtime)) as candidate:
            await wait_state(candidate, HistoryState.READING)

    assert EXIT_CONFIG == caught.value.exit_status


async def test_an_archive_is_of_one_window(tmp_path):
    """Each of two writers would wait for the other's lock, and record nothing."""
    runtime = tmp_path / "run"
    async with running(settings_of(tmp_path / "a", serve_runtime_dir=str(runtime))) as instance:
        await wait_state(instance, HistoryState.WRITING)
        with pytest.raises(OperatorError, match="same --runtime-dir") as caught:
            async with running(settings_of(tmp_path / "a")):
                pytest.fail("it started")

    assert EXIT_CONFIG == caught.value.exit_status


async def test_of_two_that_start_together_one_states_the_difference(tmp_path):
    """Neither was the writer when the other one was checked."""
    theirs = Settings(feed_pairs=("ETH-USD",), history_where=str(tmp_path))
    async with (
        open_log(settings_of(tmp_path)) as first,
        open_log(theirs) as second,
    ):
        instances = [make_instance(settings_of(tmp_path)), make_instance(theirs)]
        async with recording(first, instances[0], wall_us):
            await wait_state(instances[0], HistoryState.WRITING)
            async with recording(second, instances[1], wall_us):
                await wait_state(instances[1], HistoryState.FAILED)

    assert "feed.pairs BTC-USD; this one has ETH-USD" in instances[1].history.reason


async def test_a_store_of_an_older_version_is_refused(tmp_path):
    """Its messages would be missing in every answer."""
    (tmp_path / FILE_NAME).touch()
    with pytest.raises(OperatorError) as caught:
        async with running(settings_of(tmp_path)):
            pytest.fail("it started")

    assert EXIT_CONFIG == caught.value.exit_status
    assert [FILE_NAME] == [path.name for path in tmp_path.iterdir()]


async def test_a_writer_without_names_is_waited_for(autojump_clock, monkeypatch, tmp_path):
    """It has only just started; after a second the check is left out."""
    monkeypatch.setattr(trio.to_thread, "run_sync", run_at_once)
    looks = []
    begun_at = trio.current_time()
    await check(Looked(looks, tmp_path))

    assert 10 == len(looks)
    assert pytest.approx(1.0) == trio.current_time() - begun_at


@pytest.mark.parametrize("calls", [0, 1])
async def test_a_start_does_not_wait_for_a_disk_that_hangs(
    calls, autojump_clock, monkeypatch, tmp_path
):
    """Nor does a stop meanwhile; the checks that are left out are logged."""
    looks, begun = [], []

    async def run_sync(function, limiter, abandon_on_cancel=False):
        begun.append(function)
        assert abandon_on_cancel
        if len(begun) > calls:
            await trio.sleep_forever()
        return await run_at_once(function)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    with trio.move_on_after(1) as stop:
        await check(Looked(looks, tmp_path))
    assert stop.cancelled_caught
    begun.clear()
    begun_at = trio.current_time()
    with capture_logs() as lines:
        await check(Looked(looks, tmp_path))

    assert pytest.approx(limits.DISK_ANSWER_S) == trio.current_time() - begun_at
    assert ["the log cannot be read"] == [line["event"] for line in lines]
    assert (calls + 1, []) == (len(begun), looks)


async def run_at_once(function, limiter=None, abandon_on_cancel=False):
    await trio.lowlevel.checkpoint()
    return function()


class Looked:
    """Files of a log whose writer has not written its names yet."""

    def __init__(self, looks, archive):
        self._looks = looks
        self.archive = archive

    def check(self):
        self._looks.append(1)
        return False


async def test_where_no_directory_can_be_made_the_instance_starts(tmp_path):
    """Streams do not depend on history; readiness reports the fault as long as it lasts."""
    (tmp_path / "file").write_text("")
    with capture_logs() as lines:
        async with running(settings_of(tmp_path / "file" / "h")) as instance:
            await wait_state(instance, HistoryState.FAILED)
            is_ready, why = instance.readiness()

    assert is_ready
    assert "history is not kept" in why
    assert "the log cannot be read" in [line["event"] for line in lines]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_directories_are_for_user_and_group_where_the_window_is_in_them(tmp_path, umask):
    """The window's directory is created first, with those above it."""
    await record(settings_of(tmp_path / "new" / "history"))

    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {0o750} == {stat.S_IMODE(path.stat().st_mode) for path in made}
    assert ["history", "new", "window"] == sorted(path.name for path in made)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request):
    """Set the process's umask; restore it at the end."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


async def test_the_files_are_for_user_and_group_with_any_umask(tmp_path, umask):
    """Recorded data is private to the user; a backup can read it through the group."""
    directory, runtime = tmp_path / "new" / "history", tmp_path / "run"
    runtime.mkdir()
    runtime.chmod(0o755)
    await record(settings_of(directory, serve_runtime_dir=str(runtime)))

    made = [directory, runtime / "log"]
    files = [path for each in made for path in each.iterdir() if path.is_file()]
    assert {0o750} == {stat.S_IMODE(path.stat().st_mode) for path in made}
    assert {0o640} == {stat.S_IMODE(path.stat().st_mode) for path in files}
    assert len(files) >= 4
    assert 0o755 == stat.S_IMODE(runtime.stat().st_mode)
