"""A REST service at the other end, that does as it is told. No sockets."""

import gzip
import json
from random import Random

import httpx
import trio

from hedgehogd.feeds.rest_client import RestClient


def reply(value=None, status=200, *, raw=None, packed=False, **headers):
    """Return a response that has not been read yet, as one from the network."""
    body = json.dumps(value).encode() if raw is None else raw
    fields = {name.replace("_", "-"): text for name, text in headers.items()}
    if packed:
        body, fields = gzip.compress(body), {**fields, "Content-Encoding": "gzip"}
    return httpx.Response(status, headers=fields, stream=httpx.ByteStream(body))


class Upstream(httpx.AsyncBaseTransport):
    """Answers by ``answer(request)``, which returns a response or raises.

    Attributes:
        seen: when what was asked: ``(seconds, "/path?query")``.
        open: requests in flight now; ``most`` the most there were.
        gate: answers wait for it.
    """

    def __init__(self, answer=None):
        self.seen = []
        self.requests = []
        self.open = self.most = 0
        self.gate = trio.Event()
        self.gate.set()
        self.answer = answer or (lambda request: reply({"path": request.url.path}))

    async def handle_async_request(self, request):
        self.requests.append(request)
        self.seen.append((trio.current_time(), request.url.raw_path.decode()))
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await self.gate.wait()
            found = self.answer(request)
            if isinstance(found, Exception):
                raise found
            return found
        finally:
            self.open -= 1

    @property
    def asked(self):
        return [path for _, path in self.seen]


def rest_client(transport):
    return RestClient("http://exchange.test", Random(1), transport=transport)
