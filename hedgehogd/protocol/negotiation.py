"""Content negotiation: which form of an answer a client prefers (RFC 9110 §12.5.1). Pure.

Werkzeug reads the header. Parameters of a media range, such as ``charset=utf-8``, are
ignored: each form exists in one variant.
"""

import re
from collections.abc import Mapping, Sequence

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from hedgehogd.domain.errors import SubscriberError

_JAVA_WEIGHT = re.compile(r"(;\s*q=)(?=\.)", re.IGNORECASE)  # ``q=.2``, which Werkzeug skips


def choose_form(accept: str | None, wanted: str | None, forms: Mapping[str, str]) -> str:
    """Return the media type of the form that a client gets.

    Args:
        accept: the header ``Accept``; None or empty when any form will do.
        wanted: the query parameter ``format``, which decides alone; None when it is absent.
        forms: names that ``format`` takes, and their media types; the first one is the default.

    Raises:
        SubscriberError: there is no such format (400), or no form is acceptable (406).
    """
    if wanted is not None:
        if wanted not in forms:
            raise SubscriberError(
                "bad_request", f"format is {' or '.join(forms)}, not {wanted[:40]!r}"
            )
        return forms[wanted]
    offered = list(forms.values())
    best = _best(accept, offered)
    if best is None:
        raise SubscriberError("not_acceptable", f"the forms here are {', '.join(offered)}", 406)
    return best


def _best(accept: str | None, offered: Sequence[str]) -> str | None:
    """Return the offered type of the highest weight; None when none is acceptable.

    The most specific range that matches a type gives its weight. Of two types with one weight
    the client prefers the one that it names, then we prefer the first one.
    """
    parsed = parse_accept_header(_JAVA_WEIGHT.sub(r"\g<1>0", accept or ""))
    ranges = MIMEAccept([(_media_range(text), weight) for text, weight in parsed])
    if not ranges:
        return offered[0]
    named = {media.lower() for media, _ in ranges}
    best = max(offered, key=lambda media: (ranges.quality(media), media in named))
    return best if ranges.quality(best) > 0 else None


def _media_range(text: str) -> str:
    """Return a media range without its parameters; Java writes ``*`` for ``*/*``."""
    media = text.partition(";")[0].strip()
    return "*/*" if media == "*" else media
