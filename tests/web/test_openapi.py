"""The OpenAPI document is valid, and agrees with the routes, the constants and the responses."""

import json
import re
from importlib import resources

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from hedgehogd import __version__
from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_ALIAS
from hedgehogd.protocol.commands import POLICIES
from hedgehogd.streaming.request import FORMS as STREAM_FORMS
from hedgehogd.web import reads
from hedgehogd.web.app import make_app
from hedgehogd.web.history import FORMS as HISTORY_FORMS
from hedgehogd.web.openapi import DOCUMENT, OPENAPI_PATH, PATHS, resolved
from tests.recordings import RECORDINGS

ROUTED_TOO = {"head", "options"}
SAMPLES = RECORDINGS / "rest-samples"
OPERATIONS = [
    pytest.param(path, operation, id=operation["operationId"])
    for path, methods in PATHS.items()
    for operation in methods.values()
]


def routes(app):
    """Return path → methods as the app has them, in OpenAPI's spelling."""
    found = {}
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^:>]*:)?([^>]+)>", r"{\1}", rule.rule)
        found.setdefault(path, set()).update(method.lower() for method in rule.methods)
    return {path: methods - ROUTED_TOO for path, methods in found.items()}


def parameters(operation):
    return [resolved(each) for each in operation.get("parameters", ())]


def schema_of(path, name):
    """Return the schema of one parameter of a path's GET."""
    return next(each["schema"] for each in parameters(PATHS[path]["get"]) if each["name"] == name)


