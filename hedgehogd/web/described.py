"""What the description of the HTTP API says about each route. Data.

``PATHS`` is path → method → operation, as OpenAPI 3.1 has it.
"""

from hedgehogd.web.reads import GRANULARITIES
from hedgehogd.web.schemas import (
    BOOLEAN,
    NUMBER,
    TEXT,
    TIME,
    Described,
    in_query,
    json_answer,
    list_of,
    object_of,
    operation,
    parameter,
    ref,
)

TAGS = {
    "streams": "Market data as it comes. A stream needs a connection of its own.",
    "control": "Start and stop pairs on an open stream, named by its session id.",
    "exchange": "Reads in Coinbase's shapes, from what is held here or from the exchange's "
    'REST service, asked once for all. Errors are `{"message":…}`.',
    "history": "What was, as far as it is kept (`--history`).",
    "health": "For balancers, monitoring and people.",
    "operator": "For operators: on the operator listener (`--operator-bind`) and the runtime "
    "socket alone, 404 on the stream port.",
}

_PAIR = parameter(
    "path",
    "pair",
    "a product, as the exchange lists it",
    TEXT | {"examples": ["BTC-USD"]},
    required=True,
)
_SESSION = (
    parameter("header", "Hedgehog-Session", "the stream's session id", TEXT),
    in_query("session", "the same, for those who cannot set headers", TEXT),
)
_CHANNELS = in_query("channels", "names, separated by commas; default `ticker,matches`", TEXT)
_POLICY = in_query(
    "policy",
    "what happens when you read too slowly",
    {
        "type": "string",
        "enum": ["close", "conflate"],
        "default": "close",
    },
)
_LAST_SEEN = {"Hedgehog-Session": {"description": "the key to this stream", "schema": TEXT}}


def _errors(**texts: str) -> Described:
    """Return answers in hedgehogd's form; names are statuses after an underscore."""
    return {name.strip("_"): json_answer(text, ref("Error")) for name, text in texts.items()}


def _stream(summary: str, *parameters: Described) -> Described:
    data = {
        "application/x-ndjson": {"schema": TEXT | {"description": "one message or notice a line"}},
        "text/event-stream": {"schema": TEXT | {"description": "one message an event"}},
    }
    return operation(
        "streams",
        summary,
        {
            "101": {"description": "a WebSocket, when an upgrade was asked for"},
            "200": {
                "description": "NDJSON, or server-sent events as `Accept` asks",
                "headers": _LAST_SEEN,
                "content": data,
            },
            **_errors(
                _400="unknown channel, bad handshake",
                _404="unknown pair",
                _406="neither form is acceptable",
                _503="too many subscribers",
            ),
        },
        *parameters,
        _CHANNELS,
        _POLICY,
        in_query(
            "since", "resume after a sequence, or from a time or an age such as `-5m` on", TEXT
        ),
        parameter("header", "Last-Event-ID", "resume after the event of this id; SSE only", TEXT),
        in_query("last_event_id", "the same, for clients that cannot set headers", TEXT),
        in_query("speed", "replay so many times as fast as it was; 0: as fast as you read", NUMBER),
        in_query("until", "end the replay before a time or an age; without it, be live then", TEXT),
        in_query("strict", "all that follows, or the stream ends", BOOLEAN),
        in_query("format", "instead of `Accept`", {"type": "string", "enum": ["ndjson", "sse"]}),
        in_query(
            "notices",
            "NDJSON: the exchange's messages alone; a gap ends the stream",
            {"type": "string", "enum": ["none"]},
        ),
    )


def _websocket(summary: str) -> Described:
    answers = {"101": {"description": "a WebSocket", "headers": _LAST_SEEN}}
    refused = _errors(_400="bad handshake", _426="no upgrade was asked for", _503="full")
    return operation("streams", summary, answers | refused)


