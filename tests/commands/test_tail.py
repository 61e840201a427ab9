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

    async def tail(what):
        await trio.lowlevel.checkpoint()
        seen.append(what)
        return 69

    monkeypatch.setattr(stream_printer, "tail", tail)
    assert run_command("tail", *argv.split())[0] == 69
    (what,) = seen
    assert (what.url, what.pairs, what.form) == (url, pairs, form)
    assert what.channels == ("ticker", "matches")
