"""Content negotiation: the client gets the form that it prefers, or a clear error."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.errors import SubscriberError
from hedgehogd.protocol.negotiation import choose_form

FORMS = {"ndjson": "application/x-ndjson", "json": "application/json", "csv": "text/csv"}
STREAMS = {"ndjson": "application/x-ndjson", "sse": "text/event-stream"}
JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "ndjson"),
        ("", "ndjson"),
        ("  ", "ndjson"),
        (",", "ndjson"),
        ("*/*", "ndjson"),
        ("*", "ndjson"),
        (JAVA, "ndjson"),
        ("application/json", "json"),
        ("APPLICATION/JSON", "json"),
        ("application/json; charset=utf-8", "json"),
        ("application/json;version=2;q=0.5, text/csv;q=0.4", "json"),
        ("application/json, text/plain, */*", "json"),
        ("text/html, application/json;q=0.9, */*;q=0.8", "json"),
        ("text/*", "csv"),
        ("text/csv; header=present", "csv"),
        ("application/*;q=0.2, text/*;q=0.3", "csv"),
        ("text/csv;q=0.5,application/json;q=0.5", "json"),
        ("*/*, application/x-ndjson;q=0", "json"),
        ("application/*;q=0, */*", "csv"),
        ("text/csv;q=.9, application/json;q=.8", "csv"),
        ('text/csv;x="a,b;q=1";q=0.5, */*;q=0.4', "csv"),
        ("garbage, */*;q=0.1", "ndjson"),
        ("text/csv;q=abc", "ndjson"),
    ],
)
def test_the_highest_weight_wins(accept, expected):
    """No header means any form (RFC 9110 §12.5.1): Go, pandas, polars and urllib send none."""
    assert choose_form(accept, None, FORMS) == FORMS[expected]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "ndjson"),
        ("text/event-stream", "sse"),
        ("text/event-stream, */*", "sse"),
        ("text/event-stream;q=0.5, application/x-ndjson", "ndjson"),
        ("text/*, application/x-ndjson;q=0.1", "sse"),
    ],
)
def test_a_named_type_precedes_a_wildcard_of_the_same_weight(accept, expected):
    """A client that names ``text/event-stream`` besides ``*/*`` expects events."""
    assert choose_form(accept, None, STREAMS) == STREAMS[expected]


@pytest.mark.parametrize("accept", ["image/png", "*/*;q=0", "text/csv;q=0", "*/json", "garbage"])
def test_a_client_that_accepts_no_form_is_refused(accept):
    """The error lists the available media types."""
    with pytest.raises(SubscriberError, match="x-ndjson, application/json, text/csv") as caught:
        choose_form(accept, None, FORMS)

    assert (caught.value.code, caught.value.status) == ("not_acceptable", 406)


@pytest.mark.parametrize("accept", [None, "image/png", "application/json"])
def test_the_parameter_format_overrides_the_header(accept):
    """A link or a spreadsheet cannot set a header."""
    assert choose_form(accept, "csv", FORMS) == "text/csv"
    with pytest.raises(SubscriberError, match="format is ndjson or json or csv, not 'CSV'"):
        choose_form(accept, "CSV", FORMS)


@given(st.text(alphabet='*/;,=q.01 abtexjsonv"\\'))
def test_every_header_gets_a_form_or_a_406(accept):
    """An untrusted header must not cause any other exception."""
    with contextlib.suppress(SubscriberError):
        assert choose_form(accept, None, FORMS) in FORMS.values()
