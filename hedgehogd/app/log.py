"""The log of an instance: its directories, the recorder that takes part in it, and its past.

All instances of a machine share one log. No fault of the log interrupts streams; but an instance
does not start if it would record other pairs or channels than the present writer.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import structlog
import trio

from hedgehogd.app.reload import held_topics
from hedgehogd.domain import limits
from hedgehogd.fanout.instance import Instance
from hedgehogd.log.allocation import Bounds
from hedgehogd.log.archiver import Kept
from hedgehogd.log.disk import Disk
from hedgehogd.log.errors import LogError
from hedgehogd.log.migration.old_store import refuse_old_store
from hedgehogd.log.past import ArchivePast
from hedgehogd.log.recorder import LogFiles, Recorder
from hedgehogd.settings.keys import Settings
from hedgehogd.settings.readers import AUTO

log = structlog.get_logger("log")

KeepTrades = Callable[[str, Sequence[Mapping[str, Any]]], None]

_NAMES_LOOKS = 10
_NAMES_LOOK_S = 0.1


class InstanceLog(NamedTuple):
    """The log of an instance, opened for reading and not yet recorded into.

    Attributes:
        files: its directories, and how it is kept.
        past: the messages that are recorded in its archive.
    """

    files: LogFiles
    past: ArchivePast


@asynccontextmanager
async def open_log(settings: Settings) -> AsyncIterator[InstanceLog | None]:
    """Open the log of an instance that records topics; close it at the end.

    A demo without a directory of history gets a temporary one, which is removed at the end.

    Yields:
        The log; None if there is nothing to record, or no directory to record it in.

    Raises:
        OperatorError: the instance cannot take part in the log; the directory has a store of an
            older version.
    """
    directory = settings.history_directory(os.environ)
    is_demo = settings.feed_where == "demo" and settings.history_where == AUTO
    has_topics = settings.history_demanded or held_topics(settings)
    if not has_topics or (directory is None and not is_demo):
        yield None
        return
    with (
        tempfile.TemporaryDirectory(prefix="hedgehogd-")
        if directory is None
        else nullcontext(str(directory))
    ) as place:
        # A temporary archive is of this instance alone, so its window is not shared either.
        runtime = "" if directory is None else settings.serve_runtime_dir
        files = log_files(settings, Path(place), runtime)
        await check(files)
        past = ArchivePast(files.archive, None if files.kept.demanded else files.kept.topics)
        try:
            yield InstanceLog(files, past)
        finally:
            with trio.move_on_after(limits.FAREWELL_S, shield=True):
                await past.close()


def log_files(settings: Settings, directory: Path, runtime: str) -> LogFiles:
    """Return the files of the log of an instance.

    Args:
        settings: of the instance.
        directory: that of its history, which becomes the archive's.
        runtime: the runtime directory, in memory under systemd: the window is in it; empty for a
            window in the history's directory.
    """
    return LogFiles(
        Path(runtime) / "log" if runtime else directory / "window",
        directory,
        Kept(
            frozenset(held_topics(settings)),
            settings.history_demanded,
            settings.history_age_max_s,
            settings.history_bytes_max,
        ),
        names_of(settings),
        Bounds(settings.log_window_s, settings.log_window_bytes_max),
        settings.log_lease_s,
    )


def names_of(settings: Settings) -> dict[str, str]:
    """Return the settings that must be the same in all instances that share a log, as texts."""
    return {
        "feed.pairs": ",".join(sorted(settings.feed_pairs)),
        "feed.channels": ",".join(sorted(settings.feed_channels)),
        "history.demanded": str(settings.history_demanded).lower(),
    }


async def check(files: LogFiles) -> None:
    """Check that an instance can take part in a log.

    A fault of the disk is only logged: no fault of the log interrupts streams. If the names of the
    writer cannot be read for a second, they are not compared. Nothing is checked that a disk has
    not read after ``DISK_ANSWER_S``.

    Raises:
        OperatorError: the directory has a store of an older version; the log has another format or
            deployment, is on a remote file system, or its writer records other topics, into another
            archive, or with another window.
    """
    disk = Disk()
    try:
        await disk.call(partial(refuse_old_store, files.archive))
        for _ in range(_NAMES_LOOKS):
            if await disk.call(files.check):
                return
            await trio.sleep(_NAMES_LOOK_S)  # the writer has only just started
    except LogError as error:
        log.error("the log cannot be read", reason=str(error))


@asynccontextmanager
async def recording(
    log_of_instance: InstanceLog | None, instance: Instance, wall_us: Callable[[], int]
) -> AsyncIterator[KeepTrades]:
    """Record the messages of ``instance`` in its log; at the end record the rest.

    Yields:
        The function that records backfilled trades of a product; without a log it does nothing.
    """
    if log_of_instance is None:
        yield lambda _product_id, _trades: None
        return
    recorder = Recorder(
        log_of_instance.files,
        instance.pipe,
        instance.health,
        instance.history,
        wall_us,
        instance.number,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.run)
        yield recorder.keep_trades
        nursery.cancel_scope.cancel()
