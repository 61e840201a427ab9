"""Secrets in URLs and credentials, and their removal from every text that is shown.

Two functions recognise a secret by its place in a URL, and ``Secrets`` by its value:

* ``hide_in_url`` replaces user, password, query and fragment of one URL, valid or not.
* ``hide_in_text`` does so for each URL in a sentence.
* ``Secrets.hide`` replaces known values in a text sent by a peer: a server may repeat them in
  an error message, a redirect or a close reason.

The replacement is ``HIDDEN``.

A path is not secret, and is shown.
"""

import base64
import re
from collections.abc import Iterable
from urllib.parse import SplitResult, quote, unquote

from hedgehogd.domain.limits import SECRET_CHARACTERS_MIN

HIDDEN = "***"

_WORD = re.compile(r"\S+")  # a password may contain quotes and brackets
_LIKE_USERINFO_OR_QUERY = re.compile(r"[^/\s]+:[^@]*@|[^?]*\?[^=]+=")
# Parameters of hedgehogd's own streams: their values are not secret, and log lines need them.
_PUBLIC_PARAMETERS = frozenset({"pairs", "channels", "format", "notices", "since"})


class Secrets:
    """Values that must not be shown.

    Args:
        values: the secrets; percent-encoded and Python-quoted forms are hidden too. Values
            shorter than ``SECRET_CHARACTERS_MIN`` are ignored.
    """

    __slots__ = ("_forms", "_pattern", "_values")

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values = frozenset(value for value in values if len(value) >= SECRET_CHARACTERS_MIN)
        forms = {form for value in self._values for form in _forms(value)}
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        pattern = "|".join(map(re.escape, self._forms))
        self._pattern = re.compile(pattern, re.IGNORECASE) if pattern else None

    def __or__(self, other: "Secrets") -> "Secrets":
        """Return the values of both, as new ``Secrets``."""
        return Secrets(self._values | other._values)

    def __eq__(self, other: object) -> bool:
        """Return True for ``Secrets`` of the same values."""
        return isinstance(other, Secrets) and self._values == other._values

    def __hash__(self) -> int:
        """Return a hash of the values."""
        return hash(self._values)

    def __repr__(self) -> str:
        """Return a text with the number of values, without the values."""
        return f"Secrets({len(self._values)})"

    def hide(self, text: str) -> str:
        """Return ``text`` with each secret, in any letter case, replaced by ``HIDDEN``.

        A peer's text may have been truncated: a prefix of at least half a secret at the end of
        ``text`` is replaced too.
        """
        if self._pattern is None:
            return text
        text = self._pattern.sub(HIDDEN, text)
        for form in self._forms:
            for length in range(len(form) - 1, _half(form) - 1, -1):
                if text[-length:].lower() == form[:length].lower():
                    return text[:-length] + HIDDEN
        return text


def _half(form: str) -> int:
    return max(SECRET_CHARACTERS_MIN, len(form) // 2)


NO_SECRETS = Secrets()


def _forms(value: str) -> Iterable[str]:
    """Return a secret in each form: unchanged, percent-encoded, and as Python quotes it."""
    return value, quote(value, safe=""), repr(value)[1:-1], ascii(value)[1:-1]


def basic_authorization(parts: SplitResult) -> str:
    """Return the ``Authorization`` value for the userinfo of a URL; empty without userinfo.

    Source: RFC 7617; user and password are percent-decoded (RFC 3986 §3.2.1).
    """
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not user and not password:
        return ""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def secrets_of(parts: SplitResult) -> Secrets:
    """Return user, password, query values and fragment of a URL, encoded and decoded.

    The Basic token of user and password is one of the values. A parameter without ``=`` counts as
    a value; the values of hedgehogd's own stream parameters do not count.
    """
    written = [parts.username or "", parts.password or "", parts.fragment]
    for parameter in parts.query.split("&"):
        name, equals, value = parameter.partition("=")
        if name not in _PUBLIC_PARAMETERS:
            written.append(value if equals else name)
    token = basic_authorization(parts).removeprefix("Basic ")
    decoded = [unquote(value.replace("+", " ")) for value in written]
    return Secrets((*written, *decoded, *map(unquote, written), token))


def hide_in_url(url: str) -> str:
    """Return ``url`` with ``HIDDEN`` in place of user and password, and of query and fragment.

    An unquoted ``/``, ``?``, ``#`` or ``@`` in a password changes the structure of the URL, so
    everything up to the last ``@`` is hidden, and the whole rest if that ``@`` is after a ``?`` or
    ``#``. A text without ``://`` may be a path: it is
    returned unchanged unless it looks like userinfo or a query.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        if not _LIKE_USERINFO_OR_QUERY.match(url):
            return url
        scheme, rest = "", url
    public = re.split(r"[?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(public) :]:
        return f"{scheme}{separator}{HIDDEN}"
    _, at, place = public.rpartition("@")
    shown = f"{HIDDEN}@{place}" if at else place
    query = f"{rest[len(public)]}{HIDDEN}" if len(rest) > len(public) + 1 else ""
    return f"{scheme}{separator}{shown}{query}"


def hide_in_text(text: str) -> str:
    """Return ``text`` with ``hide_in_url`` applied to each word that contains a URL."""
    return _WORD.sub(_hide_in_word, text) if "://" in text else text


def _hide_in_word(found: re.Match[str]) -> str:
    return hide_in_url(found[0]) if "://" in found[0] else found[0]
