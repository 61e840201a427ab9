"""Keeping history: where the store is, who writes it, and who reads it.

All instances of a machine share one store. Whatever is wrong with it, streams go on; only
an instance that would keep other things than the one that writes does not start.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
import trio

from hedgehogd.app.reload import held_topics
from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.fanout.instance import Instance
from hedgehogd.history.lock import WriterLock
from hedgehogd.history.reader import Reader
from hedgehogd.history.recorder import CHANNELS, PAIRS, Recorder, Retention
from hedgehogd.history.schema import DIRECTORY_MODE, StoreError
from hedgehogd.history.stored import StoredPast
from hedgehogd.settings.load import Settings

log = structlog.get_logger("history")

AUTO, NOWHERE = "auto", "none"
_NAMES_LOOKS = 10
_NAMES_LOOK_S = 0.1


def history_directory(settings: Settings, environment: Mapping[str, str]) -> Path | None:
    """Return where history is kept; None for nowhere, and for a place of its own (demo).

    What was set wins; then the state directory that systemd names.
    """
    where = settings.history_where
    if where == NOWHERE:
        return None
    if where != AUTO:
        return Path(where)
    state = environment.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(state) if state else None


@asynccontextmanager
async def history(
    instance: Instance, settings: Settings, wall_us: Callable[[], int]
) -> AsyncIterator[StoredPast | None]:
    """Keep what is held always; at the end write what is left.

    Yields:
        What is kept, to be read; None when nothing is.

    Raises:
        OperatorError: other instances keep other pairs or channels here.
    """
    recorded = frozenset(held_topics(settings))
    directory = history_directory(settings, os.environ)
    is_demo = settings.feed_where == "demo" and settings.history_where == AUTO
    if not recorded or (directory is None and not is_demo):
        yield None
        return
    with (
        tempfile.TemporaryDirectory(prefix="hedgehogd-")
        if directory is None
        else _Kept(directory) as place
    ):
        names = names_of(settings)
        lock = WriterLock(Path(place))
        await _agree(Path(place), lock, names)
        retention = Retention(settings.history_age_max_s, settings.history_bytes_max)
        past = StoredPast(Path(place), recorded)
        recorder = Recorder(
            Path(place),
            instance.pipe,
            recorded,
            names,
            lock,
            instance.history,
            wall_us,
            retention,
        )
        instance.pipe.resumes.past = past
        instance.pipe.backfilled.on_add = recorder.keep_trades
        async with trio.open_nursery() as nursery:
            await nursery.start(recorder.run)
            yield past
            nursery.cancel_scope.cancel()
        await past.close()


class _Kept:
    """A directory that stays; made if it is not there and can be."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> str:
        try:
            if not self._directory.is_dir():
                self._directory.mkdir(parents=True, exist_ok=True)
                self._directory.chmod(DIRECTORY_MODE)  # whatever the umask is
        except OSError as error:  # the recorder meets it again, and says so as long as it lasts
            log.error("no directory for history", path=str(self._directory), reason=str(error))
        return str(self._directory)

    def __exit__(self, *_: object) -> None:
        pass


def names_of(settings: Settings) -> dict[str, str]:
    """Return what the store names: pairs and channels, sorted."""
    return {
        PAIRS: ",".join(sorted(settings.feed_pairs)),
        CHANNELS: ",".join(sorted(settings.feed_channels)),
    }


async def _agree(directory: Path, lock: WriterLock, names: Mapping[str, str]) -> None:
    """See that whoever writes here keeps the same.

    Raises:
        OperatorError: it keeps other things.
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
        await trio.sleep(_NAMES_LOOK_S)  # it has only just begun
    else:
        return
    for name, ours in names.items():
        theirs = named.get(name, "")
        if theirs != ours:
            raise OperatorError(
                f"the history in {directory} is kept by another instance for {name} {theirs};"
                f" this one has {ours}\n  Expected the same --pairs and --channels in all"
                " instances that share a history, or a --history of its own for each.",
                EXIT_CONFIG,
            )
