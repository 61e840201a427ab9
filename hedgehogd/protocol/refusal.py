"""Errors of the HTTP API: one form for our own paths, another for Coinbase's. Pure."""

import re
from urllib.parse import unquote

_REQUEST_LINE = re.compile(rb"[^ \r\n]* (?:(?i:https?)://[^/? \r\n]*)?([^? \r\n]*)")
COINBASE_PATHS = ("/products", "/currencies", "/time")
"""These and what is below them have Coinbase's shapes, errors included."""


def is_coinbase_path(path: str) -> bool:
    """Say whether ``path`` has Coinbase's shapes."""
    return any(path == each or path.startswith(f"{each}/") for each in COINBASE_PATHS)


def error_object(path: str, code: str, message: str) -> dict[str, object]:
    """Return the body of an error as a plain value.

    Args:
        path: of the request; empty when it could not be read.
        code: a stable name for machines; Coinbase's form has none.
        message: for people.
    """
    if is_coinbase_path(path):
        return {"message": message}
    return {"error": {"code": code, "message": message}}


def asked_path(head: bytes) -> str:
    """Return the path that a request head begins to ask for; empty when there is none.

    The head may be incomplete or broken: its refusal has the form of its path all the same.
    """
    line = _REQUEST_LINE.match(head)
    return "" if line is None else unquote(line[1].decode("latin-1"))


def wants_no_body(head: bytes) -> bool:
    """Say whether an answer to the request must have no body (RFC 9110 §9.3.2)."""
    return head.startswith(b"HEAD ")
