"""A recording, served as an exchange: each message once, byte for byte, when it is due.

A server has one timeline, a ``Playback`` (of a recording here, of history in ``stretch``). It
starts at the first subscribe; a client that subscribes later gets the messages from then on. The
topics of a subscribe do not matter: every client that has subscribed gets every message, the
recorded acknowledgements included, and nothing else. At the end connections stay open and
silent.

At a recorded pace, a client that reads too slowly is closed, as on any exchange. At speed 0 (as
fast as possible) the slowest client determines the pace; a client that has not accepted all bytes
sent to it after a wait of ``_STALL_S`` is closed.
"""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec
import trio

from hedgehogd.domain.errors import OperatorError
from hedgehogd.domain.message import BadMessage, read_head
from hedgehogd.domain.product import is_product_id
from hedgehogd.protocol.commands import CommandError, parse
from hedgehogd.protocol.frames import encode_text
from hedgehogd.protocol.recording import (
    MESSAGES_FILE,
    PRODUCTS_FILE,
    TIMES_SUFFIX,
    Recorded,
    RecordingError,
    read_recording,
)
from hedgehogd.simulator.client import Client

_STALL_S = 10.0
# Messages per read and, at speed 0, per write: a switch between threads costs as much as several.
_BATCH_MESSAGES_MAX = 512
# Bytes sent at once before the playback waits for clients: snapshots may follow each other.
_AT_ONCE_BYTES_MAX = 1024 * 1024


class Recording:
    """A recording on disk.

    Attributes:
        path: the file of messages.
        products: the objects of its ``GET /products``; without that file, minimal ones for the
            products of its messages.
    """

    def __init__(self, path: Path) -> None:
        """Read the whole recording once, to check it and to find its products.

        Blocks, about 1 s per million messages; call it in a thread.

        Args:
            path: the file of messages, or the directory that holds it as ``feed.jsonl``.
                Optional files beside it: ``feed.recv_ts.txt``, receive times line by line, and
                ``rest_products.json``, the exchange's answer to ``GET /products``.

        Raises:
            OperatorError: the file of messages does not exist or has no message, or a file is
                invalid.
        """
        self.path = path / MESSAGES_FILE if path.is_dir() else path
        self._received_path = self.path.with_suffix(TIMES_SUFFIX)
        product_ids: dict[str, None] = {}
        with self.opened() as timeline:
            empty = True
            for _, payload in timeline:
                empty = False
                product_id = _product_id(payload)
                if product_id and product_id not in product_ids and is_product_id(product_id):
                    product_ids[product_id] = None
        if empty:
            raise OperatorError(f"{self.path}: found no message, expected one per line")
        self.products = self._read_products() or [product_object(name) for name in product_ids]

    @contextmanager
    def opened(self) -> Iterator[Iterator[Recorded]]:
        """Open the recording; yield its messages in order, with the times when they are due.

        The iterator is valid until the context is left, and its errors are converted too.

        Raises:
            OperatorError: the file cannot be read, or a line is invalid.
        """
        try:
            with ExitStack() as files:
                lines = files.enter_context(self.path.open("rb"))
                stamps = None
                if self._received_path.exists():
                    stamps = files.enter_context(self._received_path.open("rb"))
                yield read_recording(lines, stamps)
        except OSError as error:
            found = f"found {error.strerror or error}"
            raise OperatorError(f"{self.path}: {found}, expected a file of messages") from error
        except RecordingError as error:
            raise OperatorError(f"{self.path}: {error}") from error

    def _read_products(self) -> list[dict[str, object]]:
        path = self.path.with_name(PRODUCTS_FILE)
        if not path.exists():
            return []
        expected = "expected the answer to GET /products"
        try:
            products = msgspec.json.decode(path.read_bytes(), type=list[dict[str, object]])
        except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
            raise OperatorError(f"{path}: found {error}, {expected}") from error
        if not all(isinstance(product.get("id"), str) for product in products):
            raise OperatorError(f"{path}: found an object without an id, {expected}")
        return products


def _product_id(payload: bytes) -> str:
    try:
        return read_head(payload).product_id
    except BadMessage:
        return ""


def product_object(product_id: str) -> dict[str, object]:
    """Return a minimal product object, for recordings without ``GET /products``."""
    base, _, rest = product_id.partition("-")
    return {
        "id": product_id,
        "base_currency": base,
        "quote_currency": rest.partition("-")[0],
        "display_name": product_id,
        "status": "online",
        "status_message": "",
        "trading_disabled": False,
    }


