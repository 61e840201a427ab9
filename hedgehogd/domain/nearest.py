"""The valid name most similar to a misspelled one, for error messages."""

import difflib
from collections.abc import Iterable

_SIMILARITY_MIN = 0.6  # difflib's default: below it, the suggested names are unrelated


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the element of ``names`` most similar to ``name``; None if none is similar."""
    alike = difflib.get_close_matches(name, list(names), 1, _SIMILARITY_MIN)
    return alike[0] if alike else None
