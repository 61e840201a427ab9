"""Whole requests, through the real door, Hypercorn and the app: each gets its answer.

Heads are those of ``heads``, some with a body, complete or broken. A client that sends a complete
head and ends its side gets an HTTP answer, never a 500, and an error in the form of its path.
"""

import json
import socket
import tempfile
from pathlib import Path
from random import Random

import trio

from hedgehogd.app.daemon import make_instance
from hedgehogd.protocol.refusal import asked_path, error_object
from hedgehogd.settings.keys import Settings
from hedgehogd.streaming.door import Door
from hedgehogd.streaming.head import HEAD_END
from hedgehogd.streaming.outlet import OutletSettings
from hedgehogd.streaming.plane import StreamingPlane
from hedgehogd.web.app import make_app
from hedgehogd.web.server import control_handler
from tests.fuzz.heads import check_answer, head
from tests.fuzz.mutate import pieces
from tests.fuzz.queries import stream_query

_AT_ONCE = 16
_ANSWER_S = 20.0
_PATHS = (
    "/products", "/products/BTC-USD", "/products/stats", "/products/BTC-USD/trades",
    "/currencies/x", "/time", "/timeline", "/api/v1/subscribe/BTC-USD", "/api/v1/sessions/1.x",
    "/nowhere",
    "/api/v1/history/BTC-USD", "/api/v1/openapi.json", "/",
)  # fmt: skip
_METHODS = ("GET", "GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "BREW")
_BODIES = (
    "Content-Length: 2\r\n\r\n{}",
    "Content-Length: 9\r\n\r\n{}",
    "Content-Length: 0\r\n\r\nrest",
    "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n2\r\n{}",
    "Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n{}",
)


def request(random: Random) -> bytes:
    """Return the bytes that one client sends."""
    if random.random() < 0.3:
        return head(random)
    target = random.choice(_PATHS)
    if random.random() < 0.5:
        target += "?" + stream_query(random)
    line = f"{random.choice(_METHODS)} {target} HTTP/{random.choice(('1.1', '1.1', '1.0'))}"
    end = random.choice(_BODIES) if random.random() < 0.4 else "\r\n"
    return f"{line}\r\nHost: h\r\n{end}".encode("latin-1", "replace")


def check(sent: bytes, answer: bytes) -> None:
    """Check that ``answer`` is one answer to ``sent``, in the form of its method and path."""
    if answer.startswith(b"HTTP/1.1 100 ") and b"100-continue" in sent.lower():
        answer = answer.partition(b"\r\n\r\n")[2]  # the client asked for this interim answer
    check_answer(answer)
    whole = sent.lstrip(b"\r\n")
    if not answer:
        assert HEAD_END.search(whole) is None, sent
        return
    first, _, body = answer.partition(b"\r\n\r\n")
    status = int(first.split(b" ", 2)[1])
    if whole.startswith(b"HEAD "):
        assert body == b"", (sent, answer)
    elif status >= 400 and asked_path(whole) not in {"/readyz", "/healthz"}:
        # A first byte that begins no method is refused at once, perhaps before the path arrives.
        paths = [asked_path(whole)] if whole[0] > 0x20 else [asked_path(whole), ""]
        forms = [error_object(path, "", "").keys() for path in paths]
        assert json.loads(body).keys() in forms, (sent, answer)


async def _ask(path: str, random: Random) -> None:
    sent = request(random)
    parts, answer = pieces(random, sent), b""
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with sock, trio.fail_after(_ANSWER_S):
        await sock.connect(path)
        try:
            for part in parts:
                while part:
                    part = part[await sock.send(part) :]  # the rest
            sock.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # the request is refused already, with an answer
        try:
            while more := await sock.recv(65536):
                answer += more
                if b" 101 " in answer[:14] or b"\r\nHedgehog-Session: " in answer:
                    return  # a stream has no end of its own
        except ConnectionError:
            pass  # the server did not read the whole request
    check(sent, answer)


async def _run(random: Random, inputs: int) -> int:
    instance = make_instance(Settings())
    instance.pipe.catalogue.replace(frozenset({"BTC-USD", "ETH-USD"}))
    with tempfile.TemporaryDirectory(prefix="hedgehogd-fuzz-") as directory:
        path = str(Path(directory) / "door")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(_AT_ONCE)
        listener.setblocking(False)
        async with trio.open_nursery() as nursery:
            plane = StreamingPlane(instance, OutletSettings(nursery, instance.counts))
            door = Door(plane, control_handler(make_app(instance)))
            await nursery.start(door.run, listener, nursery)
            for begin in range(0, inputs, _AT_ONCE):
                async with trio.open_nursery() as clients:
                    for _ in range(min(_AT_ONCE, inputs - begin)):
                        clients.start_soon(_ask, path, random)
            nursery.cancel_scope.cancel()
    assert not instance.counts.refusals["bug"]
    return inputs


def fuzz_answers(random: Random, inputs: int) -> int:
    """Send ``inputs`` requests to one door with the whole control plane."""
    return trio.run(_run, random, inputs)
