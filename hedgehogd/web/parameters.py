"""The query parameters of the control plane's routes.

The OpenAPI document is their table: a route accepts the parameters that the document describes,
and a query with any other parameter is refused before the route runs.
"""

import re

from quart import g, request
from quart_trio import QuartTrio

from hedgehogd.protocol.query import read_query
from hedgehogd.web.openapi import PATHS, resolved

_NAME_IN_RULE = re.compile(r"<([^>]+)>")


def described_parameters(path: str, method: str) -> frozenset[str]:
    """Return the names of the query parameters that the document has for a route."""
    described = map(resolved, PATHS[path][method.lower()].get("parameters", ()))
    return frozenset(each["name"] for each in described if each["in"] == "query")


def add_parameters(app: QuartTrio) -> None:
    """Read the query of each request to ``app`` before its route runs."""

    @app.before_request
    async def read() -> None:
        """Raise ``SubscriberError`` for a parameter that the route does not have."""
        method = "GET" if request.method == "HEAD" else request.method
        if request.url_rule is None or method == "OPTIONS":
            return
        path = _NAME_IN_RULE.sub(r"{\1}", request.url_rule.rule)
        text = request.query_string.decode("latin-1")
        g.query = read_query(text, described_parameters(path, method))


def query() -> dict[str, str]:
    """Return the values of the request's query by name; each name is in the document."""
    values: dict[str, str] = g.query
    return values
