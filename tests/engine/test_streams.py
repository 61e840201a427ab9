"""Byte streams that wrap another byte stream."""

import pytest
import trio

from hedgehogd.domain import limits
from hedgehogd.engine.streams import PassingStream, ReplayStream


async def _pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return the two ends of a connection."""
    near, far = trio.socket.socketpair()
    return trio.SocketStream(near), trio.SocketStream(far)


async def test_every_call_is_forwarded() -> None:
    """A wrapper without a behaviour of its own is not noticed."""
    near, far = trio.testing.memory_stream_pair()
    stream = PassingStream(near)
    await stream.wait_send_all_might_not_block()
    await stream.send_all(b"there")
    await far.send_all(b"back")

    assert b"there" == await far.receive_some()
    assert b"back" == await stream.receive_some(10)
    await stream.aclose()
    assert b"" == await far.receive_some()


async def test_bytes_read_already_are_read_again() -> None:
    """Hypercorn must see the request as if it had read it itself, and then the rest."""
    near, far = await _pair()
    stream = ReplayStream(near, b"GET / ")
    await far.send_all(b"HTTP/1.1")

    assert near.socket is stream.socket
    assert [b"GET / ", b"HTTP/1.1"] == [await stream.receive_some() for _ in range(2)]
    await stream.send_eof()
    assert b"" == await far.receive_some()
    await stream.aclose()
    await far.aclose()


async def test_a_peer_that_does_not_read_is_an_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Even inside the shielded scope that Hypercorn writes in."""
    near, far = await _pair()
    stream = ReplayStream(near, b"")
    begin = trio.current_time()
    with trio.CancelScope(shield=True), pytest.raises(trio.BrokenResourceError):
        while True:
            await stream.send_all(b"x" * 1_000_000)

    assert limits.ANSWER_STALL_S == pytest.approx(trio.current_time() - begin)
    await stream.aclose()
    await far.aclose()


async def test_a_slow_reader_gets_all_of_a_long_answer(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that reads a little again and again is slow, not gone."""
    near, far = await _pair()
    sent: list[int] = []
    progress: list[float] = []

    async def send_slowly(data: memoryview) -> None:
        await trio.sleep(limits.ANSWER_STALL_S * 0.9)
        sent.append(len(data))

    monkeypatch.setattr(near, "send_all", send_slowly)
    stream = ReplayStream(near, b"", progress.append)
    begin = trio.current_time()
    await stream.send_all(b"x" * 1_000_000)

    assert sum(sent) == 1_000_000
    assert trio.current_time() - begin > 50 * limits.ANSWER_STALL_S
    assert progress == pytest.approx(
        [begin + (part + 1) * limits.ANSWER_STALL_S * 0.9 for part in range(len(sent))]
    )
    await stream.aclose()
    await far.aclose()


async def test_bytes_that_are_received_are_progress() -> None:
    """A door ends connections without any; the head that it read itself is none."""
    near, far = await _pair()
    progress: list[float] = []
    stream = ReplayStream(near, b"GET / ", progress.append)
    await stream.receive_some()
    assert progress == []
    await far.send_all(b"HTTP/1.1")
    await stream.receive_some()

    assert len(progress) == 1
    await stream.aclose()
    await far.aclose()
