"""Hypercorn as the door uses it: one request per connection, and no task left afterwards."""

import json
from functools import partial

import pytest
import trio
from quart import Response
from quart_trio import QuartTrio

from hedgehogd.domain import limits
from hedgehogd.engine.streams import ReplayStream
from hedgehogd.web.app import make_app
from hedgehogd.web.server import control_handler, hypercorn_config

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
async def connect(nursery, instance):
    """Open a connection to the control plane."""
    handler = control_handler(make_app(instance))
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, handler, [listener])
    host, port = listener.socket.getsockname()
    return partial(trio.open_tcp_stream, host, port)


async def read_all(stream):
    answer = b""
    with trio.fail_after(1):  # Hypercorn once closed only after its read timeout, 10 s
        while data := await stream.receive_some():
            answer += data
    return answer


def test_hypercorn_serves_one_request_per_connection():
    """A second request on a connection would not pass the door."""
    config = hypercorn_config()

    assert config.keep_alive_max_requests == 1
    assert config.h11_max_incomplete_size == 16 * 1024
    assert config.read_timeout is None  # it would end a longer answer
    assert config.include_server_header is False
    assert config.accesslog is None


@pytest.mark.parametrize("requests", [1, 2])
async def test_an_answer_ends_its_connection(connect, requests):
    """The connection ends even if the client has pipelined another request."""
    async with await connect() as stream:
        await stream.send_all(REQUEST * requests)
        answer = await read_all(stream)

    assert answer.count(b"HTTP/1.1 200") == 1
    assert b"connection: close" in answer.lower()
    assert b"server:" not in answer.lower()
    assert answer.endswith(b'{"status":"alive"}\n')


async def test_an_answer_may_take_longer_than_a_head(nursery, autojump_clock):
    """Hypercorn once ended it, because a client that waits for its answer sends no bytes."""
    autojump_clock.autojump_threshold = 0.005  # the sockets are real
    app, parts = QuartTrio("slow"), 4

    @app.get("/")
    async def slow():
        async def body():
            for part in range(parts):
                await trio.sleep(limits.HEAD_TIMEOUT_S / 2)
                yield str(part).encode()

        response = Response(body())
        response.timeout = None
        return response

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, control_handler(app), [listener])
    async with await trio.open_tcp_stream(*listener.socket.getsockname()) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while data := await stream.receive_some():
            answer += data

    assert answer.endswith(b"\r\n1\r\n3\r\n0\r\n\r\n")


async def test_a_request_in_pieces_is_one_request(connect, nursery):
    """The door passes a head on; TCP may split the request at any byte."""
    async with await connect() as stream:
        for byte in REQUEST:
            await stream.send_all(bytes((byte,)))
        assert b"200" in await read_all(stream)


async def test_bytes_that_are_not_http_are_refused_and_the_connection_ends(connect):
    """Bad input ends that peer's connection only."""
    async with await connect() as stream:
        await stream.send_all(b"\x16\x03\x01 hello\r\n\r\n")
        answer = await read_all(stream)
    assert answer.startswith(b"HTTP/1.1 400") or answer == b""

    async with await connect() as stream:
        await stream.send_all(REQUEST)
        assert b"200" in await read_all(stream)


HEAD_OF_POST = b"POST /api/v1/subscribe/BTC-USD HTTP/1.1\r\nHost: localhost\r\n"


async def refusal(stream):
    """Return an error's status and code."""
    with trio.fail_after(limits.HEAD_TIMEOUT_S):
        head, body = b"", b""
        while data := await stream.receive_some():
            head += data
    head, _, body = head.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower()
    assert f"content-length: {len(body)}".encode() in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]["code"]


async def test_a_missing_body_is_answered(connect, autojump_clock):
    """The client has to learn of its failed request; Hypercorn would only close the connection."""
    autojump_clock.autojump_threshold = 0.005  # the sockets are real
    async with await connect() as stream:
        await stream.send_all(HEAD_OF_POST + b"Content-Length: 20\r\n\r\n{")
        assert await refusal(stream) == (408, "request_timeout")


@pytest.mark.parametrize("body", [b"zz\r\n{}\r\n", b"2\r\n{}xx"])
async def test_a_body_that_is_no_http_is_refused_in_the_form_of_all_errors(connect, body):
    """Hypercorn refuses it itself, with a status and an empty body."""
    async with await connect() as stream:
        await stream.send_all(HEAD_OF_POST + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        assert await refusal(stream) == (400, "bad_request")


async def test_a_peer_that_leaves_is_no_error(connect):
    """Port scanners and TCP health checks connect and leave."""
    for sent in (b"", REQUEST[:10], REQUEST):
        stream = await connect()
        await stream.send_all(sent)
        await stream.aclose()
    async with await connect() as stream:
        await stream.send_all(REQUEST)
        assert b"200" in await read_all(stream)


@pytest.mark.parametrize(
    "path", ["/healthz", "/metrics", "/api/v1/openapi.json", "/products", "/nowhere"]
)
async def test_a_peer_that_ends_its_sending_side_is_answered(connect, path):
    """``nc -N`` ends its sending side after the request, and still reads."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    answers = []
    for ends in (False, True):
        async with await connect() as stream:
            await stream.send_all(request)
            if ends:
                await stream.send_eof()
            answers.append((await read_all(stream)).partition(b"\r\n")[0])

    assert answers[0] == answers[1]
    assert answers[0].startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize(
    ("path", "is_coinbases"), [("/products/BTC-USD", True), ("/api/v1/subscribe/BTC-USD", False)]
)
@pytest.mark.parametrize("end", [b"xyz\r\n", b"5\r\nab"])
async def test_a_malformed_body_is_refused_in_the_form_of_its_path(
    instance, nursery, path, is_coinbases, end
):
    """Hypercorn's own refusal has no body."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    ).encode()
    handler = control_handler(make_app(instance))
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def handle(stream):
        await handler(ReplayStream(stream, head))

    nursery.start_soon(trio.serve_listeners, handle, [listener])
    async with await trio.open_tcp_stream(*listener.socket.getsockname()) as stream:
        await stream.send_all(end)
        await stream.send_eof()
        answer = await read_all(stream)
    error = json.loads(answer.partition(b"\r\n\r\n")[2])

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert (list(error) == ["message"]) == is_coinbases


@pytest.mark.parametrize(
    "path", ["/healthz", "/nowhere", "/products", "/api/v1/openapi.json", "/?x=1"]
)
async def test_an_answer_to_head_has_no_body(connect, path):
    """A client would parse a body as another response."""
    answers = []
    for method in ("GET", "HEAD"):
        async with await connect() as stream:
            await stream.send_all(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answers.append((await read_all(stream)).partition(b"\r\n\r\n"))

    (got, _, body), (asked, _, nothing) = answers
    lines = [[x for x in each.splitlines() if not x.startswith(b"date:")] for each in (got, asked)]
    assert lines[0] == lines[1]
    assert body
    assert nothing == b""
