"""Simulated instances: they show the requests that HAProxy forwards, and fail on command."""

import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import trio

from tests.cluster.harness import Proxy, free_numbers


class MadeUpInstance:
    """A server that is ready and answers a request with its number and the request's head.

    On the stream's path it sends, 40 times, two lines with the time at which it did so.

    Attributes:
        visits: number of requests, without health checks.
        is_mute: it closes connections without an answer.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.visits = 0
        self.is_mute = False
        self._serving = trio.CancelScope()

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled, or until ``leave``."""
        listeners = await trio.open_tcp_listeners(8000 + self.number, host="127.0.0.1")
        task_status.started()
        with self._serving:
            await trio.serve_listeners(self._answer, listeners)

    def leave(self) -> None:
        """Stop serving."""
        self._serving.cancel()

    async def _answer(self, stream: trio.SocketStream) -> None:
        head = b""
        with contextlib.suppress(trio.BrokenResourceError):
            async with stream:
                while b"\r\n\r\n" not in head:
                    data = await stream.receive_some()
                    if not data:
                        return
                    head += data
                is_check = head.startswith((b"GET /readyz", b"GET /healthz"))
                self.visits += not is_check
                if self.is_mute and not is_check:
                    return
                await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n")
                if head.startswith(b"GET /api/v1/stream"):
                    await self._stream(stream)
                    return
                body = json.dumps({"number": self.number, "head": head.decode()}).encode()
                await stream.send_all(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    async def _stream(self, stream: trio.SocketStream) -> None:
        await stream.send_all(b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(40):
            for _ in range(2):
                line = f"{time.monotonic():<400}\n".encode()
                await stream.send_all(b"%x\r\n%b\r\n" % (len(line), line))
            await trio.sleep(0.02)
        await stream.send_all(b"0\r\n\r\n")


@contextlib.asynccontextmanager
async def made_up(
    folder: Path, count: int, **changes: object
) -> AsyncIterator[tuple[Proxy, dict[int, MadeUpInstance]]]:
    """Run HAProxy in front of simulated instances."""
    instances = {number: MadeUpInstance(number) for number in free_numbers(count)}
    async with trio.open_nursery() as nursery:
        for instance in instances.values():
            await nursery.start(instance.serve)
        proxy = await trio.to_thread.run_sync(lambda: Proxy(folder, tuple(instances), **changes))
        try:
            await trio.to_thread.run_sync(proxy.wait_all_up)
            yield proxy, instances
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(proxy.stop)
            nursery.cancel_scope.cancel()
