"""``tail``: the URL and the topics that its arguments mean."""

import pytest
import trio

from hedgehogd.commands import stream_printer

pytestmark = pytest.mark.usefixtures("clean")


@pytest.mark.parametrize(
    ("argv", "url", "pairs", "form"),
    [
        ("btc-usd", "ws://127.0.0.1:8001/ws-feed", ("BTC-USD",), "raw"),
        ("BTC-USD --port 9 --pairs a-b", "ws://127.0.0.1:9/ws-feed", ("BTC-USD", "A-B"), "raw"),
        ("ws://a/ws --pairs A-B --format human", "ws://a/ws", ("A-B",), "human"),
        ("wss://a", "wss://a", (), "raw"),
    ],
)  # fmt: skip
def test_tail_reads_a_local_pair_or_any_url(run_command, monkeypatch, argv, url, pairs, form):
    """``hedgehogd tail BTC-USD`` needs no URL."""
    seen = []

    async def print_stream(stream):
        await trio.lowlevel.checkpoint()
        seen.append(stream)
        return 69

    monkeypatch.setattr(stream_printer, "print_stream", print_stream)
    assert run_command("tail", *argv.split())[0] == 69
    (stream,) = seen
    assert (stream.url, stream.pairs, stream.form) == (url, pairs, form)
    assert stream.channels == ("ticker", "matches")
