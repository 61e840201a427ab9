"""Errors of the HTTP API: one form for our own paths, another for Coinbase's. Pure."""

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
