"""Wire forms: independent clients read the messages that the exchange sent."""

import json

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.protocol.frames import encode_text
from hedgehogd.protocol.wire import (
    LAST_CHUNK,
    NDJSON,
    NDJSON_BARE,
    SSE,
    WEBSOCKET,
    WEBSOCKET_DEFLATE,
    WEBSOCKET_STRICT,
    WEBSOCKET_STRICT_DEFLATE,
    chunk,
    one_line,
)

POSITION = "matches:BTC-USD@5,ticker:BTC-USD@5"


def message_of(payload):
    return Message(Topic("ticker", "BTC-USD"), "ticker", encode_text(payload), payload)


def read_body(data, *, chunked):
    """Read the body of an HTTP/1.1 answer with h11; return it, and True if its end was planned."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    client.send(h11.EndOfMessage())
    framing = b"Transfer-Encoding: chunked" if chunked else b"Connection: close"
    client.receive_data(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing + data)
    assert isinstance(client.next_event(), h11.Response)
    body = b""
    while (event := client.next_event()) is not h11.NEED_DATA:
        if isinstance(event, h11.EndOfMessage):
            return body, True
        body += event.data
    return body, False


class EventSource:
    """A parser of event streams that follows WHATWG HTML §9.2.6."""

    def __init__(self, text):
        self.events, self.last_event_id, self.retry_ms, self.comments = [], "", None, 0
        self._data, self._type, self._id = "", "", None
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in lines[:-1]:  # an incomplete line is ignored
            self._read(line)

    def _read(self, line):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            self._dispatch()
        elif not name:
            self.comments += 1
        elif name == "data":
            self._data += value + "\n"
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isdigit():
            self.retry_ms = int(value)

    def _dispatch(self):
        if self._id is not None:
            self.last_event_id = self._id
        if self._data:
            self.events.append((self._type or "message", self._data.removesuffix("\n")))
        self._data, self._type = "", ""


json_texts = st.builds(
    lambda value, indent, ascii_only: json.dumps(value, indent=indent, ensure_ascii=ascii_only),
    st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.lists(st.integers())),
    st.none() | st.integers(min_value=0, max_value=2),
    st.booleans(),
)
payloads = st.builds(
    lambda text, line_end: text.replace("\n", line_end).encode(),
    json_texts,
    st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
)
tame_payloads = json_texts.map(lambda text: text.replace("\n", "").encode())


@settings(deadline=None, max_examples=50)
@given(chunked=st.booleans(), sent=st.lists(payloads, max_size=5))
def test_every_line_of_ndjson_is_one_message(chunked, sent):
    """A line break inside a message would split it for every reader."""
    form = NDJSON[chunked]
    written = [form.data(message_of(payload), "") + form.keep_alive() for payload in sent]
    body, _ = read_body(b"".join(written) + form.end(), chunked=chunked)
    lines = [line for line in body.split(b"\n") if line]

    assert [json.loads(payload) for payload in sent] == [json.loads(line) for line in lines]


@settings(deadline=None, max_examples=50)
@given(chunked=st.booleans(), sent=st.lists(payloads, max_size=5))
def test_every_event_of_sse_is_one_message(chunked, sent):
    """Data events have no name, because ``onmessage`` ignores named events."""
    form = SSE[chunked]
    written = [form.data(message_of(payload), POSITION) + form.keep_alive() for payload in sent]
    body, _ = read_body(b"".join(written) + form.end(), chunked=chunked)
    source = EventSource(body.decode())

    assert ["message"] * len(sent) == [name for name, _ in source.events]
    assert [json.loads(p) for p in sent] == [json.loads(data) for _, data in source.events]
    assert len(sent) == source.comments
    assert not sent or source.last_event_id == POSITION


@settings(deadline=None, max_examples=50)
@given(chunked=st.booleans(), sent=st.lists(payloads, max_size=5))
def test_every_notice_of_sse_is_one_event(chunked, sent):
    """Another relay's notice may have several lines; none of them may become a field."""
    body, _ = read_body(b"".join(map(SSE[chunked].tell, sent)), chunked=chunked)
    source = EventSource(body.decode())

    assert ["hedgehogd"] * len(sent) == [name for name, _ in source.events]
    assert [json.loads(p) for p in sent] == [json.loads(data) for _, data in source.events]
    assert source.last_event_id == ""


