"""One request, to a service that is not trusted."""

import contextlib
import gc
import gzip
import json
import re
import zlib
from functools import partial

import httpx
import pytest
import trio
import trio.testing

from hedgehogd.feeds.rest_cache import Answer
from hedgehogd.feeds.rest_request import HEADERS, _Body, ask
from tests.feeds.upstream import Upstream, reply


async def asked(answer, query=()):
    upstream = answer if isinstance(answer, Upstream) else Upstream(lambda _: answer)
    async with httpx.AsyncClient(
        base_url="http://exchange.test", headers=HEADERS, transport=upstream
    ) as client:
        answer, error = await ask(client, "/products", query)
    return answer, error, upstream


async def test_body_and_cursors_of_an_answer_are_unchanged():
    """Clients use the cursors for paging."""
    answer, error, upstream = await asked(
        reply([1], CB_BEFORE="9", cb_after="3"), (("after", "10"), ("limit", "7"))
    )

    assert (answer, error) == (Answer(200, b"[1]", "9", "3"), "")
    assert upstream.asked == ["/products?after=10&limit=7"]
    headers = upstream.requests[0].headers
    assert re.fullmatch(r"hedgehogd/\S+", headers["user-agent"])
    assert headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("cursor", ["", "x", "1\u0661", "-1", "1" * 17])
async def test_a_cursor_that_is_not_a_number_is_dropped(cursor):
    """It would be copied into a header of hedgehogd's answer."""
    answer, _, _ = await asked(reply([1], cb_before=cursor.encode()))

    assert (answer.before, answer.after) == ("", "")


async def test_a_packed_answer_is_unpacked():
    """A level-2 book has 2 MB, compressed a tenth of that."""
    answer, error, _ = await asked(reply({"a": [1] * 9999}, packed=True))

    assert (json.loads(answer.body), error) == ({"a": [1] * 9999}, "")


HUGE = b'["' + b"x" * 17_000_000 + b'"]'


@pytest.mark.parametrize(
    ("answer", "status", "message", "error"),
    [
        (reply({"message": "NotFound"}, 404), 404, "NotFound", ""),
        (reply(raw=b"<html>", status=404), 404, "NotFound", ""),
        (reply({"message": "unexpected level: _"}, 400), 400, "unexpected level: _", ""),
        (reply(raw=b"x" * 5000, status=400), 400, "Bad Request", ""),
        (reply(raw=b"<html>", status=400, Content_Encoding="gzip"), 400, "Bad Request", ""),
        (reply({"message": "no"}, 503), 502, "the exchange answered HTTP 503 no", "status_5xx"),
        (reply(raw=b"", status=301, Location="/x"), 502, "the exchange answered HTTP 301",
         "status_3xx"),
        (reply({}, 403), 502, "the exchange answered HTTP 403", "status_4xx"),
        (httpx.ConnectError("refused"), 502, "the exchange cannot be reached: refused",
         "unreachable"),
        (httpx.RemoteProtocolError(""), 502, "the exchange cannot be reached: RemoteProtocolError",
         "unreachable"),
        (OSError("no route"), 502, "the exchange cannot be reached: no route", "unreachable"),
        (httpx.ReadTimeout(""), 504, "the exchange did not answer in time", "timeout"),
        (reply(raw=b"<html>log in"), 502,
         "the exchange's answer cannot be read: not JSON", "unreadable"),
        (reply(raw=b""), 502,
         "the exchange's answer cannot be read: not JSON", "unreadable"),
        (reply(raw=HUGE), 502,
         "the exchange's answer cannot be read: over 16777216 bytes", "unreadable"),
        (reply(raw=HUGE, packed=True), 502,
         "the exchange's answer cannot be read: over 16777216 bytes", "unreadable"),
        (reply(raw=gzip.compress(b"[1,2]")[:-9], Content_Encoding="gzip"), 502,
         "the exchange's answer cannot be read: truncated", "unreadable"),
        (reply([1], Content_Encoding="gzip"), 502,
         ("the exchange's answer cannot be read: Error -3 while decompressing data: "
          "incorrect header check"), "unreadable"),
        (reply([1], Content_Encoding="br"), 502,
         "the exchange's answer cannot be read: its encoding is br", "unreadable"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
async def test_every_failure_has_a_status_a_message_and_a_label(answer, status, message, error):
    """No exception is raised, and no body of unknown size is kept."""
    got, why, _ = await asked(answer)

    assert (got.status, got.message, why) == (status, message, error)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("7", 7.0), ("", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), ("-1", 0.0), ("9" * 30, 0.0),
     ("86400", 300.0)],
)  # fmt: skip
async def test_a_429_has_its_retry_after(value, expected):
    """A wrong value must not cause a day of silence."""
    got, why, _ = await asked(reply({}, 429, Retry_After=value))

    assert (got.status, got.retry_after_s, why) == (429, expected, "limited")


async def test_reading_stops_when_an_answer_is_too_large():
    """The rest may be gigabytes; parts that have arrived already are dropped."""
    left = []

    class Parts(httpx.AsyncByteStream):
        async def __aiter__(self):
            try:
                for _ in range(20):
                    yield b"[" * 1_000_000
                await trio.sleep_forever()
            finally:
                left.append(True)

    got, why, _ = await asked(httpx.Response(200, stream=Parts()))

    assert (got.status, why, left) == (502, "unreadable", [True])


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_body_never_takes_more_than_it_may(is_packed):
    """A kilobyte may unpack to a megabyte, and more parts may follow."""
    body = _Body(1000, is_packed=is_packed)
    part = b"[" * 600
    packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    sizes = []
    for _ in range(4):
        packed = packer.compress(part * 500) + packer.flush(zlib.Z_SYNC_FLUSH)
        body.take(packed if is_packed else part)
        sizes.append(len(body._body))

    assert sizes == ([1001] * 4 if is_packed else [600, 1200, 1200, 1200])


@pytest.mark.e2e
async def test_a_real_connection_is_left_at_once(nursery):
    """httpx reads by nested generators, and none may be left to the garbage collector."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\nSet-Cookie: a=b\r\n\r\n"

    async def serve(stream):
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(head)
            while True:
                await stream.send_all(b"[" * 1_000_000)

    listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
    port = listeners[0].socket.getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        with trio.fail_after(10):
            got, why = await ask(client, "/products", ())
        assert not client.cookies
    gc.collect()
    await trio.testing.wait_all_tasks_blocked(0.01)

    assert (got.status, why) == (502, "unreadable")


async def test_an_endless_answer_ends_in_time(autojump_clock):
    """One byte a second prevents every read timeout."""

    class Drip(httpx.AsyncByteStream):
        async def __aiter__(self):
            while True:
                await trio.sleep(1)
                yield b" "

    got, why, _ = await asked(httpx.Response(200, stream=Drip()))

    assert (got.status, why, trio.current_time()) == (504, "timeout", 10)
