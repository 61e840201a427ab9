"""The door: the plane of each request, and the refusals of bad requests."""

import errno
import json
import socket
from types import SimpleNamespace

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from hedgehogd.domain import limits
from hedgehogd.domain.networks import read_networks
from hedgehogd.protocol.access import Access, CrossOrigins
from hedgehogd.streaming.admission import Addresses
from tests.streaming.conftest import CONTROL_ANSWER, Served, read_all, read_to, serve


async def _refused(stream: trio.SocketStream) -> tuple[int, str]:
    """Return status and error code of a refusal; assert its form."""
    head, _, body = (await read_all(stream)).partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head
    error = msgspec.json.decode(body)["error"]
    assert {"code", "message"} == error.keys()
    return int(head.split()[1]), error["code"]


async def test_a_request_for_no_stream_reaches_the_control_plane_unchanged(served: Served) -> None:
    """Hypercorn must receive the request as if it had read it itself."""
    stream = await served.ask("POST /api/v1/subscribe/BTC-USD HTTP/1.1\nHost: x\nContent-Length: 0")

    assert await read_all(stream) == CONTROL_ANSWER
    assert served.control_saw.startswith(b"POST /api/v1/subscribe/BTC-USD HTTP/1.1\r\nHost: x\r\n")
    await served.all_gone()


async def test_an_upgrade_to_http2_is_removed(served: Served) -> None:
    """Hypercorn would accept it and keep the connection for more requests."""
    stream = await served.ask(
        "GET /healthz HTTP/1.1\nHost: x\nUpgrade: h2c\nHTTP2-Settings: AAMA\nConnection: Upgrade"
    )

    assert await read_all(stream) == CONTROL_ANSWER
    assert served.control_saw == b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\r\n"