@settings(deadline=None, max_examples=50)
@given(chunked=st.booleans(), payload=tame_payloads)
def test_a_message_on_one_line_is_relayed_unchanged(chunked, payload):
    """Subscribers get the exchange's bytes, and the exchange sends one line."""
    line = NDJSON[chunked].data(message_of(payload), "")
    event = SSE[chunked].data(message_of(payload), "")
    [(_, data)] = EventSource(read_body(event, chunked=chunked)[0].decode()).events

    assert (payload + b"\n", False) == read_body(line, chunked=chunked)
    assert payload == data.encode()


PLAIN = [WEBSOCKET, WEBSOCKET_STRICT]
DEFLATING = [WEBSOCKET_DEFLATE, WEBSOCKET_STRICT_DEFLATE]


@pytest.mark.parametrize("form", PLAIN + DEFLATING)
def test_a_websocket_gets_the_frame_that_arrived(form):
    """The upstream frame is sent downstream without another encoding."""
    message = message_of(b'{\n"a":1}')

    assert form.data(message, POSITION) is message.frame


def test_only_a_form_with_compression_sends_the_deflated_frame():
    """The frame is compressed once, before publication, and shared."""
    message = message_of(b"{}")
    message.deflated = b"\xc1\x00"

    assert all(form.data(message, "") is message.frame for form in PLAIN)
    assert all(form.data(message, "") is message.deflated for form in DEFLATING)
    assert NDJSON[False].data(message, "") == b"{}\n"
    assert SSE[False].data(message, "") == b"data: {}\n\n"


@pytest.mark.parametrize(
    ("form", "kind", "states_position", "can_tell", "has_notices", "deflates"),
    [
        (WEBSOCKET_STRICT, "websocket", False, True, False, False),
        (WEBSOCKET, "websocket", False, True, True, False),
        (WEBSOCKET_STRICT_DEFLATE, "websocket", False, True, False, True),
        (WEBSOCKET_DEFLATE, "websocket", False, True, True, True),
        (NDJSON[True], "ndjson", False, True, True, False),
        (NDJSON[False], "ndjson", False, True, True, False),
        (NDJSON_BARE[True], "ndjson", False, False, False, False),
        (NDJSON_BARE[False], "ndjson", False, False, False, False),
        (SSE[True], "sse", True, True, True, False),
        (SSE[False], "sse", True, True, True, False),
    ],
)
def test_each_form_has_its_attributes(form, kind, states_position, can_tell, has_notices, deflates):
    """Streams of strict endpoints, and NDJSON without notices, never carry a notice."""
    expected = (kind, states_position, can_tell, has_notices, deflates)

    assert expected == (
        form.kind,
        form.states_position,
        form.can_tell,
        form.has_notices,
        form.deflates,
    )
    assert form.ends_at_gaps == (not can_tell)


