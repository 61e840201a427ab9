"""Recorded history of an instance: the place of the store, its writer and its reader.

All instances of a machine share one store. No fault of the store interrupts streams; but an
instance does not start if it would record other pairs or channels than the present writer.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import structlog
import trio

from hedgehogd.app.reload import held_topics
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.fanout.instance import Instance
from hedgehogd.history.lock import WriterLock
from hedgehogd.history.reader import Reader
from hedgehogd.history.recorder import CHANNELS, PAIRS, Recorder, Retention
from hedgehogd.history.schema import DIRECTORY_MODE, StoreError
from hedgehogd.history.stored import StoredPast
from hedgehogd.settings.keys import Settings
from hedgehogd.settings.readers import AUTO

log = structlog.get_logger("history")

KeepTrades = Callable[[str, Sequence[Mapping[str, Any]]], None]
_NAMES_LOOKS = 10
_NAMES_LOOK_S = 0.1


class History(NamedTuple):
    """The store of an instance, opened for reading and not yet recorded into.

    Attributes:
        directory: where the store is.
        recorded: the topics that are recorded there.
        names: the entries for the pairs and channels of this instance (``names_of``).
        lock: the right to write; this instance may hold it already.
        retention: how much is kept.
        past: the recorded messages.
    """

    directory: Path
    recorded: frozenset[Topic]
    names: dict[str, str]
    lock: WriterLock
    retention: Retention
    past: StoredPast


@asynccontextmanager
async def open_history(settings: Settings) -> AsyncIterator[History | None]:
    """Open the store for the topics of ``held_topics``; close it at the end.

    A demo without a directory gets a temporary one, which is removed at the end.

    Yields:
        The store; None without such topics or without a directory.

    Raises:
        OperatorError: another instance records other pairs or channels here.
    """
    recorded = frozenset(held_topics(settings))
    directory = settings.history_directory(os.environ)
    is_demo = settings.feed_where == "demo" and settings.history_where == AUTO
    if not recorded or (directory is None and not is_demo):
        yield None
        return
    with (
        tempfile.TemporaryDirectory(prefix="hedgehogd-")
        if directory is None
        else _Permanent(directory) as place
    ):
        names = names_of(settings)
        lock = WriterLock(Path(place))
        await _agree(Path(place), lock, names)
        retention = Retention(settings.history_age_max_s, settings.history_bytes_max)
        past = StoredPast(Path(place), recorded)
        yield History(Path(place), recorded, names, lock, retention, past)
        await past.close()


@asynccontextmanager
async def recording(
    history: History | None, instance: Instance, wall_us: Callable[[], int]
) -> AsyncIterator[KeepTrades]:
    """Record the messages of ``instance`` in ``history``; at the end write the rest.

    Yields:
        The function that records backfilled trades of a product; without ``history`` it does
        nothing.
    """
    if history is None:
        yield lambda _product_id, _trades: None
        return
    recorder = Recorder(
        history.directory,
        instance.pipe,
        history.recorded,
        history.names,
        history.lock,
        instance.history,
        wall_us,
        history.retention,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.run)
        yield recorder.keep_trades
        nursery.cancel_scope.cancel()


class _Permanent:
    """A permanent directory, created if it does not exist; a failure is only logged."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> str:
        try:
            if not self._directory.is_dir():
                self._directory.mkdir(parents=True, exist_ok=True)
                self._directory.chmod(DIRECTORY_MODE)  # mkdir applies the umask
        except OSError as error:  # the recorder fails for the same reason, and reports it
            log.error("no directory for history", path=str(self._directory), reason=str(error))
        return str(self._directory)

    def __exit__(self, *_: object) -> None:
        pass


def names_of(settings: Settings) -> dict[str, str]:
    """Return the entries that identify a store's content: its pairs and channels, sorted."""
    return {
        PAIRS: ",".join(sorted(settings.feed_pairs)),
        CHANNELS: ",".join(sorted(settings.feed_channels)),
    }


async def _agree(directory: Path, lock: WriterLock, names: Mapping[str, str]) -> None:
    """Take the lock, or check that the writer, which has it, records the same names.

    If the names cannot be read for a second, the check is left out.

    Raises:
        OperatorError: the writer records other pairs or channels.
    """
    for _ in range(_NAMES_LOOKS):
        try:
            if lock.try_take():
                return
            reader = await trio.to_thread.run_sync(Reader, directory)
            try:
                named = await trio.to_thread.run_sync(reader.settings)
            finally:
                await trio.to_thread.run_sync(reader.close)
        except StoreError:
            named = {}
        if named:
            break
        await trio.sleep(_NAMES_LOOK_S)  # the writer has only just started
    else:
        return
    for name, ours in names.items():
        theirs = named.get(name, "")
        if theirs != ours:
            raise OperatorError(
                f"another instance records the history in {directory} for {name} {theirs};"
                f" this one has {ours}\n  Expected the same --pairs and --channels in all"
                " instances that share a history, or a --history of its own for each.",
                EXIT_CONFIG,
            )
