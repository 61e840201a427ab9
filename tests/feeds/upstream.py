"""A scripted REST service, without sockets."""

import gzip
import json
from random import Random

import httpx
import trio

from hedgehogd.feeds.rest_client import RestClient


def reply(value=None, status=200, *, raw=None, packed=False, **headers):
    """Return a response with an unread body, as one from the network has."""
    body = json.dumps(value).encode() if raw is None else raw
    fields = {name.replace("_", "-"): text for name, text in headers.items()}
    if packed:
        body, fields = gzip.compress(body), {**fields, "Content-Encoding": "gzip"}
    return httpx.Response(status, headers=fields, stream=httpx.ByteStream(body))


class Upstream(httpx.AsyncBaseTransport):
    """Answers by ``answer(request)``, which returns a response or raises.

    Attributes:
        seen: time and target of each request: ``(seconds, "/path?query")``.
        open: number of requests in flight; ``most`` is its maximum.
        gate: an event that all answers wait for.
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