NOTICE = b'{"type":"stale"}'


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (WEBSOCKET.tell(NOTICE), b"\x81\x10" + NOTICE),
        (WEBSOCKET_DEFLATE.tell(NOTICE * 1000), b"\x81\x7e\x3e\x80" + NOTICE * 1000),
        (WEBSOCKET_STRICT_DEFLATE.tell(NOTICE), b"\x81\x10" + NOTICE),
        (WEBSOCKET.keep_alive(), b"\x89\x00"),
        (WEBSOCKET.end(), b""),
        (NDJSON[False].data(message_of(b"{}"), POSITION), b"{}\n"),
        (NDJSON[True].data(message_of(b"{}"), POSITION), b"3\r\n{}\n\r\n"),
        (NDJSON[True].tell(NOTICE), b"11\r\n" + NOTICE + b"\n\r\n"),
        (NDJSON[False].tell(b"{\n}"), b"{ }\n"),
        (NDJSON_BARE[True].tell(NOTICE), b""),
        (NDJSON[False].keep_alive(), b"\n"),
        (NDJSON[True].keep_alive(), b"1\r\n\n\r\n"),
        (NDJSON[False].end(), b""),
        (NDJSON[True].end(), b"0\r\n\r\n"),
        (SSE[False].data(message_of(b"{}"), ""), b"data: {}\n\n"),
        (SSE[False].data(message_of(b"{}"), "ticker:A-B@1"), b"data: {}\nid: ticker:A-B@1\n\n"),
        (SSE[True].data(message_of(b"{}"), ""), b"a\r\ndata: {}\n\n\r\n"),
        (SSE[False].data(message_of(b"{\n}"), ""), b"data: {\ndata: }\n\n"),
        (SSE[False].tell(NOTICE), b"event: hedgehogd\ndata: " + NOTICE + b"\n\n"),
        (SSE[True].tell(NOTICE), b"29\r\nevent: hedgehogd\ndata: " + NOTICE + b"\n\n\r\n"),
        (SSE[False].keep_alive(), b":\n\n"),
        (SSE[True].keep_alive(), b"3\r\n:\n\n\r\n"),
        (SSE[False].retry(1000), b"retry: 1000\n\n"),
        (SSE[True].retry(1000), b"d\r\nretry: 1000\n\n\r\n"),
        (SSE[False].end(), b""),
        (SSE[True].end(), LAST_CHUNK),
    ],
)
def test_the_bytes_of_each_form(actual, expected):
    """The bytes are a public protocol, and each byte is sent to every subscriber."""
    assert expected == actual


def test_a_notice_does_not_change_the_position():
    """A browser resumes from the last id; a notice has no id and must not clear it."""
    form = SSE[True]
    written = form.retry(250) + form.data(message_of(b"{}"), POSITION) + form.tell(NOTICE)
    body, planned = read_body(written + form.end(), chunked=True)
    source = EventSource(body.decode())

    assert [("message", "{}"), ("hedgehogd", NOTICE.decode())] == source.events
    assert source.last_event_id == POSITION
    assert source.retry_ms == 250
    assert planned


@pytest.mark.parametrize("form", [NDJSON[True], SSE[True]])
def test_a_planned_end_differs_from_a_broken_connection(form):
    """Without the last chunk a client cannot distinguish a drain from a crash."""
    written = form.data(message_of(b"{}"), "")

    assert not read_body(written, chunked=True)[1]
    assert read_body(written + form.end(), chunked=True)[1]


def test_a_line_and_an_event_are_made_once():
    """A thousand cohorts must not need a thousand copies of a 5 MB snapshot."""
    message = message_of(b"{\n}")
    NDJSON[True].data(message, "")
    SSE[True].data(message, POSITION)
    message.payload = b"no longer read"

    assert NDJSON[False].data(message, "") == b"{ }\n"
    assert SSE[False].data(message, "") == b"data: {\ndata: }\n\n"


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5))
def test_h11_reads_our_chunks(parts):
    """Many HTTP clients in Python use h11."""
    body = b"".join(map(chunk, parts)) + LAST_CHUNK

    assert (b"".join(parts), True) == read_body(body, chunked=True)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"a":1}', b'{"a":1}'),
        (b'{\n"a":1}', b'{ "a":1}'),
        (b'{\r"a":1}', b'{ "a":1}'),
        (b'{\r\n"a":1}\n', b'{  "a":1} '),
        ('{"a":"\u2028"}'.encode(), '{"a":"\u2028"}'.encode()),  # no line break in JSON or NDJSON
    ],
)
def test_a_line_break_becomes_a_space_without_another_change(payload, expected):
    """A line break is white space between tokens, and is not allowed in strings (RFC 8259)."""
    assert expected == one_line(payload)
