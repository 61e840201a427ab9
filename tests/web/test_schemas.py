"""The schemas fit what we and the exchange really say."""

import json

import pytest
from jsonschema import Draft202012Validator

from hedgehogd.web.schemas import SCHEMAS, object_of, operation, ref
from tests.recordings import RECORDINGS

SAMPLES = RECORDINGS / "rest-samples"


def fits(name, value):
    document = {"components": {"schemas": SCHEMAS}, **ref(name)}
    return Draft202012Validator(document).is_valid(value)


def test_every_schema_is_one():
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("Error", {"error": {"code": "x", "message": "y"}}, True),
        ("Error", {"message": "y"}, False),
        ("ExchangeError", {"message": "NotFound"}, True),
        ("Wishes", {"channels": ["ticker"], "policy": "close"}, True),
        ("Wishes", {"policy": "drop"}, False),
        ("Session", {"session": "1.k", "channels": [], "oldest_s": 0.5}, True),
        ("Session", {"session": "1.k"}, False),
    ],
)
def test_schemas_tell_right_from_wrong(name, value, expected):
    assert fits(name, value) is expected


@pytest.mark.parametrize(
    ("pattern", "name"),
    [("*book-level*", "Book"), ("*trades-GET*", "Trade"), ("*candles*", "Candle")],
)
def test_recorded_answers_of_the_exchange_fit(pattern, name):
    if not SAMPLES.exists():
        pytest.skip(f"no samples at {SAMPLES}")
    files = sorted(SAMPLES.glob(pattern))
    assert files
    for file in files:
        value = json.loads(file.read_text())
        for each in value if isinstance(value, list) else [value]:
            assert fits(name, each), file.name


def test_nothing_empty_is_written():
    """OpenAPI does not like an empty list of required names."""
    assert object_of() == {"type": "object", "properties": {}}
    assert operation("t", "s", {}) == {"tags": ["t"], "summary": "s", "responses": {}}
