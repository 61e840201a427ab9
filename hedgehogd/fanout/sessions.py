"""All sessions of one instance, and the owner of a session id."""

from collections import Counter
from collections.abc import Iterator

from hedgehogd.fanout.session import Session

_NUMBER_DIGITS_MAX = 5  # an instance's number is below its port


def owner_of(session_id: str) -> int | None:
    """Return the number of the instance that owns ``session_id``; None if it has no number."""
    number, dot, _ = session_id.partition(".")
    is_number = number.isascii() and number.isdecimal() and len(number) <= _NUMBER_DIGITS_MAX
    return int(number) if dot and is_number else None


class Sessions:
    """All sessions of one instance, by id.

    Attributes:
        opened: sessions opened since start, by kind of wire form.
    """

    def __init__(self) -> None:
        self.opened: Counter[str] = Counter()
        self._by_id: dict[str, Session] = {}

    def __len__(self) -> int:
        """Return how many sessions are registered."""
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        """Iterate over a copy: sessions may open and end meanwhile."""
        return iter(list(self._by_id.values()))

    def add(self, session: Session) -> None:
        """Register ``session`` under its id, and count it as opened."""
        self._by_id[session.id] = session
        self.opened[session.form.kind] += 1

    def discard(self, session: Session) -> None:
        """Close ``session`` and remove it; without effect the second time."""
        self._by_id.pop(session.id, None)
        session.close()

    def get(self, session_id: str) -> Session | None:
        """Return the open session with this id, or None."""
        session = self._by_id.get(session_id)
        return None if session is None or session.is_closed else session
