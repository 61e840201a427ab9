"""Query strings: of streams, as the door reads them, and of REST requests, through the app.

Values are valid, extreme or damaged. The query of a stream is read, or refused as a client's
mistake. A REST request is answered below 500, or with 503 if it needs the exchange, which does not
exist here. The archive is intact, so no query makes history unavailable.
"""

import tempfile
from pathlib import Path
from random import Random

import trio

from hedgehogd.app.daemon import make_instance
from hedgehogd.domain.channel import CHANNELS
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.log.past import ArchivePast
from hedgehogd.settings.keys import Settings
from hedgehogd.streaming.head import BadHead, read_head
from hedgehogd.streaming.request import read_stream_request
from hedgehogd.web.app import make_app
from tests.fuzz.mutate import ODD_VALUES, damaged
from tests.log.past import BTC, NOW, usual, write

_REST_SHARE = 20
"""One of this many queries goes through the app, which takes about fifty times as long."""

_INSTANTS = (
    "-5m",
    "-1d",
    "-0s",
    "-999999999d",
    "-99999999999999999999d",
    "5m",
    "0",
    "1",
    "10",
    "9007199254740991",
    "9007199254740993",
    "1000000000000000000",
    "9" * 30,
    "-1",
    "+1",
    "1.5",
    "2026-01-31T12:00:00Z",
    "2026-01-31T12:00:00+00:00",
    "2026-01-31T12:00:00%2B00:00",
    "2026-01-31T12:00:00.123456789Z",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:60Z",
    "2026-13-01T00:00:00Z",
    "2026-01-31",
    "now",
    "",
    "1790000000",
    "1e9",
    "NaN",
    "2026-01-31T12:00:00-23:59",
    "2026-01-31T24:00:00Z",
)
_NUMBERS = (
    "0",
    "1",
    "2",
    "3",
    "100",
    "1000",
    "100001",
    "-1",
    "+5",
    "1.0",
    "1e3",
    "",
    " 1",
    "٣",
    "0x1",
    "60",
    "86400",
    "9" * 16,
    "9" * 19,
    "9" * 400,
    "null",
    "true",
)
_WORDS = (
    "true",
    "false",
    "1",
    "",
    "close",
    "conflate",
    "fail",
    "skip",
    "none",
    "csv",
    "json",
    "ndjson",
    "sse",
    "BTC-USD",
    "btc-usd,eth-usd",
    "*",
    "*-USD",
    ",",
    "x,",
    "matches",
    "ticker,matches",
    "nothing",
    "level3",
    "user",
    "asc",
    "desc",
)
_VALUES_BY_NAME = {
    "pairs": _WORDS,
    "channels": _WORDS,
    "policy": _WORDS,
    "format": _WORDS,
    "strict": _WORDS,
    "notices": _WORDS,
    "missing": _WORDS,
    "channel": tuple(c.name for c in CHANNELS),
    "alone": _WORDS,
    "since": _INSTANTS,
    "until": _INSTANTS,
    "start": _INSTANTS,
    "end": _INSTANTS,
    "last_event_id": ("matches:BTC-USD@5", "5", "@", "a:b@-1", "matches:BTC-USD@" + "9" * 30, ""),
    "speed": (*_NUMBERS, "0.5", "inf", "-0", "nan"),
    "limit": _NUMBERS,
    "after": _NUMBERS,
    "before": _NUMBERS,
    "level": _NUMBERS,
    "granularity": _NUMBERS,
    "session": ("1.x", "9.x", ""),
    "pair": _WORDS,
    "order": _WORDS,
    "times": ("0", "1", "2", "true", ""),
}
_NAMES = tuple(_VALUES_BY_NAME)
_STREAM_PATHS = ("/api/v1/stream", "/api/v1/subscribe/BTC-USD")
_NAMES_OF_STREAMS = (
    "pairs",
    "channels",
    "policy",
    "strict",
    "since",
    "until",
    "speed",
    "last_event_id",
    "format",
    "notices",
)
_REST_PATHS = {
    "/api/v1/history/BTC-USD": (
        "channel",
        "start",
        "end",
        "limit",
        "after",
        "format",
        "order",
        "times",
        "since",
    ),
    "/products/BTC-USD/trades": ("limit", "before", "after"),
    "/products/BTC-USD/candles": ("start", "end", "granularity"),
    "/products/BTC-USD/book": ("level",),
    "/products/BTC-USD/ticker": (),
    "/api/v1/sessions/1.x": ("session",),
    "/readyz": (),
}
_ACCEPTS = (
    "*/*",
    "application/json",
    "text/csv",
    "application/x-ndjson",
    "x",
    "",
    "application/json;q=0",
)


