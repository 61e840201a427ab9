"""HTTP requests to peer instances, over their unix sockets."""

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
_BASE_URL = "http://hedgehogd"  # HTTP requires a host; a unix socket has none


class Answer(NamedTuple):
    """The HTTP response of a peer instance.

    Attributes:
        status: HTTP status.
        content_type: of the body; empty if the peer does not state it.
        body: the body, unchanged.
    """

    status: int
    content_type: str
    body: bytes


class PeerGone(Exception):
    """The instance has ended, and so have its sessions; or, from ``lines``, the stream failed."""


class PeerSilent(Exception):
    """The instance gave no whole answer in time, or broke the connection, but may still run."""


class Peers:
    """The peer instances with a socket in one directory.

    An async context manager; leaving it closes the connections that ``ask`` keeps open.

    Args:
        directory: the directory of the sockets.
        number: the number of this instance, which is not one of its peers.
    """

    def __init__(self, directory: Path, number: int) -> None:
        self.number = number
        self._directory = directory
        self._clients: dict[int, httpx.AsyncClient] = {}

    async def __aenter__(self) -> Self:
        """Return the object itself; the first request to a peer opens the connection to it."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all open connections; this may wait."""
        for client in self._clients.values():
            await client.aclose()

    def numbers(self) -> list[int]:
        """Return the numbers of the peer instances that have a socket file, ascending.

        An instance with a socket file may have ended. Empty if the directory cannot be read. Only
        the lowest ``INSTANCES_MAX`` numbers, this instance's included, are considered.
        """
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
        """Send a request to instance ``number`` and wait for the whole answer of any status.

        ``target`` is path and query.

        Raises:
            PeerGone: there is no such instance, or no process listens on its socket.
            PeerSilent: there is no whole answer within ``PEER_ANSWER_S``, or the connection
                failed without proof that the instance has ended. That proof may take another
                ``PEER_ANSWER_S``.
        """
        path = socket_path(self._directory, number)
        if await _is_missing(path):  # callers may send any number: no client is created for it
            raise PeerGone(f"instance {number} is gone")
        try:
            with trio.fail_after(limits.PEER_ANSWER_S):
                answer = await self._client(number).request(
                    method, f"{_BASE_URL}{target}", headers=list(headers), content=body or None
                )
        except (trio.TooSlowError, httpx.TransportError) as error:
            if await _has_ended(path):
                raise PeerGone(f"instance {number} is gone") from None
            reason = "" if isinstance(error, trio.TooSlowError) else f": {error}"
            raise PeerSilent(f"instance {number} does not answer{reason}") from None
        return Answer(answer.status_code, answer.headers.get("content-type", ""), answer.content)

    @asynccontextmanager
    async def lines(self, number: int, target: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the text lines of an endless response of instance ``number``, without line feeds.

        ``target`` is path and query. Leaving the context closes the connection. A wait for the
        next line has no time limit. This uses h11 directly: an ``httpx`` response that is left
        before its end leaves open generators.

        Raises:
            PeerGone: the instance cannot be reached; its status is not 200 (from the iterator);
                or the connection ends before the response does. The iterator raises the latter
                as an error of h11, trio or the system; leaving the context converts it, and an
                OSError of the caller's own code in the context too.
        """
        try:
            async with await trio.open_unix_socket(socket_path(self._directory, number)) as stream:
                http = h11.Connection(h11.CLIENT)
                headers = [("Host", "hedgehogd"), ("Accept", "text/event-stream")]
                request = h11.Request(method="GET", target=target, headers=headers)
                await stream.send_all((http.send(request) or b"") + (http.send(_ENDS) or b""))
                async with aclosing(_lines(stream, http)) as lines:
                    yield lines
        except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
            raise PeerGone(f"instance {number} ended the stream: {error}") from None

    def _client(self, number: int) -> httpx.AsyncClient:
        client = self._clients.get(number)
        if client is None:
            path = str(socket_path(self._directory, number))
            transport = httpx.AsyncHTTPTransport(verify=False, uds=path)  # no TLS
            # No timeout per read: ``ask`` has one deadline for the whole request.
            client = httpx.AsyncClient(transport=transport, timeout=None, trust_env=False)  # noqa: S113
            self._clients[number] = client
        return client


async def _lines(stream: trio.abc.Stream, http: h11.Connection) -> AsyncGenerator[bytes]:
    """Yield the text lines of the response body until it ends; an unfinished last one is lost.

    Raises PeerGone for a status other than 200, h11.RemoteProtocolError for an early end, and
    trio.BrokenResourceError for a broken connection.
    """
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


async def _has_ended(path: Path) -> bool:
    """Connect to ``path``; return True if no process listens there, so the instance has ended.

    A failed attempt of another kind does not prove it: False. Waits up to ``PEER_ANSWER_S``.
    """
    try:
        with trio.fail_after(limits.PEER_ANSWER_S):
            stream = await trio.open_unix_socket(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return True
    except (OSError, trio.TooSlowError):
        return False
    await stream.aclose()
    return False