REFUSED = {
    "http2": ("PRI * HTTP/2.0", 505, "http_version"),
    "no http": ("HELLO", 400, "bad_request"),
    "no host": ("GET / HTTP/1.1", 400, "bad_request"),
    "bad header": ("GET / HTTP/1.1\nHost: x\nA b: c", 400, "bad_request"),
    "no key": (
        (
            "GET /ws HTTP/1.1\nHost: x\nUpgrade: websocket\nConnection: Upgrade\n"
            "Sec-WebSocket-Version: 13"
        ),
        400,
        "bad_handshake",
    ),
    "old version": (
        (
            "GET /ws HTTP/1.1\nHost: x\nUpgrade: websocket\nConnection: Upgrade\n"
            "Sec-WebSocket-Version: 8\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        ),
        426,
        "bad_handshake",
    ),
    "no such stream": (
        (
            "GET /nowhere HTTP/1.1\nHost: x\nUpgrade: websocket\nConnection: Upgrade\n"
            "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        ),
        404,
        "no_such_stream",
    ),
    "no such form": (
        "GET /api/v1/stream HTTP/1.1\nHost: x\nAccept: text/csv",
        406,
        "not_acceptable",
    ),
    "no such channel": (
        "GET /api/v1/stream?pairs=BTC-USD&channels=tick HTTP/1.1\nHost: x",
        400,
        "unknown_channel",
    ),
    "no such policy": (
        "GET /api/v1/stream?pairs=BTC-USD&policy=drop HTTP/1.1\nHost: x",
        400,
        "bad_request",
    ),
    "no such pair": ("GET /api/v1/subscribe/nonsense HTTP/1.1\nHost: x", 404, "unknown_pair"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_request_that_cannot_be_served_gets_an_error(served: Served, case: str) -> None:
    """The error has a status, a code for machines and a sentence, and never a traceback."""
    request, status, code = REFUSED[case]

    assert (status, code) == await _refused(await served.ask(request))
    assert {code: 1} == served.instance.counts.refusals
    await served.all_gone()


async def test_a_head_that_is_too_large_is_refused(served: Served) -> None:
    """An input without a limit can exhaust the memory."""
    stream = await served.connect()
    await stream.send_all(b"GET / HTTP/1.1\r\nA: " + b"x" * limits.HEAD_BYTES_MAX)

    assert await _refused(stream) == (431, "head_too_large")


async def test_heads_that_arrived_together_are_refused_one_after_the_other(
    served: Served, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand refusals in one turn of the loop would delay all other work."""
    shares = [0.0, 0.25, 0.5, 1.0]
    chance = SimpleNamespace(random=iter(shares).__next__)
    monkeypatch.setattr("hedgehogd.streaming.door.random", chance)
    begin, times = trio.current_time(), []
    streams = [await served.connect() for _ in shares]
    for stream in streams:
        await stream.send_all(b"GET / HT")
    for stream in streams:
        assert await _refused(stream) == (408, "head_too_slow")
        times.append(trio.current_time() - begin)

    spread_s = limits.HEAD_TIMEOUT_SPREAD_S
    expected = [limits.HEAD_TIMEOUT_S + share * spread_s for share in shares]
    assert times == [pytest.approx(each, abs=0.2) for each in expected]


async def test_a_head_that_is_too_slow_is_refused(
    served: Served, autojump_clock: trio.testing.MockClock
) -> None:
    """A peer that sends a byte per second holds no place for long."""
    stream = await served.connect()
    await stream.send_all(b"GET / HT")

    assert await _refused(stream) == (408, "head_too_slow")


async def test_a_peer_that_sends_nothing_is_closed(
    served: Served, autojump_clock: trio.testing.MockClock
) -> None:
    """There is no request to answer, but the connection is counted."""
    stream = await served.connect()

    assert await read_all(stream) == b""
    assert served.instance.counts.refusals == {"said_nothing": 1}


async def test_a_tls_hello_on_the_plain_port_is_answered_at_once(served: Served) -> None:
    """The most common mistake, wss:// instead of ws://, must not look like a hang."""
    stream = await served.connect()
    await stream.send_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")

    assert await _refused(stream) == (400, "bad_request")


async def test_a_peer_that_leaves_before_its_head_is_complete_leaves_no_state(
    served: Served,
) -> None:
    """Port scanners and health checks do so all day."""
    stream = await served.connect()
    await stream.send_all(b"GET / HT")
    await stream.aclose()
    await served.all_gone()

    assert served.instance.counts.refusals == {}


async def test_a_head_may_come_byte_by_byte_and_after_blank_lines(served: Served) -> None:
    """RFC 9112 §2.2 has leading empty lines ignored; TCP keeps no boundaries."""
    stream = await served.connect()
    for byte in b"\r\n\r\nGET /x HTTP/1.1\nHost: x\n\n":
        await stream.send_all(bytes((byte,)))

    assert await read_all(stream) == CONTROL_ANSWER


async def _ended(stream: trio.SocketStream) -> bool:
    """Wait until the peer sends bytes or ends, and close; return whether it ended."""
    async with stream:
        try:
            return await stream.receive_some() == b""
        except trio.BrokenResourceError:
            return True


async def _visitors(served: Served, count: int) -> None:
    """Wait until the door has accepted this number of connections."""
    with trio.fail_after(5):
        while served.instance.counts.visitors != count:
            await trio.sleep(0.001)


async def test_the_oldest_silent_connection_is_evicted(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections without a head must not lock out clients that send one."""
    monkeypatch.setattr(limits, "VISITORS_MAX", 2)
    idle = [await served.connect()]
    await _visitors(served, 1)
    idle.append(await served.connect())
    await idle[1].send_all(b"GET / HT")
    await _visitors(served, 2)
    third = await served.ask("GET /x HTTP/1.1\nHost: x")

    assert await read_all(third) == CONTROL_ANSWER
    assert await _ended(idle[0])
    await idle[1].send_all(b"TP/1.1\r\nHost: x\r\n\r\n")
    assert await read_all(idle[1]) == CONTROL_ANSWER
    assert served.instance.counts.refusals == {"too_many_visitors": 1}
    await served.all_gone()


async def test_many_simultaneous_connections_are_bounded_too(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of many accepts in one turn evicts an earlier connection."""
    monkeypatch.setattr(limits, "VISITORS_MAX", 3)
    crowd = [await served.connect() for _ in range(20)]
    with trio.fail_after(5):
        while served.instance.counts.refusals["too_many_visitors"] != 17:
            await trio.sleep(0.001)
    await _visitors(served, 3)

    assert all([await _ended(stream) for stream in crowd[:17]])
    for stream in crowd[17:]:
        await stream.aclose()
    await served.all_gone()


async def test_an_address_with_many_silent_connections_pays_for_newcomers(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest connection belongs to another address, and keeps its place."""
    monkeypatch.setattr(limits, "VISITORS_MAX", 4)
    honest = await served.connect(source="127.0.0.3")
    await _visitors(served, 1)
    crowd = [await served.connect(source="127.0.0.2") for _ in range(30)]
    with trio.fail_after(5):
        while served.instance.counts.refusals["too_many_visitors"] != 27:
            await trio.sleep(0.001)
    await honest.send_all(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")

    assert await read_all(honest) == CONTROL_ANSWER
    for stream in crowd:
        await stream.aclose()
    await served.all_gone()


async def test_a_connection_whose_refusal_is_being_sent_can_be_evicted(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a client that keeps its refused connection open holds a place for 2 s."""
    monkeypatch.setattr(limits, "VISITORS_MAX", 1)
    first = await served.ask("HELLO")
    answer = await read_to(first, b"\r\n")
    second = await served.ask("GET /x HTTP/1.1\nHost: x")

    assert await read_all(second) == CONTROL_ANSWER
    assert answer == b"HTTP/1.1 400 Bad Request\r\n"
    assert served.instance.counts.refusals == {"bad_request": 1, "too_many_visitors": 1}
    await first.aclose()
    await served.all_gone()


POST = "POST /x HTTP/1.1\nHost: x\nContent-Length: 9"


async def _answering(served: Served, count: int) -> None:
    """Wait until the control plane has this number of requests."""
    with trio.fail_after(5):
        while len(served.door._controls) != count:
            await trio.sleep(0.001)


async def test_an_idle_control_request_is_evicted_for_another(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """The request without progress for the longest time is closed, and the newcomer is served."""
    monkeypatch.setattr(limits, "CONTROL_REQUESTS_MAX", 2)
    served = await serve(nursery, waits_for_bodies=True)
    slow = []
    for count in (1, 2):
        slow.append(await served.ask(POST))
        await _answering(served, count)
        await trio.sleep(limits.CONTROL_GRACE_S)
    await slow[0].send_all(b"x")
    await trio.sleep(limits.CONTROL_GRACE_S / 2)
    quick = await served.ask("GET /x HTTP/1.1\nHost: x")

    assert await read_all(quick) == CONTROL_ANSWER
    assert await _ended(slow[1])
    await slow[0].send_all(b"12345678")
    assert await read_all(slow[0]) == CONTROL_ANSWER
    assert served.instance.counts.refusals == {"control_evicted": 1}
    await served.all_gone()


async def test_a_full_control_plane_answers_503_and_still_accepts_streams(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recent requests are not ended for another of the same address."""
    monkeypatch.setattr(limits, "CONTROL_REQUESTS_MAX", 2)
    monkeypatch.setattr(limits, "VISITORS_MAX", 1)
    monkeypatch.setattr(limits, "CONTROL_GRACE_S", 60.0)
    served = await serve(nursery, waits_for_bodies=True)
    slow = []
    for count in (1, 2):
        slow.append(await served.ask(POST))
        await _answering(served, count)

    assert await _refused(await served.ask(POST)) == (503, "too_many_requests")
    stream = await served.upgrade("/ws")
    assert served.instance.counts.refusals == {"too_many_requests": 1}
    for each in (*slow, stream):
        await each.aclose()
    await served.all_gone()


async def test_an_address_with_many_control_requests_pays_for_newcomers(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds within the grace too, because its share is the largest."""
    monkeypatch.setattr(limits, "CONTROL_REQUESTS_MAX", 3)
    monkeypatch.setattr(limits, "CONTROL_GRACE_S", 60.0)
    served = await serve(nursery, waits_for_bodies=True)
    honest = await served.ask(POST, source="127.0.0.3")
    await _answering(served, 1)
    crowd = []
    for count in (2, 3):
        crowd.append(await served.ask(POST, source="127.0.0.2"))
        await _answering(served, count)
    other = await served.ask("GET /x HTTP/1.1\nHost: x", source="127.0.0.4")

    assert await read_all(other) == CONTROL_ANSWER
    assert await _ended(crowd[0])
    await honest.send_all(b"123456789")
    assert await read_all(honest) == CONTROL_ANSWER
    await crowd[1].aclose()
    await served.all_gone()


def _pace(monkeypatch: pytest.MonkeyPatch, per_s: float, wait_max_s: float) -> None:
    monkeypatch.setattr(limits, "CONTROL_STARTS_BURST", 1)
    monkeypatch.setattr(limits, "CONTROL_STARTS_PER_S", per_s)
    monkeypatch.setattr(limits, "CONTROL_WAIT_MAX_S", wait_max_s)


async def _all_heads_read(served: Served, count: int) -> None:
    """Wait until the door has ``count`` connections, each with a complete head."""
    await _visitors(served, count)
    with trio.fail_after(5):
        while served.door._reading:
            await trio.sleep(0.001)


async def test_control_requests_of_one_address_are_delayed_and_not_those_of_another(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that would wait for too long is answered 503."""
    _pace(monkeypatch, per_s=0.001, wait_max_s=500.0)
    served = await serve(nursery, waits_for_bodies=True)
    crowd = []
    for count in (1, 2):
        crowd.append(await served.ask(POST, source="127.0.0.2"))
        await _all_heads_read(served, count)
    other = await served.ask("GET /x HTTP/1.1\nHost: x", source="127.0.0.3")

    assert await read_all(other) == CONTROL_ANSWER
    assert len(served.door._controls) == 1
    assert served.instance.counts.refusals == {}
    refused = await served.ask(POST, source="127.0.0.2")
    assert await _refused(refused) == (503, "too_many_requests")
    for stream in crowd:
        await stream.aclose()


async def test_delayed_control_requests_are_all_answered(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """They start one after the other, at the rate of an address."""
    _pace(monkeypatch, per_s=10.0, wait_max_s=5.0)
    served = await serve(nursery)
    begin = trio.current_time()
    crowd = [await served.ask("GET /x HTTP/1.1\nHost: x", source="127.0.0.2") for _ in range(5)]

    assert [await read_all(stream) for stream in crowd] == [CONTROL_ANSWER] * 5
    assert trio.current_time() >= begin + 0.4
    assert served.instance.counts.refusals == {}
    await served.all_gone()


async def test_an_evicted_delayed_control_request_is_not_started(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is closed at once, not at the time of its turn."""
    _pace(monkeypatch, per_s=0.001, wait_max_s=500.0)
    monkeypatch.setattr(limits, "VISITORS_MAX", 1)
    served = await serve(nursery, waits_for_bodies=True)
    first = await served.ask(POST, source="127.0.0.2")
    await _answering(served, 1)
    second = await served.ask("GET /second HTTP/1.1\nHost: x", source="127.0.0.2")
    await _all_heads_read(served, 2)
    third = await served.connect(source="127.0.0.3")
    with trio.fail_after(5):
        while not served.instance.counts.refusals["too_many_visitors"]:
            await trio.sleep(0.001)
    await first.send_all(b"123456789")

    assert await read_all(first) == CONTROL_ANSWER
    assert await _ended(second)
    await third.aclose()
    await served.all_gone()
    assert b"/second" not in served.control_saw


WISH = "GET /api/v1/stream?pairs=A-USD,B-USD&channels=ticker HTTP/1.1\nHost: x"


async def _serve_with_a_crowd(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, wait_max_s: float = 500.0
) -> tuple[Served, list[trio.SocketStream]]:
    """Serve one stream, and let three more of its address wait for their turn."""
    monkeypatch.setattr(limits, "COMMAND_TOPICS_BURST", 2)
    monkeypatch.setattr(limits, "COMMAND_TOPICS_SMALL_MAX", 1)
    monkeypatch.setattr(limits, "COMMAND_TOPICS_PER_S", 0.001)
    monkeypatch.setattr(limits, "ADDRESS_TOPICS_PER_S", 0.001)
    monkeypatch.setattr(limits, "CONTROL_WAIT_MAX_S", wait_max_s)
    served = await serve(nursery)
    crowd = []
    for _ in range(4):
        crowd.append(await served.ask(WISH, source="127.0.0.2"))
        if len(crowd) == 1:
            await read_to(crowd[0], b"\r\n\r\n")
    with trio.fail_after(5):
        while served.instance.turns.delayed != 3:
            await trio.sleep(0.001)
    return served, crowd


async def test_streams_whose_clients_leave_while_waiting_leave_no_state(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They count as visitors until their turn, and another address is served meanwhile."""
    monkeypatch.setattr(limits, "HALF_CLOSED_WAIT_S", 0.01)
    served, crowd = await _serve_with_a_crowd(nursery, monkeypatch)
    assert (served.instance.counts.visitors, len(served.door._heads)) == (3, 3)
    other = await served.ask(WISH.replace(",B-USD", ""), source="127.0.0.3")
    assert (await read_to(other, b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    for stream in (*crowd, other):
        await stream.aclose()
    await served.all_gone()

    assert (len(served.door._heads), len(served.plane.addresses)) == (0, 0)
    assert served.instance.turns._beyond_by_share.waiting("127.0.0.2") == 0


async def test_a_stream_whose_turn_does_not_come_in_time_is_refused(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client learns when to retry; so does one that has ended its sending side."""
    served, crowd = await _serve_with_a_crowd(nursery, monkeypatch, wait_max_s=0.2)
    for stream in crowd[1:]:
        with trio.fail_after(3):
            answer = await read_all(stream)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in answer
        assert b'"too_many_requests"' in answer
    monkeypatch.setattr(limits, "CONTROL_WAIT_MAX_S", 500.0)
    monkeypatch.setattr(limits, "HALF_CLOSED_WAIT_S", 0.01)
    half = await served.ask(WISH, source="127.0.0.2")
    await half.send_eof()
    with trio.fail_after(3):
        answer = await read_all(half)
    assert answer.startswith(b"HTTP/1.1 503 ")
    await crowd[0].aclose()
    await served.all_gone()

    assert served.instance.counts.refusals["too_many_requests"] == 4


async def test_a_stream_that_waits_for_its_turn_can_be_evicted(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is closed at once, even if it has sent more bytes."""
    served, crowd = await _serve_with_a_crowd(nursery, monkeypatch)
    await crowd[1].send_all(b"more")
    monkeypatch.setattr(limits, "VISITORS_MAX", 3)
    third = await served.connect(source="127.0.0.3")

    assert await _ended(crowd[1])
    for stream in (*crowd, third):
        await stream.aclose()
    await served.all_gone()


async def test_streams_that_wait_for_their_turn_are_refused_when_the_door_closes(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain does not wait for turns; the clients retry at another instance."""
    served, crowd = await _serve_with_a_crowd(nursery, monkeypatch)
    served.accepting.cancel()

    for stream in crowd[1:]:
        assert await _refused(stream) == (503, "too_many_requests")
    await crowd[0].aclose()
    await served.all_gone()


async def test_an_address_has_a_limit_of_connections_of_its_own(
    nursery: trio.Nursery,
) -> None:
    """Connections count from accept on, silent ones and streams included."""
    served = await serve(nursery, addresses=Addresses(connections_max=2))
    stream = await served.upgrade("/ws", source="127.0.0.2")
    silent = await served.connect(source="127.0.0.2")
    third = await served.connect(source="127.0.0.2")

    assert await _ended(third)
    other = await served.ask("GET /x HTTP/1.1\nHost: x", source="127.0.0.3")
    assert await read_all(other) == CONTROL_ANSWER
    await silent.aclose()
    await _visitors(served, 0)
    fourth = await served.ask("GET /x HTTP/1.1\nHost: x", source="127.0.0.2")
    assert await read_all(fourth) == CONTROL_ANSWER
    assert served.instance.counts.refusals == {"address_connections": 1}
    await stream.aclose()
    await served.all_gone()
    assert len(served.plane.addresses) == 0


FROM = "GET /x HTTP/1.1\nHost: x\nX-Forwarded-For: "


async def test_with_a_trusted_proxy_each_forwarded_address_has_its_own_limits(
    nursery: trio.Nursery,
) -> None:
    """A proxy on this machine must not exempt all clients, and has no limit itself."""
    addresses = Addresses(connections_max=1, connections_per_s=0.1)  # one in ten seconds
    served = await serve(nursery, addresses=addresses, trusted=read_networks(["127.0.0.1"]))

    assert await read_all(await served.ask(FROM + "203.0.113.9")) == CONTROL_ANSWER
    refused = await served.ask(FROM + "203.0.113.9")
    assert b"\r\nRetry-After: 10\r\n" in await read_to(refused, b"\r\n\r\n")
    assert b'"address_rate"' in await read_all(refused)
    for forwarded in ("203.0.113.10", "2001:db8::1", "2001:db8:0:1::1"):
        assert await read_all(await served.ask(FROM + forwarded)) == CONTROL_ANSWER
    assert await _refused(await served.ask(FROM + "2001:db8::2")) == (429, "address_rate")
    for _ in range(5):  # a local tool
        assert await read_all(await served.ask("GET /x HTTP/1.1\nHost: x")) == CONTROL_ANSWER
    assert served.instance.counts.refusals == {"address_rate": 2}
    await served.all_gone()


async def test_a_stream_through_a_proxy_counts_until_it_ends(nursery: trio.Nursery) -> None:
    """The connection is the proxy's, but it is charged to the subscriber's address."""
    addresses = Addresses(connections_max=1)
    served = await serve(nursery, addresses=addresses, trusted=read_networks(["127.0.0.1"]))
    first = await served.ask(FROM.replace("/x", "/api/v1/stream") + "203.0.113.9")
    await read_to(first, b"\r\n\r\n")

    assert await _refused(await served.ask(FROM + "203.0.113.9")) == (429, "address_connections")
    await first.aclose()
    await served.all_gone()
    assert await read_all(await served.ask(FROM + "203.0.113.9")) == CONTROL_ANSWER
    await served.all_gone()


async def test_an_untrusted_loopback_address_has_limits(
    nursery: trio.Nursery,
) -> None:
    """Its forwarding header is ignored."""
    served = await serve(nursery, addresses=Addresses(connections_max=1))
    held = await served.connect()
    await _visitors(served, 1)

    assert await _ended(await served.ask(FROM + "203.0.113.9"))
    assert served.instance.counts.refusals == {"address_connections": 1}
    await held.aclose()
    await served.all_gone()


async def test_a_closing_door_waits_briefly_for_heads(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A browser's spare idle connection would delay every restart by 10 s."""
    served = await serve(nursery)
    silent, half, late = [await served.connect() for _ in range(3)]
    await half.send_all(b"GET / HT")
    await _visitors(served, 3)
    served.accepting.cancel()
    began = trio.current_time()
    await late.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    assert await read_all(late) == CONTROL_ANSWER
    assert await _ended(silent)
    assert await _refused(half) == (408, "head_too_slow")
    await served.all_gone()
    assert trio.current_time() - began < limits.FAREWELL_S


async def test_a_page_can_read_the_reason_of_a_refusal(nursery: trio.Nursery) -> None:
    """Without the header a browser hides even the status."""
    served = await serve(nursery, cors_origins=("https://a.example",))
    for origin, expected in (("https://a.example", True), ("http://x", False)):
        request = f"GET /api/v1/subscribe/nonsense HTTP/1.1\nHost: x\nOrigin: {origin}"
        head, _, body = (await read_all(await served.ask(request))).partition(b"\r\n\r\n")

        assert head.startswith(b"HTTP/1.1 404 ")
        allowed = b"\r\nAccess-Control-Allow-Origin: https://a.example\r\n" in head + b"\r\n"
        assert expected == allowed
        assert b"unknown_pair" in body


async def test_no_more_subscribers_than_the_limit_are_admitted(nursery: trio.Nursery) -> None:
    """A full instance answers 503, and a load balancer tries the next instance."""
    served = await serve(nursery, subscribers_max=1)
    first = await served.upgrade("/ws")

    second = await served.ask("GET /api/v1/stream HTTP/1.1\nHost: x")
    assert await _refused(second) == (503, "too_many_subscribers")
    await first.aclose()


async def test_accepting_continues_after_file_descriptors_run_out(
    served: Served, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """It pauses, counts and continues; it neither spins nor ends."""
    real, failures = socket.socket.accept, [errno.EMFILE, errno.ECONNABORTED]

    def accept(self: socket.socket) -> object:
        if failures:
            raise OSError(failures.pop(0), "no")
        return real(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    stream = await served.ask("GET / HTTP/1.1\nHost: x")

    assert await read_all(stream) == CONTROL_ANSWER
    assert served.instance.counts.accept_pauses == 1


async def test_a_bug_while_serving_one_peer_ends_that_peer_alone(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other subscribers of the process must not be affected."""

    def bug(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(served.plane, "check_room", bug)
    victim = await served.ask("GET /api/v1/stream HTTP/1.1\nHost: x")
    assert await read_all(victim) == b""
    monkeypatch.undo()

    stream = await served.ask("GET /api/v1/stream HTTP/1.1\nHost: x")
    assert await read_to(stream, b"\r\n") == b"HTTP/1.1 200 OK\r\n"
    assert served.instance.counts.refusals == {"bug": 1}
    await stream.aclose()


async def test_accepted_sockets_inherit_what_streams_need(served: Served) -> None:
    """The listener has the options; not every kernel passes them on, so this test checks."""
    stream = await served.upgrade("/ws")
    sock = next(iter(served.plane.outlets))._socket
    tcp = socket.IPPROTO_TCP

    assert sock.getsockopt(tcp, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert limits.UNACKED_MAX_S * 1000 == sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT)
    assert limits.SEND_BUFFER_BYTES * 2 == sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    await stream.aclose()


@pytest.mark.parametrize(
    ("channel", "code"), [("full", "refused_channel"), ("user", "private_channel")]
)
async def test_a_stream_of_a_refused_or_private_channel_is_forbidden(
    served: Served, channel: str, code: str
) -> None:
    """A status states the reason; an empty stream would not."""
    served.instance.pipe.catalogue.refuse_channel("full", "Failed to subscribe", "sign it")
    stream = await served.ask(
        f"GET /api/v1/stream?pairs=BTC-USD&channels=ticker,{channel} HTTP/1.1\nHost: x"
    )

    assert await _refused(stream) == (403, code)
    assert served.instance.counts.refusals == {code: 1}
    await served.all_gone()


UPGRADE = (
    "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)
ASKING = {
    "websocket": f"GET /ws HTTP/1.1\n{UPGRADE}",
    "strict websocket": f"GET / HTTP/1.1\n{UPGRADE}",
    "websocket by url": f"GET /api/v1/stream?pairs=BTC-USD HTTP/1.1\n{UPGRADE}",
    "sse": "GET /api/v1/stream HTTP/1.1\nAccept: text/event-stream",
    "ndjson": "GET /api/v1/stream HTTP/1.1",
    "page": "GET / HTTP/1.1",
    "rest": "GET /api/v1/health HTTP/1.1",
    "command": "POST /api/v1/subscribe/BTC-USD HTTP/1.1\nContent-Length: 0",
    "preflight": (
        "OPTIONS /api/v1/subscribe/BTC-USD HTTP/1.1\nAccess-Control-Request-Method: POST\n"
        "Access-Control-Request-Headers: hedgehog-session"
    ),
    "coinbase": "GET /products/BTC-USD/book HTTP/1.1",
    "absolute": "GET http://localhost:8001/readyz HTTP/1.1",
}
# Host, Origin (several, or None for none), and the status of the refusal; 0 for none.
HOSTS_AND_ORIGINS = [
    ("localhost:8001", (), 0),
    ("localhost:8001", ("http://localhost:8001",), 0),
    ("LOCALHOST.:8001", ("http://localhost:8001",), 0),
    ("localhost:8001", ("https://app.example",), 0),
    ("relay.example", ("https://relay.example",), 0),
    ("localhost:8001", ("http://evil.example",), 403),
    ("localhost:8001", ("http://localhost:8002",), 403),
    ("localhost:8001", ("null",), 403),
    ("localhost:8001", ("",), 403),
    ("localhost:8001", ("http://evil@localhost:8001",), 403),
    ("localhost:8001", ("http://localhost:8001", "http://evil.example"), 403),
    ("evil.example:8001", ("http://evil.example:8001",), 421),
    ("evil.example:8001", (), 421),
    ("", (), 421),
    ("user@localhost:8001", (), 421),
]


@pytest.mark.parametrize("asking", ASKING)
async def test_every_request_is_checked_at_the_door(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, asking: str
) -> None:
    """One check covers both planes and all forms."""
    served = await serve(nursery, cors_origins=("https://app.example",))
    access = Access(CrossOrigins(("https://app.example",)), ("relay.example",))
    monkeypatch.setattr(served.door, "_access", access)
    for host, origins, status in HOSTS_AND_ORIGINS:
        if asking == "absolute" and host != "localhost:8001":
            continue  # the next test
        rows = "\n".join((f"Host: {host}", *(f"Origin: {origin}" for origin in origins)))
        served.control_saw = b""
        stream = await served.ask(f"{ASKING[asking]}\n{rows}")
        head = await read_to(stream, b"\r\n\r\n")
        found = int(head.split()[1])
        what = f"{asking} {host} {origins}: {found}"
        if not status:
            assert found in {101, 200}, what
            await stream.aclose()
            continue
        assert found == status, what  # a stream does not end
        body = msgspec.json.decode(await read_all(stream))
        assert b"Access-Control" not in head, what
        assert served.control_saw == b"", what
        if asking == "coinbase":
            assert body.keys() == {"message"}
        else:
            assert body["error"]["code"] == {403: "bad_origin", 421: "bad_host"}[status], what
    await served.all_gone()
    assert served.instance.counts.refusals.keys() <= {"bad_origin", "bad_host"}


@pytest.mark.parametrize(
    ("target", "host", "origin", "status"),
    [
        ("http://localhost:8001/x", "evil.example", None, 200),
        ("http://localhost:8001/x", "evil.example", "http://localhost:8001", 200),
        ("http://localhost:8001/x", "evil.example", "http://evil.example", 403),
        ("http://evil.example/x", "localhost:8001", None, 421),
        ("http://evil.example/x", "localhost:8001", "http://localhost:8001", 421),
        ("HTTPS://evil.example?x", "localhost:8001", None, 421),
        ("http://localhost@evil.example/x", "localhost", None, 421),
        ("http://evil@localhost/x", "localhost", None, 421),
        ("http:///x", "localhost", None, 421),
        ("//evil.example/x", "localhost", None, 200),
        ("/http://evil.example/x", "localhost", None, 200),
    ],
)
async def test_an_absolute_target_takes_precedence_over_host(
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    host: str,
    origin: str | None,
    status: int,
) -> None:
    """A server must ignore ``Host`` then (RFC 9112 §3.2.2), and the check must too."""
    served = await serve(nursery)
    monkeypatch.setattr(served.door, "_access", Access(CrossOrigins(), ()))
    rows = f"Host: {host}" + (f"\nOrigin: {origin}" if origin else "")
    answer = await read_all(await served.ask(f"GET {target} HTTP/1.1\n{rows}"))

    assert int(answer.split()[1]) == status


async def test_two_hosts_are_refused_and_http_1_0_may_have_none(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No browser sends such requests."""
    served = await serve(nursery)
    monkeypatch.setattr(served.door, "_access", Access(CrossOrigins(), ()))
    two = await served.ask("GET /x HTTP/1.1\nHost: localhost\nHost: evil.example")
    assert await _refused(two) == (400, "bad_request")
    assert await read_all(await served.ask("GET /x HTTP/1.0")) == CONTROL_ANSWER


async def test_the_first_refusal_of_each_kind_is_logged(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator has to find the reason for a refused proxy; a flood must not fill the disk."""
    served = await serve(nursery)
    monkeypatch.setattr(served.door, "_access", Access(CrossOrigins(), ()))
    with capture_logs() as logs:
        for rows in ("Host: a", "Host: b", "Host: localhost\nOrigin: null"):
            for _ in range(2):
                await read_all(await served.ask(f"GET /x HTTP/1.1\n{rows}"))

    assert [entry["log_level"] for entry in logs] == ["warning"] * 2
    assert "--hosts" in logs[0]["reason"]
    assert "--cors-origins" in logs[1]["reason"]
    assert served.instance.counts.refusals == {"bad_host": 4, "bad_origin": 2}


HUGE = "X: " + "x" * limits.HEAD_BYTES_MAX
HANDSHAKE = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 12"


@pytest.mark.parametrize(
    ("path", "is_coinbases"),
    [("/products/BTC-USD/book", True), ("/time", True), ("/api/v1/history/BTC-USD", False)],
)
@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        ("GET {path} HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400, "bad_request"),
        ("GET {path} HTTP/1.1\r\n\r\n", 400, "bad_request"),
        ("get {path} HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad_request"),
        ("GET {path}\r\n\r\n", 400, "bad_request"),
        ("GET {path} HTTP/2.0\r\nHost: x\r\n\r\n", 505, "http_version"),
        ("GET {path} HTTP/1.1\r\n" + HUGE, 431, "head_too_large"),
        ("GET {path} HTTP/1.1\r\nHost: x\r\n", 408, "head_too_slow"),
        ("GET {path} HTTP/1.1\r\n" + HANDSHAKE + "\r\n\r\n", 426, "bad_handshake"),
        (
            "GET {path} HTTP/1.1\r\n" + HANDSHAKE.replace("12", "13") + "\r\n\r\n",
            400,
            "bad_handshake",
        ),
    ],
)
async def test_an_error_of_the_door_has_the_form_of_its_path(
    served: Served,
    autojump_clock: trio.testing.MockClock,
    head: str,
    status: int,
    code: str,
    path: str,
    is_coinbases: bool,
) -> None:
    """Coinbase's clients read ``message``, from every part of the daemon."""
    stream = await served.connect()
    await stream.send_all(head.format(path=path).encode())
    answer, _, body = (await read_all(stream)).partition(b"\r\n\r\n")
    error = json.loads(body)

    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert (list(error) == ["message"]) == is_coinbases
    assert is_coinbases or error["error"]["code"] == code
    assert served.instance.counts.refusals == {code: 1}


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("/api/v1/stream", "", 200),
        ("/api/v1/stream?format=sse", "", 200),
        ("/api/v1/stream?pairs=A-B&since=7", "Accept: text/event-stream", 200),
        ("/api/v1/subscribe/nonsense", "", 404),
        ("/api/v1/stream?pair=A-B", "", 400),
        ("/api/v1/stream", "Accept: image/png", 406),
        ("/api/v1/stream?pairs=A-B&speed=1&since=7", "", 404),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_head_answers_with_the_head_of_a_stream_only(
    served: Served, target: str, headers: str, status: int, version: str
) -> None:
    """A monitor that sends HEAD must not become a subscriber."""
    lines = f"{target} HTTP/{version}\nHost: x\n{headers}".strip()
    asked = await read_all(await served.ask(f"HEAD {lines}"))
    stream = await served.ask(f"GET {lines}")
    got = await read_to(stream, b"\r\n\r\n")
    await stream.aclose()
    of_stream = [line for line in got.splitlines() if not line.startswith(b"Hedgehog-Session")]

    assert asked.startswith(f"HTTP/1.1 {status} ".encode())
    assert asked.endswith(b"\r\n\r\n")
    assert asked.splitlines() == of_stream
    await served.all_gone()
