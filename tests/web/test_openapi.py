"""The description of the API is whole, sound, and true."""

import json
import re

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from hedgehogd import __version__
from hedgehogd.web.app import make_app
from hedgehogd.web.openapi import OPENAPI_PATH, description

ROUTED_TOO = {"head", "options"}


def routes(app):
    """Return path → methods as the app has them, in OpenAPI's spelling."""
    found = {}
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^:>]*:)?([^>]+)>", r"{\1}", rule.rule)
        found.setdefault(path, set()).update(method.lower() for method in rule.methods)
    return {path: methods - ROUTED_TOO for path, methods in found.items()}


def test_every_route_is_described_and_nothing_else(instance):
    """A description that is not checked is wrong within a month."""
    described = {path: set(methods) for path, methods in description()["paths"].items()}

    assert described == routes(make_app(instance, serves_operators=True))


def test_operator_paths_are_marked(instance):
    """A client that is generated for the stream port must not offer them."""
    marked = {
        path
        for path, methods in description()["paths"].items()
        if any(operation["tags"] == ["operator"] for operation in methods.values())
    }

    assert (
        marked
        == routes(make_app(instance, serves_operators=True)).keys()
        - routes(make_app(instance)).keys()
    )


def test_the_description_is_sound():
    assert [str(error) for error in OpenAPIV31SpecValidator(description()).iter_errors()] == []


def test_parameters_in_a_path_are_described():
    for path, methods in description()["paths"].items():
        for operation in methods.values():
            named = {
                each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"
            }
            assert named == set(re.findall(r"{(\w+)}", path))


def test_operations_have_a_name_of_their_own_a_summary_and_a_known_tag():
    """Generators of clients make functions of them."""
    document = description()
    tags = {tag["name"] for tag in document["tags"]}
    operations = [each for methods in document["paths"].values() for each in methods.values()]
    names = [operation["operationId"] for operation in operations]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]+", name) for name in names)
    assert all(operation["summary"] for operation in operations)
    assert {tag for operation in operations for tag in operation["tags"]} == tags


async def test_it_is_served(instance):
    answer = await make_app(instance).test_client().get(OPENAPI_PATH)
    document = json.loads(await answer.get_data())

    assert answer.content_type == "application/json"
    assert document == json.loads(json.dumps(description()))
    assert (document["openapi"], document["info"]["version"]) == ("3.1.0", __version__)


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/api/v1/health", "/time", "/products", "/products/BTC-USD",
             "/products/NO-USD", "/products/BTC-USD/book?level=7", "/currencies", "/ws",
             "/api/v1/stream", "/api/v1/sessions/1.key", "/api/v1/sessions/none"],
)  # fmt: skip
async def test_what_is_answered_is_described(instance, session, path):
    """Status and body; 421 is only seen by those who come past the door."""
    answer = await make_app(instance).test_client().get(path)
    paths = description()["paths"]
    wanted = [
        methods["get"]["responses"]
        for known, methods in paths.items()
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", known), path.partition("?")[0])
    ]
    if answer.status_code == 421:
        return
    described = wanted[-1 if path in paths else 0][str(answer.status_code)]
    schema = described["content"]["application/json"]["schema"]
    components = description()["components"]
    Draft202012Validator({**schema, "components": components}).validate(await answer.get_json())
