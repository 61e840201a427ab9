"""Secrets of the feed's URL reach the exchange, and no text that is shown.

The exchange is a plain byte server, because the simulator has no passwords. It sends each kind of
answer of an exchange or a proxy, and repeats in it everything that it received.
"""

import base64
import contextlib
import hashlib
import io
import json
import logging
import random
import string
import sys
from functools import partial
from urllib.parse import quote

import pytest
import structlog
import trio

from hedgehogd.cli import _status_of, run
from hedgehogd.domain.errors import FeedError
from hedgehogd.domain.secret import NO_SECRETS
from hedgehogd.logs import setup as logs
from hedgehogd.logs.setup import configure_logs
from hedgehogd.protocol.frames import encode_close, encode_text
from hedgehogd.settings.keys import Settings
from tests.e2e.harness import PATIENCE_S, HttpStream, free_port, quick, running

pytestmark = pytest.mark.e2e

CHARACTERS = string.ascii_letters + string.digits + "/?#@:%&=+ é€\"'\\"
_REPORTED = {"feed lost", "the feed cannot be reached", "upstream error"}
PATHS = (
    "/", "/readyz", "/metrics", "/api/v1/health", "/api/v1/lines", "/api/v1/instances",
    "/products", "/products/BTC-USD/candles", "/products/BTC-USD/stats",
)  # fmt: skip
UPGRADE = "upgrade: websocket"
TLS_HANDSHAKE = b"\x16"


class Secret:
    """User, password and token of one test, and their forms on the wire."""

    def __init__(self, seed):
        rng = random.Random(seed)
        self.values = ["".join(rng.choices(CHARACTERS, k=16)).strip() for _ in range(3)]
        user, password, token = self.values
        self.userinfo = f"{quote(user, safe='')}:{quote(password, safe='')}"
        self.query = f"token={quote(token, safe='')}"
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.authorization = f"Basic {pair}"
        self.values += [pair, *(quote(value, safe="") for value in self.values)]

    def url(self, scheme, host, port):
        return f"{scheme}://{self.userinfo}@{host}:{port}/ws?{self.query}"

    def found_in(self, text):
        forms = {form for value in self.values for form in (value, json.dumps(value)[1:-1])}
        return sorted(form for form in forms if form.lower() in text.lower())


class Exchange:
    """A server that answers in the way ``how``.

    Attributes:
        heads: received request heads: of the handshake, and of REST.
        port: port of its listener.
    """

    def __init__(self, how, secret):
        self.how = how
        self.secret = secret
        self.heads = []

    async def run(self, *, task_status):
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, self._serve, 0, host="127.0.0.1")
            listeners = await nursery.start(serve)
            self.port = listeners[0].socket.getsockname()[1]
            task_status.started()

    async def _serve(self, stream):
        with contextlib.suppress(trio.BrokenResourceError):
            async with stream:
                head = b""
                while b"\r\n\r\n" not in head:
                    data = await stream.receive_some()
                    if not data or data.startswith(TLS_HANDSHAKE):
                        return
                    head += data
                await self._answer(stream, head.decode())

    def _echo(self, head):
        return " ".join([head, self.secret.userinfo, *self.secret.values])

    async def _answer(self, stream, head):
        self.heads.append(head)
        if UPGRADE not in head.lower():
            body = json.dumps({"message": self._echo(head)}).encode()
            status = {"401": 401, "403": 403, "redirect": 302}.get(self.how, 404)
            await stream.send_all(self._http(status, body))
            return
        if self.how in {"401", "403", "500", "redirect"}:
            status = 302 if self.how == "redirect" else int(self.how)
            await stream.send_all(self._http(status, self._echo(head).encode()))
            return
        key = head.lower().partition("sec-websocket-key: ")[2].partition("\r\n")[0]
        at = head.lower().index(key)
        token = head[at : at + len(key)].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(token).digest())
        await stream.send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
        )
        if self.how == "close":
            await stream.send_all(encode_close(4000, self.secret.values[-1]))
            return
        for value in (self._echo(head), *self.secret.values):
            for kind in ("error", value):
                text = json.dumps({"type": kind, "message": value, "reason": f"{value} failed"})
                await stream.send_all(encode_text(text.encode()))
            refusal = f"{value} is not a valid product"
            text = json.dumps({"type": "error", "message": refusal, "reason": refusal})
            await stream.send_all(encode_text(text.encode()))
        while await stream.receive_some():
            pass

    def _http(self, status, body):
        location = f"Location: /{self.secret.userinfo}?{self.secret.query}\r\n"
        head = f"HTTP/1.1 {status} Whatever\r\n{location}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


@pytest.fixture
def logged(monkeypatch):
    """Configure the daemon's own log at its most detailed level; return its reader."""
    out, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", out)
    configure_logs("debug", "json")
    yield out.getvalue
    root.handlers[:] = handlers
    root.setLevel(level)
    logs._lines.secrets = NO_SECRETS
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


async def shown_by(port):
    """Return every text that a subscriber or an operator can read from the daemon."""
    texts = []
    for path in PATHS:
        answer = await HttpStream.open(port, path, Accept="*/*")
        assert answer.status != 404 or path.startswith("/products"), path
        texts.append(f"{answer.headers} {(await answer.body()).decode()}")
    return texts


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "how", ["live", "close", "401", "403", "500", "redirect", "refused", "dns", "tls"]
)
async def test_no_text_shows_a_secret_for_any_answer_of_the_exchange(
    logged, capsys, monkeypatch, how, seed
):
    """Users paste the log and `config` into bug reports; a relay's subscribers see its errors."""
    secret = Secret(f"{how} {seed}")
    exchange = Exchange(how, secret)
    texts, error = [], None
    async with trio.open_nursery() as nursery:
        await nursery.start(exchange.run)
        scheme = "wss" if how == "tls" else "ws"
        host = "nobody.invalid" if how == "dns" else "127.0.0.1"
        port = free_port() if how == "refused" else exchange.port
        url = secret.url(scheme, host, port)
        operator_port = free_port()  # it serves all routes of the stream port, and more
        settings = quick(
            feed_where=url,
            feed_pairs=("BTC-USD",),
            history_where="none",
            serve_operator_bind=f"127.0.0.1:{operator_port}",
        )
        try:
            async with running(settings):
                with trio.fail_after(PATIENCE_S):
                    while not (_REPORTED & events(logged())):
                        await trio.sleep(0.05)
                texts += await shown_by(operator_port)
        except BaseExceptionGroup as group:
            error = group
        nursery.cancel_scope.cancel()
    if error is not None:
        _status_of(error)
    run(["config", "--feed", url])
    out, _ = capsys.readouterr()
    texts += [logged(), out, repr(settings), repr(Settings(feed_where=url))]

    assert (error is not None) == (how in {"401", "403"})
    assert error is None or error.split(FeedError)[1] is None
    for text in texts:
        assert secret.found_in(text) == []
    handshakes = [head for head in exchange.heads if UPGRADE in head.lower()]
    if how not in {"refused", "dns", "tls"}:
        assert f"GET /ws?{secret.query} HTTP/1.1" in handshakes[0]
        assert all(f"authorization: {secret.authorization}" in unfolded(h) for h in exchange.heads)
        assert how in {"401", "403"} or len(exchange.heads) > len(handshakes)


def events(text):
    return {json.loads(line)["event"] for line in text.splitlines()}


def unfolded(head):
    """Return a head with lower-case names."""
    rows = [row.partition(":") for row in head.split("\r\n")]
    return "\r\n".join(f"{name.lower()}{colon}{value}" for name, colon, value in rows)