async def wait_written(client: Client) -> None:
    """Wait until a client has accepted its bytes; close one that takes ``_STALL_S``."""
    with trio.move_on_after(_STALL_S) as stall:
        await client.wait_written()
    if stall.cancelled_caught:
        client.close_slow()


class Timed(Protocol):
    """An element of a timeline."""

    @property
    def due_s(self) -> float:
        """Seconds after the first message."""


Played = TypeVar("Played", bound=Timed)


class Playback(Generic[Played]):
    """Play a timeline once: deliver each message when it is due.

    Args:
        opened: opens the timeline; it is read in threads, a batch at a time.
        speed: 1 for the recorded pace, 2 for twice as fast, 0 for as fast as clients read.
        deliver: sends one message to its subscribers; returns its length in bytes. It may return 0
            if there is no subscriber.
        clients: where no pace is set, the playback waits until these have accepted the bytes.

    Attributes:
        ended: set when all messages are delivered.
    """

    def __init__(
        self,
        opened: Callable[[], AbstractContextManager[Iterator[Played]]],
        speed: float,
        deliver: Callable[[Played], int],
        clients: Collection[Client],
    ) -> None:
        self.ended = trio.Event()
        self._opened = opened
        self._pace = 1 / speed if speed else 0.0
        self._deliver = deliver
        self._clients = clients
        self._start: float | None = None
        self._resumed: trio.Event | None = None

    def pause(self) -> None:
        """Deliver nothing until ``resume``."""
        if self._resumed is None:
            self._resumed = trio.Event()

    def resume(self) -> None:
        """Go on; the messages that follow are due later by the time of the pause."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    async def run(self) -> None:
        """Play to the end, then set ``ended``; errors of reading the timeline are raised."""
        with self._opened() as timeline:
            while batch := await trio.to_thread.run_sync(_next_batch, timeline):
                await self._play(batch)
        self.ended.set()

    async def _wait_resumed(self) -> None:
        began = trio.current_time()
        while self._resumed is not None:
            await self._resumed.wait()
        if self._start is not None:
            self._start += trio.current_time() - began

    async def _play(self, batch: list[Played]) -> None:
        now, unwaited_bytes = -math.inf, 0
        for played in batch:
            if self._resumed is not None:
                await self._wait_resumed()
            if self._start is None:
                self._start = trio.current_time()
            while (due := self._start + played.due_s * self._pace) > now:
                await trio.sleep_until(due)
                now = trio.current_time()
                if self._resumed is not None:
                    await self._wait_resumed()
            sent_bytes = self._deliver(played)
            if not self._pace:
                unwaited_bytes += sent_bytes
                if unwaited_bytes > _AT_ONCE_BYTES_MAX:
                    unwaited_bytes = 0
                    await self._wait_written()
        if unwaited_bytes:
            await self._wait_written()

    async def _wait_written(self) -> None:
        """Wait until each client has accepted its bytes; close one that takes ``_STALL_S``."""
        for client in list(self._clients):
            await wait_written(client)


class ReplayExchange:
    """Play one recording to all subscribers."""

    def __init__(self, recording: Recording, speed: float) -> None:
        """Prepare to play.

        Args:
            recording: the recording to play.
            speed: 1 for the recorded pace, 2 for twice as fast, 0 for as fast as
                clients read.
        """
        self._clients: dict[Client, None] = {}
        self._has_subscriber = trio.Event()
        self._playback = Playback(recording.opened, speed, self._deliver, self._clients)

    def receive(self, client: Client, text: str) -> None:
        """Add the client if the message is a valid subscribe; nothing is answered."""
        try:
            command = parse(text)
        except CommandError:
            return
        if command.subscribes:
            client.has_subscribed = True
            self._clients[client] = None
            self._has_subscriber.set()

    def left(self, client: Client) -> None:
        """Forget the client."""
        self._clients.pop(client, None)

    async def run(self) -> None:
        """Wait for the first subscriber, play the recording, then stay silent.

        Raises:
            OperatorError: the recording changed on disk and is no longer valid.
        """
        await self._has_subscriber.wait()
        await self._playback.run()
        await trio.sleep_forever()

    def _deliver(self, recorded: Recorded) -> int:
        frame = encode_text(recorded.payload)
        for client in self._clients:
            client.send(frame)
        return len(frame)


def _next_batch(timeline: Iterator[Played]) -> list[Played]:
    """Return up to ``_BATCH_MESSAGES_MAX`` next messages; none at the end. It may block."""
    return list(islice(timeline, _BATCH_MESSAGES_MAX))
