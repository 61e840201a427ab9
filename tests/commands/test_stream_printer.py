"""The printed stream: one line a message, and the reason of its end."""

import gc
import io
import json
import os
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
import trio
from trio_websocket import ConnectionClosed, serve_websocket

from hedgehogd.commands import stream_printer as module
from hedgehogd.commands.stream_printer import Counts, Stream, human, print_stream
from hedgehogd.domain import limits

# trio-websocket does not close the socket of a connection that its peer has closed first.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


TICKER = (
    '{"type":"ticker","product_id":"BTC-USD","price":"1.50","best_bid":"1.4",'
    '"side":"buy","time":"2021-04-17T16:43:30.123456Z"}'
)


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (TICKER, "16:43:30.123 ticker        BTC-USD   side=buy price=1.50 best_bid=1.4"),
        (
            '{"type":"l2update","product_id":"A-B","changes":[["buy","1","2"],["sell","3","0"]]}',
            "             l2update      A-B       buy 1 2, sell 3 0",
        ),
        (
            '{"type":"l2update","product_id":"A-B","changes":[["a"],["b"],["c"],["d"],["e"]]}',
            "             l2update      A-B       a, b, c +2",
        ),
        (
            '{"type":"snapshot","product_id":"A-B","bids":[["1","2"]],"asks":[]}',
            "             snapshot      A-B       1 bids, 0 asks",
        ),
        (
            '{"type":"error","message":"no"}',
            '             error                   {"message":"no"}',
        ),
        ('{"type":"gap"}', "             gap"),
        ('{"type":7}', '{"type":7}'),
        ("[1]", "[1]"),
        ("hello", "hello"),
    ],
)  # fmt: skip
def test_a_message_is_a_line_of_its_essential_fields(payload, line):
    """Unexpected messages are shown unchanged: to hide them would help no operator."""
    assert human(payload) == line


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_counts_are_kept_below_the_messages(monkeypatch):
    """On a terminal only, and not at every message."""
    clock = iter([100.0, 100.6, 100.7, 100.9, 104.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    out = Terminal()
    counts = Counts(out)
    for payload in (TICKER, TICKER, "junk"):
        counts.add(payload)
    counts.show()
    assert out.getvalue() == "\r\x1b[K3 messages, 4.3/s  ticker=2 ?=1"
    counts.show()  # too soon
    counts.clear()
    assert out.getvalue().endswith("?=1\r\x1b[K")
    assert str(counts) == "3 messages, 0.8/s  ticker=2 ?=1"


def test_without_a_terminal_there_are_no_counts():
    """stderr in a file is for errors."""
    out = io.StringIO()
    counts = Counts(out)
    counts.show()
    counts.clear()

    assert out.getvalue() == ""


@pytest.fixture
def exchange(nursery):
    """Serve WebSockets: ``talk(connection)`` for each; return the URL."""

    async def serve(talk):
        async def handle(request):
            with suppress(ConnectionClosed):
                await talk(request)

        def start(task_status):
            return serve_websocket(handle, "127.0.0.1", 0, None, task_status=task_status)

        server = await nursery.start(start)
        return f"ws://127.0.0.1:{server.port}"

    yield serve
    gc.collect()  # so that its warning does not reach another test


def wish(url, pairs=("BTC-USD",), form="raw", count_max=0):
    return Stream(url, pairs, ("ticker",), form, count_max)


@pytest.mark.parametrize(("form", "start"), [("raw", '{"type'), ("human", "16:43:30")])
async def test_it_subscribes_and_prints(exchange, capsys, form, start):
    """The raw form is the message's own text, fit for a recording."""
    requests = []

    async def talk(request):
        connection = await request.accept()
        requests.append(json.loads(await connection.get_message()))
        while True:
            await connection.send_message(TICKER)

    status = await print_stream(wish(await exchange(talk), form=form, count_max=2))
    lines = capsys.readouterr().out.splitlines()

    assert status == 0
    assert requests == [{"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["ticker"]}]
    assert len(lines) == 2
    assert lines[0].startswith(start)
    assert form == "human" or lines == [TICKER] * 2


async def test_a_url_that_subscribes_gets_no_request(exchange, capsys):
    """``/api/v1/subscribe/BTC-USD`` is subscribed already; binary text is printed as text."""

    async def talk(request):
        connection = await request.accept()
        await connection.send_message(b"\xff!")

    assert await print_stream(wish(await exchange(talk), pairs=(), count_max=1)) == 0
    assert capsys.readouterr().out == "\N{REPLACEMENT CHARACTER}!\n"


@pytest.mark.parametrize(
    ("code", "reason", "says"),
    [(1012, "restart", "closed: 1012 restart"), (4001, None, "closed: 4001")],
)
async def test_a_close_is_69_with_its_reason(exchange, capsys, code, reason, says):
    """A script restarts the command; an operator reads the reason."""

    async def talk(request):
        connection = await request.accept()
        await connection.aclose(code, reason)

    url = await exchange(talk)
    assert await print_stream(wish(url, pairs=())) == 69
    assert capsys.readouterr().err == f"hedgehogd: {url} {says}\n"


async def test_an_unknown_pair_ends_the_command(exchange, capsys):
    """To wait for ever after an error that has scrolled away helps no operator."""

    async def talk(request):
        connection = await request.accept()
        await connection.get_message()
        await connection.send_message('{"type":"error","message":"Failed to subscribe"}')
        await connection.send_message('{"type":"subscriptions","channels":[]}')
        await trio.sleep_forever()

    assert await print_stream(wish(await exchange(talk))) == 69
    assert capsys.readouterr().err == "hedgehogd: none of these topics exists there\n"


async def test_a_refusal_has_the_servers_text(exchange, capsys):
    """The body names the wrong path or pair."""

    async def talk(request):
        await request.reject(404, body=b'{"error":"no stream"}')

    url = await exchange(talk)
    assert await print_stream(wish(url)) == 69
    assert capsys.readouterr().err == (
        f'hedgehogd: cannot open {url}: HTTP 404 {{"error":"no stream"}}\n'
    )


async def test_a_password_and_a_token_are_sent_and_not_shown(exchange, capsys):
    """Even when the server repeats them, with an escape sequence."""
    heads = []

    async def talk(request):
        heads.append((request.path, dict(request.headers)[b"authorization"]))
        await request.reject(403, body=b"p%2Fw-s3cret\x1b[2J t0ken-s3cret")

    url = (await exchange(talk)).replace("ws://", "ws://reader:p%2Fw-s3cret@")
    assert await print_stream(wish(f"{url}/x?token=t0ken-s3cret")) == 69
    assert heads == [("/x?token=t0ken-s3cret", b"Basic cmVhZGVyOnAvdy1zM2NyZXQ=")]
    err = capsys.readouterr().err
    assert "HTTP 403 ***\\x1b[2J ***" in err
    assert "s3cret" not in err


async def test_a_refused_connection_is_reported_in_words(capsys):
    """A new user must not see "HandshakeError" first."""
    assert await print_stream(wish("ws://127.0.0.1:1/")) == 69
    err = capsys.readouterr().err

    assert err.startswith("hedgehogd: cannot open ws://127.0.0.1:1/: network: all attempts")
    assert "Error" not in err


async def test_a_peer_without_tls_is_reported_at_once(exchange, capsys):
    """The library alone waits a minute for such a peer, and then reports nothing."""
    url = (await exchange(None)).replace("ws:", "wss:")
    assert await print_stream(wish(url)) == 69

    err = capsys.readouterr().err
    assert err.startswith(f"hedgehogd: cannot open {url}: ")
    assert "SSL" in err


async def test_a_silent_peer_is_closed_after_a_timeout(nursery, capsys, autojump_clock):
    """A peer may accept the connection and send nothing."""

    async def say_nothing(stream):
        await trio.sleep_forever()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, say_nothing, [listener])
    url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/"
    with trio.fail_after(limits.DIAL_TIMEOUT_S + 1):
        assert await print_stream(wish(url)) == 69

    assert capsys.readouterr().err == (
        f"hedgehogd: cannot open {url}: timeout: no connection in time\n"
    )


async def test_on_a_terminal_the_counts_stay_at_the_end(exchange, capsys, monkeypatch):
    """The total remains on the screen."""
    monkeypatch.setattr(sys, "stderr", Terminal())

    async def talk(request):
        connection = await request.accept()
        await connection.send_message(TICKER)

    assert await print_stream(wish(await exchange(talk), pairs=(), count_max=1)) == 0
    assert "1 messages" in sys.stderr.getvalue().splitlines()[-1]


async def test_head_may_close_the_pipe(exchange):
    """``hedgehogd tail BTC-USD | head -1`` ends quietly, with 0."""

    async def talk(request):
        connection = await request.accept()
        while True:
            await connection.send_message(TICKER)

    url = await exchange(talk)
    command = [sys.executable, "-m", "hedgehogd", "tail", url]
    async with trio.open_nursery() as nursery:
        read_end, write_end = os.pipe()
        done = []

        async def run():
            done.append(
                await trio.run_process(command, stdout=write_end, capture_stderr=True, check=False)
            )

        nursery.start_soon(run)
        await trio.to_thread.run_sync(os.read, read_end, 100)
        os.close(read_end)
        os.close(write_end)
    assert (done[0].returncode, done[0].stderr) == (0, b"")