def _change(summary: str) -> Described:
    body = {"content": {"application/json": {"schema": ref("Wishes")}}}
    return operation(
        "control",
        summary,
        {
            "200": json_answer("all that the stream is subscribed to now", ref("Subscriptions")),
            **_errors(
                _400="unknown channel, no session, bad body",
                _403="a channel that is private, or that the exchange does not give us",
                _404="unknown pair or session",
                _413="the body is too large",
                _429="the stream has no room for that",
                _504="the instance that has the stream does not answer",
            ),
        },
        _PAIR,
        *_SESSION,
        in_query("channels", "names, separated by commas; see the summary for none", TEXT),
        _POLICY,
        requestBody=body,
    )


def _read(summary: str, schema: Described, *parameters: Described, **headers: str) -> Described:
    """Return the description of a read of the exchange's REST service."""
    sent = {
        name.replace("_", "-"): {"description": text, "schema": TEXT}
        for name, text in headers.items()
    }
    wait = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    refused = ref("ExchangeError")
    answers = {
        "200": json_answer("as the exchange answers", schema, sent),
        "404": json_answer("unknown here, or to the exchange", refused),
        "502": json_answer("the exchange cannot be reached or understood", refused),
        "503": json_answer(
            "it must not be asked now, or cannot be: a recording has no REST", refused, wait
        ),
        "504": json_answer("it did not answer in time", refused),
    }
    if parameters and parameters[-1]["in"] == "query":
        answers["400"] = json_answer("a value in the query cannot be", refused)
    return operation("exchange", summary, answers, *parameters)


def _plain(summary: str, media: str, tag: str = "health") -> Described:
    answers = {"200": {"description": "as it is now", "content": {media: {"schema": TEXT}}}}
    return operation(tag, summary, answers)


_ALIVE = object_of(("status",), status={"type": "string", "enum": ["alive", "draining"]})
_READY = object_of(("ready", "reason"), ready=BOOLEAN, reason=TEXT)
_CURRENCY = object_of(("id", "name"), id=TEXT, name=TEXT)

