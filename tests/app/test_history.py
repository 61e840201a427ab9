"""The directory of the store, and the check that all its instances record the same."""

import os
import stat
from contextlib import asynccontextmanager

import pytest
import trio

from hedgehogd.app.daemon import make_instance, wall_us
from hedgehogd.app.history import names_of, open_history, recording
from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.health import HistoryState
from hedgehogd.history.lock import WriterLock
from hedgehogd.history.reader import Reader
from hedgehogd.history.schema import FILE_NAME, LOCK_NAME
from hedgehogd.settings.keys import Settings
from tests.fakes import make_message

BTC = ("BTC-USD",)


@asynccontextmanager
async def running(settings):
    """Run the history of a new instance; yield the instance."""
    async with open_history(settings) as history:
        instance = make_instance(settings, None if history is None else history.past)
        async with recording(history, instance, wall_us):
            yield instance


async def kept(settings):
    """Record one trade; return the instance, and the access to its recorded messages."""
    async with running(settings) as instance:
        past = instance.pipe.resumes.past
        if past is None:
            return instance, None
        trade = make_message("matches", sequence=7, trade_id=3)
        await instance.broker.publish([Delivery([trade])])
        with trio.fail_after(20):
            while instance.history.state in {HistoryState.OFF, HistoryState.READING}:
                await trio.sleep(0.01)
    return instance, past


async def test_all_messages_are_written_at_the_end(tmp_path):
    """The last round of the recorder comes after the last message of the broker."""
    settings = Settings(feed_pairs=BTC, history_where=str(tmp_path / "a" / "b"))
    await kept(settings)

    reader = Reader(tmp_path / "a" / "b")
    assert [m.sequence for m in reader.page([MATCHES.topic("BTC-USD")], 0).messages] == [7]
    assert reader.settings().items() >= names_of(settings).items()


@pytest.mark.parametrize(
    "settings",
    [Settings(history_where="somewhere"), Settings(feed_pairs=BTC, history_where="none")],
)
async def test_without_pairs_or_a_place_nothing_is_kept(settings, tmp_path, monkeypatch):
    """An empty store would look as if messages were recorded."""
    monkeypatch.chdir(tmp_path)

    instance, past = await kept(settings)

    assert past is None
    assert instance.history.state is HistoryState.OFF
    assert list(tmp_path.iterdir()) == []


async def test_the_demo_keeps_a_temporary_one(tmp_path, monkeypatch):
    """In a demo resume works, and the temporary store is removed at the end."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)

    instance, past = await kept(Settings(feed_pairs=BTC, feed_where="demo"))

    assert past is not None
    assert instance.history.kept == 1
    assert list(tmp_path.iterdir()) == []


async def test_an_instance_that_would_record_other_topics_does_not_start(tmp_path):
    """After a takeover it would record other topics; the error names the topics of both."""
    ours = Settings(feed_pairs=BTC, history_where=str(tmp_path))
    async with running(ours):
        with trio.fail_after(20):
            while not (tmp_path / FILE_NAME).exists():
                await trio.sleep(0.01)
        others = Settings(feed_pairs=("ETH-USD",), history_where=str(tmp_path))
        with pytest.raises(OperatorError) as caught:
            async with running(others):
                pytest.fail("it started")
        assert caught.value.exit_status == EXIT_CONFIG
        assert "BTC-USD" in str(caught.value)
        assert "ETH-USD" in str(caught.value)
        async with running(ours) as instance:
            assert instance.pipe.resumes.past.keeps(Topic("ticker", "BTC-USD"))


async def test_an_instance_waits_for_the_names_of_a_new_writer(tmp_path, autojump_clock):
    """A writer acquires the lock before it creates the file; other instances wait for the file."""
    lock = WriterLock(tmp_path)
    assert lock.try_take()
    settings = Settings(feed_pairs=BTC, history_where=str(tmp_path))

    async with running(settings):
        assert trio.current_time() >= 0.5

    lock.release()


async def test_where_no_directory_can_be_made_the_instance_starts(tmp_path, caplog):
    """Streams do not depend on history; readiness reports the fault as long as it lasts."""
    (tmp_path / "file").write_text("")
    settings = Settings(feed_pairs=BTC, history_where=str(tmp_path / "file" / "h"))

    async with running(settings) as instance:
        with trio.fail_after(20):
            while instance.history.state is not HistoryState.FAILED:
                await trio.sleep(0.01)
        is_ready, why = instance.readiness()

    assert is_ready
    assert "history is not kept" in why
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request):
    """Set the process's umask; restore it at the end."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


async def test_the_stores_files_are_for_user_and_group_with_any_umask(tmp_path, umask):
    """Recorded data is private to the user; a backup can read it through the group."""
    directory = tmp_path / "new" / "history"
    settings = Settings(feed_pairs=BTC, history_where=str(directory))
    async with running(settings):
        for name in ("", "-wal", "-shm"):
            await wait_for_file(directory / f"{FILE_NAME}{name}")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}

    assert stat.S_IMODE(directory.stat().st_mode) == 0o750
    assert modes.keys() >= {FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", LOCK_NAME}
    assert set(modes.values()) == {0o640}


async def test_files_of_an_earlier_version_get_the_mode_too(tmp_path):
    """Earlier files were readable for all; a directory created by the operator keeps its mode."""
    for name in (FILE_NAME, LOCK_NAME):
        (tmp_path / name).touch(0o666)
        (tmp_path / name).chmod(0o666)
    tmp_path.chmod(0o755)
    settings = Settings(feed_pairs=BTC, history_where=str(tmp_path))
    async with running(settings):
        await wait_for_file(tmp_path / f"{FILE_NAME}-wal")

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert set(modes.values()) == {0o640}
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


async def wait_for_file(path):
    with trio.fail_after(10):
        while not path.exists():
            await trio.sleep(0.01)
