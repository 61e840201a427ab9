"""The nearest right name, offered to a person who wrote a wrong one."""

import difflib
from collections.abc import Iterable

_SIMILARITY_MIN = 0.6  # difflib's own value: below it, the offered names are unrelated


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of ``names`` that is most like ``name``; None when no name is like it."""
    alike = difflib.get_close_matches(name, list(names), 1, _SIMILARITY_MIN)
    return alike[0] if alike else None
