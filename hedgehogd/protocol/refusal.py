"""Error bodies of the HTTP API: one form for our own paths, another for Coinbase's. Pure."""

import re
from urllib.parse import unquote

_REQUEST_LINE = re.compile(rb"[^ \r\n]* (?:(?i:https?)://[^/? \r\n]*)?([^? \r\n]*)")
COINBASE_PATHS = ("/products", "/currencies", "/time")
"""Paths that, with all paths below them, answer in Coinbase's form, errors included."""


def is_coinbase_path(path: str) -> bool:
    """Return True if answers to ``path`` have Coinbase's form."""
    return any(path == each or path.startswith(f"{each}/") for each in COINBASE_PATHS)


def error_object(path: str, code: str, message: str) -> dict[str, object]:
    """Return the body of an error, ready for JSON, in the form that ``path`` requires.

    Args:
        path: the path of the request; empty if it is unreadable.
        code: a stable name for programs; omitted in Coinbase's form.
        message: a text for people.
    """
    if is_coinbase_path(path):
        return {"message": message}
    return {"error": {"code": code, "message": message}}


def asked_path(head: bytes) -> str:
    """Return the percent-decoded path in a request head, without the query; empty without one.

    The head may be incomplete or invalid, because its error has the form of its path as well.
    """
    line = _REQUEST_LINE.match(head)
    return "" if line is None else unquote(line[1].decode("latin-1"))


def wants_no_body(head: bytes) -> bool:
    """Return True for the head of a ``HEAD`` request: its answer has no body (RFC 9110 §9.3.2)."""
    return head.startswith(b"HEAD ")
