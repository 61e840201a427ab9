"""A recording as the feed: its messages at their recorded pace, without a network.

Playing begins when a topic is in demand for the first time, and happens once. At the end the
feed stays up: subscribers keep their streams, and ``/readyz`` reports ``recording ended``.

The file is read in threads, a batch at a time, so a disk that hangs blocks no stream.
"""

from collections.abc import Generator
from contextlib import closing
from itertools import islice
from pathlib import Path

import msgspec
import structlog
import trio

from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.session import UpstreamSession
from hedgehogd.domain.errors import OperatorError
from hedgehogd.domain.product import Catalogue
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.health import FeedHealth, FeedState
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.feeds.accounting import account
from hedgehogd.feeds.catalogue import read_products
from hedgehogd.protocol.frames import encode_text
from hedgehogd.protocol.recording import (
    PRODUCTS_FILE,
    TIMES_SUFFIX,
    Recorded,
    RecordingError,
    find_recording,
    read_recording,
)

log = structlog.get_logger("feed")

_BATCH_MESSAGES_MAX = 64


class RecordingFeed:
    """Play a recording into ``inbox``.

    Args:
        path: the file of messages, or its directory.
        pipe: its demand starts the playing; its catalogue gets the recorded products.
        inbox: receives the deliveries; closed when ``run`` ends.
        health: the state of the feed; written here.

    Raises:
        OperatorError: there is no recording at ``path``.
    """

    def __init__(
        self,
        path: Path,
        pipe: Pipe,
        inbox: trio.MemorySendChannel[Delivery],
        health: FeedHealth,
    ) -> None:
        self._messages = find_recording(path)
        self._pipe = pipe
        self._inbox = inbox
        self._health = health
        self._session = UpstreamSession(dropped=health.dropped)
        self._source = Source(held=None)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Play once, then stay up until cancelled.

        Started means: the recorded list of products has been read, or there is none.

        Raises:
            OperatorError: the recording or its list of products cannot be read or is not valid;
                for an invalid message the error names the line.
        """
        await self._list_products(self._pipe.catalogue)
        task_status.started()
        async with self._inbox:
            demand = self._pipe.demand
            while not demand.wanted(trio.current_time()):
                await demand.changed.wait()
                demand.changed.clear()
            self._health.become(FeedState.LIVE)
            self._health.connects += 1
            await self._play()
            self._health.become(FeedState.ENDED)
            log.info("recording ended", path=str(self._messages))
            await trio.sleep_forever()

    async def _list_products(self, catalogue: Catalogue) -> None:
        """Put the recorded list of products, if there is one, into ``catalogue``.

        Raises:
            OperatorError: the list cannot be read.
        """
        path = self._messages.with_name(PRODUCTS_FILE)
        if path.is_file():
            try:
                products = read_products(await trio.to_thread.run_sync(path.read_bytes))
            except (msgspec.DecodeError, OSError) as error:
                raise OperatorError(f"{path}: {error}") from None
            if products.unreadable and not products.ids:
                raise OperatorError(f"{path}: no product in it can be read")
            catalogue.replace(*products)

    async def _play(self) -> None:
        begin = trio.current_time()
        batch: list[Recorded] = []
        with closing(self._recorded()) as recording:
            while True:
                some = islice(recording, _BATCH_MESSAGES_MAX)
                read = await trio.to_thread.run_sync(list, some)
                if not read:
                    break
                for recorded in read:
                    due = begin + recorded.due_s
                    if batch and (due > trio.current_time() or len(batch) >= _BATCH_MESSAGES_MAX):
                        await self._send(batch)
                        batch = []
                    if due > trio.current_time():
                        await trio.sleep_until(due)
                    batch.append(recorded)
        if batch:
            await self._send(batch)

    def _recorded(self) -> Generator[Recorded]:
        """Read the recording line by line; it may be larger than memory.

        Raises:
            OperatorError: a file cannot be read, or a line is not valid.
        """
        times = self._messages.with_name(self._messages.stem + TIMES_SUFFIX)
        try:
            with self._messages.open("rb") as lines:
                if not times.is_file():
                    yield from read_recording(lines)
                    return
                with times.open("rb") as received:
                    yield from read_recording(lines, received)
        except RecordingError as error:
            raise OperatorError(f"{self._messages}: {error}") from None
        except OSError as error:
            raise OperatorError(f"{error.filename}: {error.strerror}") from None

    async def _send(self, batch: list[Recorded]) -> None:
        frames = [(encode_text(recorded.payload), recorded.payload) for recorded in batch]
        now = self._health.heard_at = trio.current_time()
        received_us = self._pipe.wall_us()
        received = self._session.receive(self._source, frames, now, received_us)
        account(received, self._session, self._health)
        await self._inbox.send(Delivery(received.messages, received.notices, received.notices_at))
