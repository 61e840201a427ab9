"""Requests to a peer instance: its answer, its absence, its silence."""

import h11
import pytest
import trio

from hedgehogd.relay import peers as module
from hedgehogd.relay.peers import PeerGone, Peers, PeerSilent
from hedgehogd.relay.sockets import own_socket

BODY = b'{"channels":["ticker"]}'


async def serve_once(listener, answer, events):
    """Act as a peer instance: read one whole request, send ``answer``, close the connection."""
    async with await trio.SocketListener(trio.socket.from_stdlib_socket(listener)).accept() as peer:
        http = h11.Connection(h11.SERVER)
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await peer.receive_some())
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                events.append(event)
        await peer.send_all(answer)


@pytest.fixture
async def ask(nursery, tmp_path):
    """Send a request to instance 2, which sends ``answer``."""

    async def ask(answer, *args, **kwargs):
        events = []
        with own_socket(tmp_path, 2) as listener:
            nursery.start_soon(serve_once, listener, answer, events)
            async with Peers(tmp_path, 1) as peers:
                return await peers.ask(2, *args, **kwargs), events

    return ask


async def test_a_request_arrives_unchanged_and_so_does_its_answer(ask):
    """The instance of the session decides; the passing instance changes nothing."""
    response = b"HTTP/1.1 404 x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    headers = [(b"Hedgehog-Session", b"2.\xe9"), (b"Content-Type", b"application/json")]
    answer, (request, data) = await ask(response, "POST", "/a%20b?c=d", headers, BODY)

    assert answer == (404, "application/json", b"{}")
    assert (request.method, request.target, data.data) == (b"POST", b"/a%20b?c=d", BODY)
    sent = dict(request.headers)
    assert sent[b"hedgehog-session"] == b"2.\xe9"
    assert sent[b"content-type"] == b"application/json"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
async def test_a_peer_that_closes_the_connection_but_still_listens_is_not_gone(ask, answer):
    """Its sessions continue; a 404 would make a client give up on one of them."""
    with pytest.raises(PeerSilent, match="instance 2 does not answer: "):
        await ask(answer, "GET", "/")


async def test_a_peer_that_is_killed_while_it_answers_is_gone(nursery, tmp_path):
    """No instance will ever answer for its sessions again."""

    async def die(listener):
        async with await listener.accept():
            await listener.aclose()

    with own_socket(tmp_path, 2) as listener:
        nursery.start_soon(die, trio.SocketListener(trio.socket.from_stdlib_socket(listener)))
        async with Peers(tmp_path, 1) as peers:
            with pytest.raises(PeerGone, match="instance 2 is gone"):
                await peers.ask(2, "GET", "/")


async def test_a_peer_that_answers_too_slowly_is_silent(nursery, tmp_path, monkeypatch):
    """The limit applies to the whole answer, not to each of its bytes."""
    monkeypatch.setattr(module.limits, "PEER_ANSWER_S", 0.1)

    async def send_slowly(stream):
        while True:
            await stream.send_all(b"H")
            await trio.sleep(0.02)

    with own_socket(tmp_path, 2) as listener:
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
        nursery.start_soon(trio.serve_listeners, send_slowly, listeners)
        async with Peers(tmp_path, 1) as peers:
            with pytest.raises(PeerSilent):
                await peers.ask(2, "GET", "/")
        nursery.cancel_scope.cancel()


async def test_a_peer_without_a_listener_is_gone(tmp_path):
    """The result is the same with and without a remaining socket file."""
    async with Peers(tmp_path, 1) as peers:
        with pytest.raises(PeerGone):
            await peers.ask(2, "GET", "/")
        with own_socket(tmp_path, 2) as listener:
            listener.close()
            with pytest.raises(PeerGone):
                await peers.ask(2, "GET", "/")


async def test_a_peer_that_does_not_answer_is_silent(tmp_path, monkeypatch):
    """The kernel accepts for a stopped process, which never answers."""
    monkeypatch.setattr(module.limits, "PEER_ANSWER_S", 0.05)
    with own_socket(tmp_path, 2):
        async with Peers(tmp_path, 1) as peers:
            with pytest.raises(PeerSilent):
                await peers.ask(2, "GET", "/")


async def test_the_numbers_are_those_of_all_peers_without_ones_own(tmp_path):
    """An instance needs no socket to read its own state."""
    with own_socket(tmp_path, 1), own_socket(tmp_path, 3), own_socket(tmp_path, 2):
        async with Peers(tmp_path, 2) as peers:
            assert peers.numbers() == [1, 3]


async def test_an_unknown_number_costs_no_memory(tmp_path):
    """A request's session id may name any instance; one client per name would fill the memory."""
    async with Peers(tmp_path, 1) as peers:
        for number in range(2, 1000):
            with pytest.raises(PeerGone):
                await peers.ask(number, "GET", "/")

        assert peers._clients == {}
