"""The terms of one log: each term's page has the seal of the term before it.

A directory may have pages and segments of several logs, because a log begins again when its newest
page is damaged. The chain of seals, from the newest page backwards, decides which terms are of the
newest page's log, and where each of them ends. It stops at a page that is missing, damaged or of
another deployment: a reader could not pass that place, so nothing before it is part of the log.
"""

from typing import NamedTuple

from hedgehogd.log.directory import Directory
from hedgehogd.log.header import Fixed, Seal


class Sealed(NamedTuple):
    """A term that has ended: the fixed part of its page, and its seal from the next term's page."""

    fixed: Fixed
    seal: Seal


def terms_before(directory: Directory, fixed: Fixed, oldest: int) -> dict[int, Sealed]:
    """Return the terms before a page's term that are of the same log, the newest first.

    Args:
        directory: the window's directory.
        fixed: the fixed part of the page.
        oldest: terms before this one are not looked at; each page is opened once.

    Raises:
        UnusableWindow: a page has another format.
        LogError: a page cannot be opened or read.
    """
    found: dict[int, Sealed] = {}
    later = fixed
    for term in range(fixed.term - 1, max(oldest, 1) - 1, -1):
        earlier = directory.fixed(term)
        if earlier is None or earlier.deployment != fixed.deployment:
            break
        found[term] = Sealed(earlier, later.seal)
        later = earlier
    return found
