"""The store deleted, moved or replaced while an instance writes it: noticed, reported, restarted.

Whatever an operator or a script does to the directory, one instance writes what is at the
path, within seconds, and an instance whose writes go elsewhere does not call itself writing.
"""

import shutil

import pytest
import trio
from structlog.testing import capture_logs

from hedgehogd.engine.health import HistoryState
from hedgehogd.history.schema import FILE_NAME, LOCK_NAME
from tests.history.conftest import MATCHES, Store
from tests.history.test_recorder import Instance, run_at_once, trade, what_is_kept

NOTICED_S = 5


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """Run at once what goes to threads: a clock that jumps would jump while they work."""
    monkeypatch.setattr(trio.to_thread, "run_sync", run_at_once)


def delete_files(directory):
    for path in directory.iterdir():
        path.unlink()


def delete_store(directory):
    for path in directory.glob(f"{FILE_NAME}*"):
        path.unlink()


def delete_lock(directory):
    (directory / LOCK_NAME).unlink()


def move_directory(directory):
    directory.rename(directory.with_name("elsewhere"))
    directory.mkdir()


def replace_store(directory):
    """Put an older copy in its place, as a restored backup does."""
    copy = directory / "copy"
    shutil.copy(directory / FILE_NAME, copy)
    delete_store(directory)
    copy.rename(directory / FILE_NAME)


FAULTS = [delete_files, delete_store, move_directory, replace_store]


@pytest.fixture
async def writer(tmp_path, autojump_clock, nursery):
    """An instance that has written trade 1 into a directory of its own."""
    directory = tmp_path / "history"
    directory.mkdir()
    here = Instance(directory, [MATCHES])
    await nursery.start(here.run)
    await here.publish(trade(1))
    await trio.sleep(2)
    assert here.health.state is HistoryState.WRITING
    return here


@pytest.mark.xfail(strict=True, reason="The log")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_what_comes_after_the_fault_is_kept_at_the_path(fault, writer, autojump_clock):
    """`kept` rises with every message, so a message that it counts has to be readable."""
    fault(writer.directory)
    await trio.sleep(NOTICED_S)
    await writer.publish(trade(2), trade(3))
    await trio.sleep(2)

    assert (writer.directory / FILE_NAME).exists()
    kept = [message.trade_id for message in what_is_kept(writer.directory, MATCHES)[0]]
    assert kept[-2:] == [2, 3]


@pytest.mark.xfail(strict=True, reason="The log")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_the_fault_is_logged(fault, writer, autojump_clock):
    """An operator reads that history before this moment is gone from the path."""
    with capture_logs() as logged:
        fault(writer.directory)
        await trio.sleep(NOTICED_S)

    assert [line for line in logged if line["log_level"] in ("warning", "error")] != []


@pytest.mark.xfail(strict=True, reason="The log")
@pytest.mark.parametrize(
    "fault", [delete_files, delete_lock, move_directory], ids=lambda fault: fault.__name__
)
async def test_one_instance_writes_after_the_fault(fault, writer, autojump_clock, nursery):
    """A lock on a file that is no longer at the path excludes no instance."""
    fault(writer.directory)
    other = Instance(writer.directory, [MATCHES])
    await nursery.start(other.run)
    await trio.sleep(NOTICED_S)

    states = [each.health.state for each in (writer, other)]
    assert states.count(HistoryState.WRITING) == 1


@pytest.mark.xfail(strict=True, reason="The log")
async def test_a_store_of_zero_bytes_is_reported(tmp_path, autojump_clock, nursery):
    """After a power cut an empty file is a store that was lost, and no new one."""
    store = Store(tmp_path)
    assert store.writer.last_place == 0
    store.close()
    store.file.write_bytes(b"")
    here = Instance(tmp_path, [MATCHES])
    with capture_logs() as logged:
        await nursery.start(here.run)
        await here.publish(trade(1))
        await trio.sleep(2)

    warned = [line for line in logged if line["log_level"] in ("warning", "error")]
    assert warned != [] or here.health.reason != ""