PATHS: dict[str, dict[str, Described]] = {
    "/": {"get": _plain("The status page; with an upgrade the same as /ws-feed", "text/html")},
    "/ws-feed": {"get": _websocket("Coinbase's own protocol, strictly")},
    "/ws": {"get": _websocket("The same, with hedgehogd's notices")},
    "/api/v1/stream": {
        "get": _stream(
            "A stream of several pairs, or of none yet",
            in_query("pairs", "products, separated by commas", TEXT),
        )
    },
    "/api/v1/subscribe/{pair}": {
        "get": _stream("A stream of one pair", _PAIR),
        "post": _change("Start a pair on an open stream; without channels ticker and matches"),
        "delete": _change("Stop a pair on an open stream; without channels all of them"),
    },
    "/api/v1/sessions/{session_id}": {
        "get": operation(
            "control",
            "What a stream is subscribed to, and how it is doing",
            {
                "200": json_answer("now", ref("Session")),
                **_errors(
                    _404="no open stream has this id",
                    _504="the instance that has the stream does not answer",
                ),
            },
            parameter("path", "session_id", "the key to the stream", TEXT, required=True),
        )
    },
    "/api/v1/health": {
        "get": operation(
            "health",
            "How this instance is; no addresses",
            {"200": json_answer("now", ref("Health"))},
        )
    },
    "/api/v1/instances": {
        "get": operation(
            "operator",
            "How each instance of this machine is",
            {"200": json_answer("now, or half a second ago", ref("Instances"))},
        )
    },
    "/api/v1/history/{pair}": {
        "get": operation(
            "history",
            "What is kept of one channel, oldest first",
            {
                "200": {
                    "description": "as `Accept` asks; JSON is `{messages, gaps, after}`",
                    "headers": {
                        "Hedgehog-After": {
                            "description": "more follow: ask again with `after` of this value",
                            "schema": TEXT,
                        },
                        "Hedgehog-Gaps": {
                            "description": "how many gaps are among them",
                            "schema": {"type": "integer"},
                        },
                    },
                    "content": {
                        "application/x-ndjson": {"schema": TEXT},
                        "application/json": {"schema": object_of()},
                        "text/csv": {"schema": TEXT},
                    },
                },
                **_errors(
                    _400="a value in the query cannot be",
                    _404="nothing is kept here, or not of that",
                    _406="none of the forms is acceptable",
                    _503="the store cannot be read now",
                ),
            },
            _PAIR,
            in_query("channel", "default `matches`", TEXT),
            in_query("start", "a time or an age such as `-5m`; default the oldest", TEXT),
            in_query("end", "the same, not included; default now", TEXT),
            in_query("limit", "messages; default 1000, at most 100000", NUMBER | {"minimum": 1}),
            in_query(
                "format",
                "instead of `Accept`",
                {"type": "string", "enum": ["ndjson", "json", "csv"]},
            ),
            in_query("after", "the `Hedgehog-After` of the answer before", NUMBER),
        )
    },
    "/api/v1/lines": {
        "get": operation(
            "operator",
            "How each upstream line is, and what having two has saved",
            {"200": json_answer("now", ref("Lines"))},
        )
    },
    "/api/v1/openapi.json": {
        "get": operation(
            "health", "This document", {"200": json_answer("OpenAPI 3.1", object_of())}
        )
    },
    "/healthz": {
        "get": operation(
            "health",
            "Is the process well?",
            {"200": json_answer("yes", _ALIVE), "503": json_answer("it is going down", _ALIVE)},
        )
    },
    "/readyz": {
        "get": operation(
            "health",
            "Should subscribers be sent here?",
            {"200": json_answer("yes", _READY), "503": json_answer("no, and why", _READY)},
        )
    },
    "/metrics": {"get": _plain("Prometheus metrics", "text/plain", "operator")},
    "/products": {"get": _read("All products that are served", list_of(ref("Product")))},
    "/products/stats": {
        "get": _read("24 hours and 30 days of all products, by product", object_of())
    },
    "/products/volume-summary": {"get": _read("Volumes of all products", list_of(object_of()))},
    "/products/spark-lines": {
        "get": _read("Prices of the last day, `[time, price]` rows by product", object_of())
    },
    "/products/{pair}": {"get": _read("One product", ref("Product"), _PAIR)},
    "/products/{pair}/book": {
        "get": _read(
            "The order book",
            ref("Book"),
            _PAIR,
            in_query(
                "level",
                "1 the best, 2 all prices, 3 all orders",
                {
                    "type": "integer",
                    "enum": [1, 2, 3],
                    "default": 1,
                },
            ),
        )
    },
    "/products/{pair}/trades": {
        "get": _read(
            "Trades, newest first",
            list_of(ref("Trade")),
            _PAIR,
            in_query(
                "limit",
                "at most 1000, and no more are given",
                {
                    "type": "integer",
                    "minimum": 1,
                    "default": 1000,
                },
            ),
            in_query("before", "the newest trades above this id", NUMBER),
            in_query("after", "the trades just below this id", NUMBER),
            cb_before="the newest trade id on the page",
            cb_after="the oldest trade id on the page",
        )
    },
    "/products/{pair}/candles": {
        "get": _read(
            "Candles, newest first; at most 300",
            list_of(ref("Candle")),
            _PAIR,
            in_query(
                "granularity",
                "seconds",
                {
                    "type": "integer",
                    "enum": list(GRANULARITIES),
                    "default": 60,
                },
            ),
            in_query("start", "ISO 8601, or seconds since 1970", TEXT),
            in_query("end", "ISO 8601, or seconds since 1970", TEXT),
        )
    },
    "/products/{pair}/ticker": {"get": _read("The last trade", ref("Ticker"), _PAIR)},
    "/products/{pair}/stats": {"get": _read("The last 24 hours", object_of(), _PAIR)},
    "/currencies": {"get": _read("All currencies", list_of(_CURRENCY))},
    "/currencies/{currency}": {
        "get": _read(
            "One currency",
            _CURRENCY,
            parameter("path", "currency", "for example BTC", TEXT, required=True),
        )
    },
    "/time": {
        "get": operation(
            "exchange",
            "This instance's clock",
            {
                "200": json_answer(
                    "now", object_of(("iso", "epoch"), iso=TIME, epoch={"type": "number"})
                )
            },
        )
    },
}