def is_valid(name, value):
    """Return whether ``value`` satisfies the schema ``name`` of the document."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return Draft202012Validator(schema).is_valid(value)


# The document and the routes


def test_every_route_is_described_and_nothing_else(instance):
    """A document that no test compares with the routes becomes wrong."""
    described = {path: set(methods) for path, methods in PATHS.items()}

    assert described == routes(make_app(instance, serves_operators=True))


def test_operator_paths_are_marked(instance):
    """A client that is generated for the stream port must not offer them."""
    marked = {
        path
        for path, methods in PATHS.items()
        if any(operation["tags"] == ["operator"] for operation in methods.values())
    }

    assert (
        marked
        == routes(make_app(instance, serves_operators=True)).keys()
        - routes(make_app(instance)).keys()
    )


def test_the_document_is_valid():
    assert [str(error) for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


@pytest.mark.parametrize("kind", ["parameters", "responses", "schemas"])
def test_every_component_is_used(kind):
    """A component without a reference describes nothing."""
    text = json.dumps(DOCUMENT)

    for name in DOCUMENT["components"][kind]:
        assert f'"#/components/{kind}/{name}"' in text, name


def test_no_list_is_empty():
    """Some tools reject an empty list of required names or of parameters."""
    text = resources.files("hedgehogd.web").joinpath("openapi.json").read_text()

    assert not re.search(r"\[\s*\]", text)


@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_parameters_in_a_path_are_described(path, operation):
    in_path = [each for each in parameters(operation) if each["in"] == "path"]

    assert {each["name"] for each in in_path} == set(re.findall(r"{(\w+)}", path))
    assert all(each["required"] for each in in_path)


def test_operations_have_a_name_of_their_own_a_summary_and_a_known_tag():
    """Generators of clients derive functions from them."""
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    operations = [each for methods in PATHS.values() for each in methods.values()]
    names = [operation["operationId"] for operation in operations]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]+", name) for name in names)
    assert all(operation["summary"] for operation in operations)
    assert {tag for operation in operations for tag in operation["tags"]} == tags


@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_an_operation_is_named_by_its_method_and_path(path, operation):
    """A generated function keeps its name as long as the route keeps its path."""
    words = re.split(r"[-./]", re.sub(r"[{}]", "", path))
    method = next(name for name, each in PATHS[path].items() if each is operation)

    assert operation["operationId"] == "_".join([method, *filter(None, words)])


@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_reads_of_the_exchange_have_the_exchanges_errors(path, operation):
    """Clients of the exchange read ``message``; clients of hedgehogd read ``error``."""
    forms = {
        resolved(answer)["content"]["application/json"]["schema"].get("$ref")
        for status, answer in operation["responses"].items()
        if status >= "400" and path not in {"/healthz", "/readyz"}
    }
    name = "ExchangeError" if operation["tags"] == ["exchange"] else "Error"

    assert forms <= {f"#/components/schemas/{name}"}


def test_only_reads_with_a_query_have_a_400():
    found = {
        path
        for path, methods in PATHS.items()
        if methods.get("get", {}).get("tags") == ["exchange"]
        and "400" in methods["get"]["responses"]
    }

    assert found == {f"/products/{{pair}}/{subject}" for subject in ("book", "trades", "candles")}


def test_tags_are_explained():
    assert all(tag["description"].endswith(".") for tag in DOCUMENT["tags"])


# The document and the constants of the code


def test_enumerations_are_those_of_the_code():
    """The file repeats them, so that the file alone is a complete document."""
    wishes = DOCUMENT["components"]["schemas"]["Wishes"]["properties"]
    trades = "/products/{pair}/trades"
    candles = schema_of("/products/{pair}/candles", "granularity")

    assert wishes["channels"]["items"]["enum"] == sorted(BY_ALIAS)
    assert wishes["policy"]["enum"] == list(POLICIES)
    assert schema_of("/api/v1/stream", "policy")["enum"] == list(POLICIES)
    assert schema_of("/api/v1/stream", "format")["enum"] == list(STREAM_FORMS)
    assert schema_of("/api/v1/history/{pair}", "format")["enum"] == list(HISTORY_FORMS)
    assert candles["enum"] == list(reads.GRANULARITIES)
    assert candles["default"] == reads.GRANULARITIES[0]
    levels = {str(level) for level in schema_of("/products/{pair}/book", "level")["enum"]}
    assert levels == reads._BOOK_LEVELS
    assert schema_of(trades, "limit")["default"] == reads._PAGE_TRADES_MAX


def test_limits_in_the_text_are_those_of_the_code():
    limit = next(
        each
        for each in parameters(PATHS["/api/v1/history/{pair}"]["get"])
        if each["name"] == "limit"
    )
    default, largest = limits.HISTORY_QUERY_MESSAGES_DEFAULT_MAX, limits.HISTORY_QUERY_MESSAGES_MAX

    assert limit["description"] == f"messages; default {default}, at most {largest}"
    summary = PATHS["/products/{pair}/candles"]["get"]["summary"]
    assert summary.endswith(f"at most {reads._CANDLES_MAX}")


def test_media_types_are_those_of_the_code():
    def media_types(path):
        return set(resolved(PATHS[path]["get"]["responses"]["200"])["content"])

    assert media_types("/api/v1/stream") == set(STREAM_FORMS.values())
    assert media_types("/api/v1/history/{pair}") == set(HISTORY_FORMS.values())


# The document and the responses


async def test_the_document_is_served(instance):
    answer = await make_app(instance).test_client().get(OPENAPI_PATH)
    document = json.loads(await answer.get_data())

    assert answer.content_type == "application/json"
    assert document == DOCUMENT
    assert (document["openapi"], document["info"]["version"]) == ("3.1.0", __version__)


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/api/v1/health", "/time", "/products", "/products/BTC-USD",
             "/products/NO-USD", "/products/BTC-USD/book?level=7", "/currencies", "/ws",
             "/api/v1/stream", "/api/v1/sessions/1.key", "/api/v1/sessions/none"],
)  # fmt: skip
async def test_responses_match_the_document(instance, session, path):
    """Status and body are compared; a 421 occurs only without the door."""
    answer = await make_app(instance).test_client().get(path)
    wanted = [
        methods["get"]["responses"]
        for known, methods in PATHS.items()
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", known), path.partition("?")[0])
    ]
    if answer.status_code == 421:
        return
    described = resolved(wanted[-1 if path in PATHS else 0][str(answer.status_code)])
    schema = described["content"]["application/json"]["schema"]
    components = DOCUMENT["components"]
    Draft202012Validator({**schema, "components": components}).validate(await answer.get_json())


def test_every_schema_is_valid():
    for schema in DOCUMENT["components"]["schemas"].values():
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
def test_schemas_accept_valid_and_reject_invalid_values(name, value, expected):
    assert is_valid(name, value) is expected


@pytest.mark.parametrize(
    ("pattern", "name"),
    [("*book-level*", "Book"), ("*trades-GET*", "Trade"), ("*candles*", "Candle")],
)
def test_recorded_answers_of_the_exchange_match_the_schemas(pattern, name):
    if not SAMPLES.exists():
        pytest.skip(f"no samples at {SAMPLES}")
    files = sorted(SAMPLES.glob(pattern))
    assert files
    for file in files:
        value = json.loads(file.read_text())
        for each in value if isinstance(value, list) else [value]:
            assert is_valid(name, each), file.name
