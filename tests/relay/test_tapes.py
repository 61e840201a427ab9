"""What other instances remember: asked for as any subscriber would."""

import pytest
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.relay.peers import PeerGone, Peers
from hedgehogd.relay.sockets import own_socket
from hedgehogd.relay.tapes import Tapes

TOPIC = MATCHES.topic("BTC-USD")
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
)
REFUSED = b"HTTP/1.1 503 x\r\nContent-Length: 2\r\n\r\n{}"


SESSION = b'event: hedgehogd\ndata: {"type":"session","session":"2.x","instance":2}\n\n'
RESUMED = b'event: hedgehogd\ndata: {"type":"resumed","topics":[],"messages":1}\n\n'


def chunk(text):
    return b"%x\r\n%b\r\n" % (len(text), text)


def events(*sequences, end=RESUMED):
    """Return a stream of trades that says when it is live, and goes on."""
    text = b"".join(
        b'data: {"type":"match","product_id":"BTC-USD",\ndata: "sequence":%d}\nid: x@%d\n\n'
        % (n, n)
        for n in sequences
    )
    return HEAD + chunk(SESSION + b":\n\n" + text[:20]) + chunk(text[20:] + end)


@pytest.fixture
async def fetch(nursery, tmp_path):
    """Fetch from instances 2, 3 … which answer as told; return what was found, and asked."""

    async def serve(listener, answer, asked):
        server = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        async with await server.accept() as peer:
            asked.append((await peer.receive_some()).split(b" ")[1].decode())
            await peer.send_all(answer)
            if answer.startswith(HEAD) and not answer.endswith(b"0\r\n\r\n"):
                await peer.receive_some()  # it goes on until we hang up

    async def fetch(*answers, **after):
        after = {Topic(channel, "BTC-USD"): n for channel, n in after.items()} or {TOPIC: 4}
        asked = []
        sockets = [own_socket(tmp_path, number) for number, _ in enumerate(answers, 2)]
        for own, answer in zip(sockets, answers, strict=True):
            nursery.start_soon(serve, own.__enter__(), answer, asked)
        await trio.testing.wait_all_tasks_blocked()
        try:
            async with Peers(tmp_path, 1) as peers:
                found = await Tapes(peers).fetch(after)
        finally:
            for own in sockets:
                own.__exit__(None, None, None)
        return found and [(m.topic.channel, m.sequence) for m in found], asked

    return fetch


async def test_it_is_asked_from_a_position_on_and_hung_up_on_when_it_is_live(fetch):
    """Strictly, and alone: it must neither skip something nor ask others itself."""
    found, asked = await fetch(events(5, 6, 7))

    assert found == [("matches", 5), ("matches", 6), ("matches", 7)]
    query = "channels=matches&pairs=BTC-USD&last_event_id=matches%3ABTC-USD%404"
    assert asked == [f"/api/v1/stream?{query}&strict=true&alone=true"]


async def test_nothing_behind_a_position_is_an_answer(fetch):
    """It knows that the topic is quiet."""
    assert (await fetch(events()))[0] == []


@pytest.mark.parametrize(
    "other",
    [REFUSED, HEAD, events(5, end=b""), events(5, end=b"") + b"0\r\n\r\n", b"nonsense\r\n\r\n",
        events(5, end=b"event: hedgehogd\ndata: nonsense\n\n"), events(end=b"data: nonsense\n\n")],
)  # fmt: skip
async def test_one_that_does_not_have_all_of_it_is_passed_over(fetch, other, monkeypatch):
    """It ends, breaks off, refuses, or does not come to it in time: the next is asked."""
    monkeypatch.setattr(limits, "PEER_ANSWER_S", 0.2)
    found, asked = await fetch(other, events(5, 6, 7))

    assert ([number for _, number in found], len(asked)) == ([5, 6, 7], 2)


async def test_where_nobody_has_it_there_is_none(fetch, monkeypatch):
    """Then it is told as a gap."""
    monkeypatch.setattr(limits, "PEER_ANSWER_S", 0.2)

    assert await fetch() == (None, [])
    assert (await fetch(REFUSED))[0] is None


async def test_no_more_is_taken_than_memory_allows(fetch, monkeypatch):
    """Two hours of ``full`` are for history."""
    monkeypatch.setattr(limits, "RESUME_FETCH_MESSAGES_MAX", 2)

    assert (await fetch(events(5, 6, 7)))[0] is None


async def test_all_topics_are_asked_for_at_once(fetch, tmp_path):
    """What the messages are of is known from what was asked for, as with the exchange's."""
    found, asked = await fetch(events(5, 7), full=4, matches=4, ticker=3)

    assert found == [("full", 5), ("full", 7)]
    assert "channels=full%2Cmatches%2Cticker&" in asked[0]
    assert (await fetch(events(5), ticker=3))[0] == []  # nobody asked for trades
    async with Peers(tmp_path, 1) as peers:
        with pytest.raises(PeerGone):
            async with peers.lines(9, "/"):
                pytest.fail("nobody is there")
