"""The description of the HTTP API, in OpenAPI 3.1: put together here, worded in ``described``.

A new route needs one entry in the paths of ``described``; a test compares them with the
routes that there are.
"""

from typing import Any

from hedgehogd import __version__
from hedgehogd.web.described import PATHS, TAGS
from hedgehogd.web.schemas import SCHEMAS

OPENAPI_PATH = "/api/v1/openapi.json"

_INTRODUCTION = """\
A relay of the Coinbase Exchange's market data. Streams carry the exchange's own messages,
byte for byte; `docs/PROTOCOL.md` is the reference for what is said on them. Pairs may be
written small. Every route that answers GET answers HEAD. A query parameter that a route does
not have is a 400 that names the nearest right one."""


def description() -> dict[str, Any]:
    """Return the whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hedgehogd",
            "version": __version__,
            "summary": "A Coinbase market-data relay",
            "description": _INTRODUCTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": {path: _operations(path, methods) for path, methods in PATHS.items()},
        "components": {"schemas": SCHEMAS},
    }


def _operations(path: str, methods: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        method: {"operationId": _operation_id(method, path), **operation}
        for method, operation in methods.items()
    }


def _operation_id(method: str, path: str) -> str:
    """Return a name that is unique because path and method are: ``get_products_pair_book``."""
    words = path.replace("{", "").replace("}", "").replace("-", "_").replace(".", "_").split("/")
    return "_".join([method, *filter(None, words)])
