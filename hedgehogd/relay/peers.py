"""Asking other instances of this machine, by HTTP over their unix sockets."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import h11
import httpx
import trio

from hedgehogd.domain import limits
from hedgehogd.relay.sockets import numbers_in, socket_path

_ENDS = h11.EndOfMessage()
_ANYWHERE = "http://hedgehogd"  # HTTP wants a host; a unix socket has none


class Answer(NamedTuple):
    """What another instance answered.

    Attributes:
        status: of HTTP.
        content_type: of the body.
        body: as it came.
    """

    status: int
    content_type: str
    body: bytes


class PeerGone(Exception):
    """Nobody listens there: the instance was stopped or killed, and its streams have ended."""


class PeerSilent(Exception):
    """It is there and does not answer in time: stuck, or stopped by a signal."""


class Peers:
    """The other instances whose sockets are in one directory.

    An async context manager; leaving it closes connections that are still open.
    """

    def __init__(self, directory: Path, number: int) -> None:
        self.number = number
        self._directory = directory
        self._clients: dict[int, httpx.AsyncClient] = {}

    async def __aenter__(self) -> Self:
        """Nothing is dialled before it is needed."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close what is open."""
        for client in self._clients.values():
            await client.aclose()

    def numbers(self) -> list[int]:
        """Return the numbers of the other instances that have a socket, ascending."""
        with suppress(OSError):
            return [number for number in numbers_in(self._directory) if number != self.number]
        return []

    async def ask(
        self,
        number: int,
        method: str,
        target: str,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes = b"",
    ) -> Answer:
        """Ask instance ``number``; ``target`` is path and query.

        Raises:
            PeerGone: nobody listens on its socket.
            PeerSilent: somebody does, and there was no answer within ``PEER_ANSWER_S``.
        """
        path = socket_path(self._directory, number)
        if await _is_missing(path):  # numbers are strangers' to name: nothing is kept for them
            raise PeerGone(f"instance {number} is gone")
        try:
            with trio.fail_after(limits.PEER_ANSWER_S):
                answer = await self._client(number).request(
                    method, f"{_ANYWHERE}{target}", headers=list(headers), content=body or None
                )
        except (trio.TooSlowError, httpx.TransportError) as error:
            if await _nobody_listens(path):
                raise PeerGone(f"instance {number} is gone") from None
            why = "" if isinstance(error, trio.TooSlowError) else f": {error}"
            raise PeerSilent(f"instance {number} does not answer{why}") from None
        return Answer(answer.status_code, answer.headers.get("content-type", ""), answer.content)

    @asynccontextmanager
    async def lines(self, number: int, target: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a stream of lines of instance ``number``; leaving it hangs up.

        By hand: an ``httpx`` answer that is left before its end leaves generators behind.

        Raises:
            PeerGone: it cannot be reached, refuses, or breaks off.
        """
        try:
            async with await trio.open_unix_socket(socket_path(self._directory, number)) as stream:
                http = h11.Connection(h11.CLIENT)
                headers = [("Host", "hedgehogd"), ("Accept", "text/event-stream")]
                asked = h11.Request(method="GET", target=target, headers=headers)
                await stream.send_all((http.send(asked) or b"") + (http.send(_ENDS) or b""))
                async with aclosing(_lines(stream, http)) as lines:
                    yield lines
        except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
            raise PeerGone(f"instance {number} breaks off: {error}") from None

    def _client(self, number: int) -> httpx.AsyncClient:
        client = self._clients.get(number)
        if client is None:
            path = str(socket_path(self._directory, number))
            transport = httpx.AsyncHTTPTransport(verify=False, uds=path)  # no TLS
            # No limits of its own: they would be for each read, and ``ask`` has one for all.
            client = httpx.AsyncClient(transport=transport, timeout=None, trust_env=False)  # noqa: S113
            self._clients[number] = client
        return client


async def _lines(stream: trio.abc.Stream, http: h11.Connection) -> AsyncGenerator[bytes]:
    """Yield what is answered, line by line, until it ends."""
    rest = b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some()))
        elif isinstance(event, h11.Response) and event.status_code != httpx.codes.OK:
            raise PeerGone(f"it answers {event.status_code}")
        elif isinstance(event, h11.Data):
            *whole, rest = (rest + event.data).split(b"\n")
            for line in whole:
                yield line
        elif isinstance(event, h11.EndOfMessage):
            return


async def _is_missing(path: Path) -> bool:
    return not await trio.Path(path).exists()


async def _nobody_listens(path: Path) -> bool:
    """Say whether the instance has ended; one that cannot be reached just now has not."""
    try:
        with trio.fail_after(limits.PEER_ANSWER_S):
            stream = await trio.open_unix_socket(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return True
    except (OSError, trio.TooSlowError):
        return False
    await stream.aclose()
    return False
