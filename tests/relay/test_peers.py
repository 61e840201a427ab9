"""Asking another instance: its answer, its absence, its silence."""

import h11
import pytest
import trio

from hedgehogd.relay import peers as module
from hedgehogd.relay.peers import PeerGone, Peers, PeerSilent
from hedgehogd.relay.sockets import own_socket

BODY = b'{"channels":["ticker"]}'


async def serve_once(listener, answer, heard):
    """Stand in for another instance: read one request whole, send ``answer``, hang up."""
    async with await trio.SocketListener(trio.socket.from_stdlib_socket(listener)).accept() as peer:
        http = h11.Connection(h11.SERVER)
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await peer.receive_some())
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                heard.append(event)
        await peer.send_all(answer)


@pytest.fixture
async def ask(nursery, tmp_path):
    """Ask instance 2, which answers as told."""

    async def ask(answer, *args, **kwargs):
        heard = []
        with own_socket(tmp_path, 2) as listener:
            nursery.start_soon(serve_once, listener, answer, heard)
            async with Peers(tmp_path, 1) as peers:
                return await peers.ask(2, *args, **kwargs), heard

    return ask


async def test_a_request_arrives_as_it_was_made_and_its_answer_as_well(ask):
    """The owner judges; nothing is changed on the way."""
    said = b"HTTP/1.1 404 x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    headers = [(b"Hedgehog-Session", b"2.\xe9"), (b"Content-Type", b"application/json")]
    answer, (request, data) = await ask(said, "POST", "/a%20b?c=d", headers, BODY)

    assert answer == (404, "application/json", b"{}")
    assert (request.method, request.target, data.data) == (b"POST", b"/a%20b?c=d", BODY)
    sent = dict(request.headers)
    assert sent[b"hedgehog-session"] == b"2.\xe9"
    assert sent[b"content-type"] == b"application/json"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
async def test_one_that_hangs_up_and_listens_still_is_not_gone(ask, answer):
    """Its streams flow; a 404 would make a client give up on a living one."""
    with pytest.raises(PeerSilent, match="instance 2 does not answer: "):
        await ask(answer, "GET", "/")


async def test_one_that_is_killed_while_it_answers_is_gone(nursery, tmp_path):
    """Nobody will ever answer for its streams again."""

    async def die(listener):
        async with await listener.accept():
            await listener.aclose()

    with own_socket(tmp_path, 2) as listener:
        nursery.start_soon(die, trio.SocketListener(trio.socket.from_stdlib_socket(listener)))
        async with Peers(tmp_path, 1) as peers:
            with pytest.raises(PeerGone, match="instance 2 is gone"):
                await peers.ask(2, "GET", "/")


async def test_one_that_dribbles_is_silent(nursery, tmp_path, monkeypatch):
    """The limit is for the whole answer, not for each of its bytes."""
    monkeypatch.setattr(module.limits, "PEER_ANSWER_S", 0.1)

    async def dribble(stream):
        while True:
            await stream.send_all(b"H")
            await trio.sleep(0.02)

    with own_socket(tmp_path, 2) as listener:
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
        nursery.start_soon(trio.serve_listeners, dribble, listeners)
        async with Peers(tmp_path, 1) as peers:
            with pytest.raises(PeerSilent):
                await peers.ask(2, "GET", "/")
        nursery.cancel_scope.cancel()


async def test_one_without_a_listener_is_gone(tmp_path):
    """Whether its socket was left behind or not."""
    async with Peers(tmp_path, 1) as peers:
        with pytest.raises(PeerGone):
            await peers.ask(2, "GET", "/")
        with own_socket(tmp_path, 2) as listener:
            listener.close()
            with pytest.raises(PeerGone):
                await peers.ask(2, "GET", "/")


async def test_one_that_says_nothing_is_silent(tmp_path, monkeypatch):
    """A stopped process accepts in the kernel, and never answers."""
    monkeypatch.setattr(module.limits, "PEER_ANSWER_S", 0.05)
    with own_socket(tmp_path, 2):
        async with Peers(tmp_path, 1) as peers:
            with pytest.raises(PeerSilent):
                await peers.ask(2, "GET", "/")


async def test_the_others_are_all_but_oneself(tmp_path):
    """An instance needs no socket to know how it is."""
    with own_socket(tmp_path, 1), own_socket(tmp_path, 3), own_socket(tmp_path, 2):
        async with Peers(tmp_path, 2) as peers:
            assert peers.numbers() == [1, 3]


async def test_numbers_that_strangers_make_up_cost_nothing(tmp_path):
    """A session id in a request may name any instance; a client kept for each would fill us up."""
    async with Peers(tmp_path, 1) as peers:
        for number in range(2, 1000):
            with pytest.raises(PeerGone):
                await peers.ask(number, "GET", "/")

        assert peers._clients == {}