def _query(random: Random, names: tuple[str, ...]) -> str:
    """Return a query of up to eight parameters, mostly from ``names``, each once."""
    count = random.choice((0, 1, 1, 2, 2, 3, 4, 8))
    chosen = random.sample(names, min(count, len(names)))
    if random.random() < 0.05:
        chosen.append(random.choice(_NAMES))
    parts = []
    for name in chosen:
        value = random.choice(_VALUES_BY_NAME[name])
        draw = random.random()
        if draw < 0.08:
            value = str(random.choice(ODD_VALUES))
        elif draw < 0.12:
            value = damaged(random, value.encode()).decode("latin-1")
        elif draw < 0.14:
            value = "".join(f"%{byte:02X}" for byte in value.encode())
        elif draw < 0.15:
            value = random.choice(("%", "%zz", "%ff", "%00", "a" * 3000, "+", ";", "=", "&&"))
        spelt = name if draw > 0.01 else random.choice((name.upper(), name[:-1], ""))
        parts.append(value if 0.01 < draw < 0.015 else f"{spelt}={value}")
    return "&".join(parts)


def stream_query(random: Random) -> str:
    """Return the query of a stream's URL."""
    return _query(random, _NAMES_OF_STREAMS)


def _read_as_stream(random: Random) -> None:
    """Read one query as the door does."""
    target = f"{random.choice(_STREAM_PATHS)}?{stream_query(random)}"
    accept = random.choice(("*/*", "text/event-stream", "application/x-ndjson"))
    data = f"GET {target} HTTP/1.1\r\nHost: h\r\nAccept: {accept}\r\n\r\n".encode(
        "utf-8", "replace"
    )
    status = 400
    try:
        read_stream_request(read_head(data), NOW)
    except (BadHead, SubscriberError) as error:
        status = error.status
    assert 400 <= status < 500, target


async def _ask(client, random: Random) -> None:
    """Send a request to the app with any bytes that a client's library may quote."""
    path, names = random.choice(list(_REST_PATHS.items()))
    query = _query(random, names).encode("utf-8", "surrogatepass")
    quoted = "".join(chr(b) if 0x20 < b < 0x7F and b != 0x23 else f"%{b:02X}" for b in query)
    headers = {"Accept": random.choice(_ACCEPTS)}
    answer = await client.get(f"{path}?{quoted}", headers=headers)
    body = await answer.get_data()
    asks_exchange = path.startswith("/products") or path == "/readyz"  # which does not exist here
    allowed = (503,) if asks_exchange else ()
    assert answer.status_code < 500 or answer.status_code in allowed, (path, quoted, body)


async def _run(random: Random, inputs: int) -> int:
    instance = make_instance(Settings())
    instance.pipe.catalogue.replace(frozenset({"BTC-USD", "ETH-USD"}))
    with tempfile.TemporaryDirectory(prefix="hedgehogd-fuzz-") as directory:
        archive = write(Path(directory), usual())
        past = instance.pipe.resumes.past = ArchivePast(archive, frozenset({BTC}))
        client = make_app(instance).test_client()
        for number in range(inputs):
            if number % _REST_SHARE:
                _read_as_stream(random)
            else:
                with trio.fail_after(30):
                    await _ask(client, random)
        await past.close()
    assert not instance.counts.refusals["bug"]
    return inputs


def fuzz_queries(random: Random, inputs: int) -> int:
    """Read ``inputs`` query strings."""
    return trio.run(_run, random, inputs)
