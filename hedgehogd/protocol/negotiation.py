"""Content negotiation: the form of an answer that a client prefers (RFC 9110 §12.5.1). Pure.

Werkzeug parses the header. Parameters of a media range, such as ``charset=utf-8``, are ignored,
because each form exists in one variant.
"""

import re
from collections.abc import Mapping, Sequence

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from hedgehogd.domain.errors import SubscriberError

_JAVA_WEIGHT = re.compile(r"(;\s*q=)(?=\.)", re.IGNORECASE)  # ``q=.2``, which Werkzeug skips


def choose_form(accept: str | None, wanted: str | None, forms: Mapping[str, str]) -> str:
    """Return the media type of the form that a client gets: the one that it prefers.

    Args:
        accept: the header ``Accept``; None or empty if the client accepts any form.
        wanted: the query parameter ``format``, which overrides the header; None without one.
        forms: the values of ``format`` and their media types; the first one is the default.

    Raises:
        SubscriberError: the format does not exist (400), or no form is acceptable (406).
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
        raise SubscriberError("not_acceptable", f"the media types are {', '.join(offered)}", 406)
    return best


def _best(accept: str | None, offered: Sequence[str]) -> str | None:
    """Return the offered type of the highest weight; None if none is acceptable.

    Without a readable range in ``accept`` it is the first one in ``offered``.

    The weight of a type is that of the most specific range that matches it. Of types with equal
    weights, a type that the header names is preferred, then the first one in ``offered``.
    """
    parsed = parse_accept_header(_JAVA_WEIGHT.sub(r"\g<1>0", accept or ""))
    ranges = MIMEAccept([(_media_range(text), weight) for text, weight in parsed])
    if not ranges:
        return offered[0]
    named = {media.lower() for media, _ in ranges}
    best = max(offered, key=lambda media: (ranges.quality(media), media in named))
    return best if ranges.quality(best) > 0 else None


def _media_range(text: str) -> str:
    """Return a media range without parameters; Java clients send ``*`` for ``*/*``."""
    media = text.partition(";")[0].strip()
    return "*/*" if media == "*" else media
