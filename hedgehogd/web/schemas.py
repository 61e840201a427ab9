"""The things that the HTTP API speaks of, and the words to describe it in OpenAPI 3.1."""

from typing import Any

from hedgehogd.domain.channel import BY_ALIAS

Described = dict[str, Any]


def ref(schema: str) -> Described:
    """Return a reference to one of ``SCHEMAS``."""
    return {"$ref": f"#/components/schemas/{schema}"}


def json_answer(text: str, schema: Described, headers: Described | None = None) -> Described:
    """Return an answer whose body is JSON."""
    answer: Described = {"description": text, "content": {"application/json": {"schema": schema}}}
    return answer | ({"headers": headers} if headers else {})


def parameter(
    where: str, name: str, text: str, schema: Described, *, required: bool = False
) -> Described:
    """Return a parameter in ``path``, ``query`` or ``header``."""
    return {
        "in": where,
        "name": name,
        "description": text,
        "required": required,
        "schema": schema,
    }


def in_query(name: str, text: str, schema: Described) -> Described:
    """Return a parameter in the query, which need not be there."""
    return parameter("query", name, text, schema)


def list_of(schema: Described) -> Described:
    """Return the schema of a list."""
    return {"type": "array", "items": schema}


def object_of(required: tuple[str, ...] = (), **properties: Described) -> Described:
    """Return the schema of an object that has at least these properties."""
    found: Described = {"type": "object", "properties": properties}
    return found | ({"required": list(required)} if required else {})


def operation(
    tag: str, summary: str, answers: Described, *parameters: Described, **more: Any
) -> Described:
    """Return what one method of one path does."""
    found: Described = {"tags": [tag], "summary": summary}
    if parameters:
        found["parameters"] = list(parameters)
    return found | more | {"responses": answers}


TEXT: Described = {"type": "string"}
_SECONDS: Described = {"type": ["number", "null"], "description": "in seconds; null for not yet"}
NUMBER: Described = {"type": "integer", "minimum": 0}
DECIMAL: Described = {"type": "string", "examples": ["30100.01"]}
TIME: Described = {"type": "string", "format": "date-time"}
BOOLEAN: Described = {"type": "boolean"}
_ROWS = list_of({"type": "array"})

SCHEMAS: dict[str, Described] = {
    "Error": object_of(
        ("error",),
        error=object_of(
            ("code", "message"),
            code=TEXT | {"description": "stable, for machines", "examples": ["unknown_pair"]},
            message=TEXT | {"description": "for people: what was wrong, what is expected"},
        ),
    ),
    "ExchangeError": object_of(("message",), message=TEXT | {"examples": ["NotFound"]}),
    "Wishes": object_of(
        channels=list_of({"type": "string", "enum": sorted(BY_ALIAS)}),
        policy={"type": "string", "enum": ["close", "conflate"]},
    ),
    "Subscriptions": object_of(
        ("session", "channels"),
        session=TEXT,
        channels=list_of(object_of(("name",), name=TEXT, product_ids=list_of(TEXT))),
    ),
    "Session": {
        "allOf": [
            ref("Subscriptions"),
            object_of(
                address=TEXT | {"description": "where the subscriber is"},
                delivered=NUMBER,
                skipped=NUMBER,
                waiting_bytes=NUMBER,
                oldest_s={"type": "number", "description": "age of what waits, seconds"},
            ),
        ]
    },
    "Product": object_of(
        ("id", "base_currency", "quote_currency"),
        id=TEXT | {"examples": ["BTC-USD"]},
        base_currency=TEXT,
        quote_currency=TEXT,
        base_increment=DECIMAL,
        quote_increment=DECIMAL,
        status=TEXT,
        trading_disabled=BOOLEAN,
    ),
    "Book": object_of(
        ("bids", "asks", "sequence"),
        bids=_ROWS | {"description": "rows of price, size, and number of orders or order id"},
        asks=_ROWS,
        sequence=NUMBER,
        time=TIME,
    ),
    "Trade": object_of(
        ("trade_id", "side", "size", "price", "time"),
        trade_id=NUMBER,
        side={"type": "string", "enum": ["buy", "sell"], "description": "the maker's"},
        size=DECIMAL,
        price=DECIMAL,
        time=TIME,
    ),
    "Candle": {
        "type": "array",
        "description": "time (seconds since 1970), low, high, open, close, volume",
        "items": {"type": "number"},
        "minItems": 6,
        "maxItems": 6,
    },
    "Ticker": object_of(
        ("trade_id", "price", "time"),
        ask=DECIMAL,
        bid=DECIMAL,
        volume=DECIMAL,
        trade_id=NUMBER,
        price=DECIMAL,
        size=DECIMAL,
        time=TIME,
    ),
    "Health": object_of(
        ("instance", "state", "ready", "role", "feed_age_s", "loop_lag_s", "history_age_s"),
        instance=NUMBER,
        state=TEXT | {"examples": ["live", "draining"]},
        ready=BOOLEAN | {"description": "new streams may be sent to this instance"},
        role={
            "type": "string",
            "enum": ["writer", "reader", "none"],
            "description": "whether this instance writes history, reads it, or has none",
        },
        feed_age_s=_SECONDS,
        loop_lag_s={"type": "number", "description": "of the event loop, in seconds"},
        history_age_s={
            "type": ["number", "null"],
            "description": "since the moment up to which history is written; null for instances "
            "that do not write",
        },
    ),
    "Instances": object_of(
        ("instances",),
        instances=list_of(
            object_of(
                ("instance", "state", "ready", "reason"),
                instance=NUMBER,
                state=TEXT | {"examples": ["live", "draining", "gone"]},
                ready=BOOLEAN,
                reason=TEXT,
                version={"type": ["string", "null"]},
                subscribers={"type": ["integer", "null"]},
                feed_age_s=_SECONDS,
            )
        ),
    ),
    "Lines": object_of(
        ("state", "reason", "lines", "products"),
        state=TEXT,
        reason=TEXT,
        lines=list_of(
            object_of(
                ("number", "connections", "live", "losses", "wins", "gaps_saved"),
                number=NUMBER,
                connections=NUMBER,
                live=NUMBER,
                products=NUMBER,
                connects=NUMBER,
                losses=NUMBER,
                last_loss=TEXT,
                heard_age_s=_SECONDS,
                wins=NUMBER,
                lead_s=_SECONDS,
                gaps_saved=NUMBER,
            )
        ),
        products={
            "type": "object",
            "description": "by id, how long ago it was heard, and had data but heartbeats",
            "additionalProperties": object_of(
                ("heard_age_s", "data_age_s"), heard_age_s=_SECONDS, data_age_s=_SECONDS
            ),
        },
    ),
}
