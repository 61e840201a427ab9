"""Secrets: shown text contains no form of a secret, and keeps its other parts."""

import base64
import string
from urllib.parse import quote, quote_plus, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain.secret import (
    HIDDEN,
    NO_SECRETS,
    Secrets,
    basic_authorization,
    hide_in_text,
    hide_in_url,
    secrets_of,
)

secret_texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=8).filter(
    lambda text: len(set(text)) > 3 and text.strip() == text and "*" not in text
)
unsafe = string.ascii_letters + string.digits + "/?#@:%&=+;'\"<>[]"
paths = st.lists(st.text("._~", min_size=1), max_size=3).map("/".join)  # no part of an unsafe text


def test_a_long_text_is_scanned_once():
    """A peer's text of 400 KB takes milliseconds; a quadratic scan would take seconds."""
    text = "x" * 400_000 + " ws://u:p@h/?token=s3cretpw"

    assert hide_in_text(text) == "x" * 400_000 + f" ws://{HIDDEN}@h/?{HIDDEN}"


def test_user_password_query_and_fragment_are_hidden():
    """The rest of the URL contains the host, which an operator needs."""
    url = "wss://reader:s3cretpw@proxy.example:8443/v1/feed?token=t0ken#here"

    assert hide_in_url(url) == f"wss://{HIDDEN}@proxy.example:8443/v1/feed?{HIDDEN}"


@pytest.mark.parametrize(
    "text",
    ["coinbase", "ws://a", "wss://a:8443/ws", "ws://[::1]:9/x", "/data/day@2.jsonl", "a?b", "x:y"],
)
def test_text_without_a_secret_is_unchanged(text):
    """Names of feeds and paths of recordings are shown completely."""
    assert hide_in_url(text) == text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://a?", "ws://a"),
        ("ws://a/?x", "ws://a/?***"),
        ("ws://user@a/b", "ws://***@a/b"),
        ("ws://u:p/w@a/b", "ws://***@a/b"),
        ("ws://u:1/w@a/b", "ws://***@a/b"),
        ("ws://u:p@ss@a", "ws://***@a"),
        ("ws://u:p?w@a/b", "ws://***"),
        ("ws://u:p#w@a/b", "ws://***"),
        ("ws://a/?to=b@c", "ws://***"),
        ("wss:/u:pw@a", "***@a"),
        ("u:pw@a/b", "***@a/b"),
        ("a/b?token=c", "a/b?***"),
    ],
)
def test_an_invalid_url_shows_too_little_rather_than_too_much(url, shown):
    """The usual mistake in such a URL is an unquoted delimiter in the password."""
    assert hide_in_url(url) == shown


@settings(max_examples=50)
@given(user=st.text(unsafe, min_size=1), password=st.text(unsafe, min_size=12), path=paths)
def test_no_part_of_an_unquoted_password_is_shown(user, password, path):
    """This holds for any delimiters in the password, and for a URL within a sentence."""
    url = f"wss://{user}:{password}@host.example/{path}"

    for shown in (hide_in_url(url), hide_in_text(f"do not use '{url}' here")):
        for begin in range(len(password) - 5):
            part = password[begin : begin + 6]
            assert part not in shown.replace("wss://", "").replace("host.example", "")


def test_a_sentence_keeps_its_words():
    """Only the URLs in the sentence change."""
    text = "cannot open wss://u:p@a/?t=1, nor ws://b:1/ws: refused"

    assert hide_in_text(text) == "cannot open wss://***@a/?*** nor ws://b:1/ws: refused"
    assert hide_in_text("no URL: a@b?c=d") == "no URL: a@b?c=d"


@settings(max_examples=50)
@given(user=secret_texts, password=secret_texts, token=secret_texts)
def test_a_peer_cannot_repeat_a_secret_in_any_form(user, password, token):
    """A peer received each secret decoded, encoded and as a header, and may repeat any form."""
    url = f"wss://{quote(user, safe='')}:{quote(password, safe='')}@host/?token={quote_plus(token)}"
    parts = urlsplit(url)
    secrets = secrets_of(parts)
    header = basic_authorization(parts)
    echoes = [header, url, parts.query]
    for value in (user, password, token):
        encoded = quote(value, safe="")
        echoes += [value, encoded, encoded.lower(), f"{value!r}", quote_plus(value)]

    assert header == "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    for echo in echoes:
        shown = secrets.hide(f"HTTP 403: {echo} is not known")
        for value in (user, password, token, header.removeprefix("Basic ")):
            assert value not in shown
            assert quote(value, safe="").lower() not in shown.lower()


@pytest.mark.parametrize("length", [10, 14, 19])
def test_the_first_half_of_a_secret_at_the_end_is_hidden_too(length):
    """A peer's text is truncated before the search for secrets."""
    secrets = Secrets(["0123456789abcdefghij"])

    assert secrets.hide("said: 0123456789abcdefghij"[: 6 + length]) == f"said: {HIDDEN}"
    assert secrets.hide("said: 012345678") == "said: 012345678"


def test_short_values_and_public_parameters_are_not_hidden():
    """With `1` or `ticker` hidden everywhere, log lines would have no meaning."""
    secrets = secrets_of(urlsplit("ws://a/?v=123&channels=ticker&bare-t0ken&x="))

    assert secrets.hide("123 ticker bare-t0ken") == f"123 ticker {HIDDEN}"


def test_secrets_can_be_combined_and_are_not_printed():
    """A feed has the secrets of its URL and those of its key."""
    both = Secrets(["first-one"]) | Secrets(["second-one"])

    assert both.hide("first-one, second-one") == f"{HIDDEN}, {HIDDEN}"
    assert both == Secrets(["second-one", "first-one"])
    assert hash(both) == hash(Secrets(["second-one", "first-one"]))
    assert both != NO_SECRETS
    assert both != "first-one"
    assert repr(both) == "Secrets(2)"
    assert NO_SECRETS.hide("anything") == "anything"


@pytest.mark.parametrize(
    ("url", "pair"),
    [
        ("ws://user@a", "user:"),
        ("ws://:pw@a", ":pw"),
        ("ws://a%40b:p%2Fw%3A@a", "a@b:p/w:"),
        ("ws://%C3%A9:%E2%82%AC@a", "é:€"),
    ],
)
def test_userinfo_is_decoded_before_it_is_sent(url, pair):
    """RFC 3986 §3.2.1 and RFC 7617 require it."""
    sent = basic_authorization(urlsplit(url))

    assert base64.b64decode(sent.removeprefix("Basic ")).decode() == pair


@pytest.mark.parametrize("url", ["ws://a", "ws://@a", "ws://:@a"])
def test_without_userinfo_nothing_is_sent(url):
    """A URL without userinfo must not cause an empty header."""
    assert basic_authorization(urlsplit(url)) == ""
