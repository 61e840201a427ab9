"""JSON responses and errors of the control plane."""

from typing import Any

import msgspec
from quart import Response, request

from hedgehogd.protocol.refusal import error_object


def json_response(value: Any, status: int = 200) -> Response:
    """Return ``value`` as a JSON response that no cache may store."""
    body = msgspec.json.encode(value) + b"\n"
    response = Response(body, status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def error_response(code: str, message: str, status: int) -> Response:
    """Return an error in the form of this request's path, Coinbase's or hedgehogd's.

    Coinbase's form has no ``code``.
    """
    return json_response(error_object(request.path, code, message), status)
