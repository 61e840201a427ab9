"""The query parameters of the control plane's routes.

The OpenAPI document is their table: a route accepts the parameters that the document describes,
and a query with any other parameter is refused before the route runs. The exception is
``no-cache`` of the reads in Coinbase's form: copra adds it with the time to each of its requests,
so that no cache answers, and it has no effect here.
"""

import re

from quart import g, request
from quart_trio import QuartTrio

from hedgehogd.protocol.query import read_query
from hedgehogd.protocol.refusal import is_coinbase_path
from hedgehogd.web.openapi import PATHS, resolved

NO_CACHE = "no-cache"
_NAME_IN_RULE = re.compile(r"<([^>]+)>")


def described_parameters(path: str, method: str) -> frozenset[str]:
    """Return the names of the query parameters that the document has for a route.

    Raises:
        KeyError: the document has no such route.
    """
    described = map(resolved, PATHS[path][method.lower()].get("parameters", ()))
    return frozenset(each["name"] for each in described if each["in"] == "query")


def add_parameters(app: QuartTrio) -> None:
    """Read and check the query of each request to ``app`` before its route runs."""

    @app.before_request
    async def read() -> None:
        """Store the values for ``query()``; a request without a route, and OPTIONS, have none.

        Raises:
            SubscriberError: 400; the route does not have a parameter, or it is repeated.
        """
        method = "GET" if request.method == "HEAD" else request.method
        if request.url_rule is None or method == "OPTIONS":
            return
        path = _NAME_IN_RULE.sub(r"{\1}", request.url_rule.rule)
        text = request.query_string.decode("latin-1")
        names = described_parameters(path, method)
        if is_coinbase_path(path):
            names |= {NO_CACHE}
        g.query = read_query(text, names)
        g.query.pop(NO_CACHE, None)


def query() -> dict[str, str]:
    """Return the values of this request's query by name, inside a route only.

    Each name is one that the document has for the route, once: other queries were refused before
    the route ran. The values are not validated.
    """
    values: dict[str, str] = g.query
    return values
