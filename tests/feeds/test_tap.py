"""The tap removes data frames from the stream, in order; all other bytes pass."""

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from hedgehogd.domain.errors import FeedError
from hedgehogd.feeds.tap import FrameTap, UpgradeRefused
from hedgehogd.protocol.frames import FrameError, encode_close, encode_ping, encode_text

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


class Tapped:
    """A tap, the far end of its stream, and the frames that it removed."""

    def __init__(self, message_bytes_max=1000):
        inner, self.far = memory_stream_pair()
        self.inner = inner
        self.batches = []
        self.wall_us = 1_700_000_000_000_000
        self.clock_reads = 0
        self.received_us = []
        self.tap = FrameTap(inner, self._append, message_bytes_max, self._read_clock)

    def _read_clock(self):
        self.clock_reads += 1
        return self.wall_us

    async def _append(self, frames, received_us):
        await trio.lowlevel.checkpoint()
        self.received_us.append(received_us)
        self.batches.append([payload for _, payload in frames])

    async def send(self, *packets):
        for packet in packets:
            await self.far.send_all(packet)


async def test_the_handshake_passes_and_data_does_not():
    """The library must not read data frames: it needs 46 µs for each."""
    tapped = Tapped()
    await tapped.send(HEAD + encode_text(b"one") + encode_text(b"two") + encode_ping(b"p"))

    assert await tapped.tap.receive_some() == HEAD
    assert encode_ping(b"p") == await tapped.tap.receive_some()
    assert tapped.batches == [[b"one", b"two"]]


async def test_the_messages_of_a_read_have_the_time_of_the_read(autojump_clock, nursery):
    """One clock read for each read of the socket; a step back of the clock is no reason to adjust.

    The first messages came with the handshake's answer: they have the time of that read.
    """
    tapped = Tapped()
    begin_us = tapped.wall_us
    await tapped.send(HEAD + encode_text(b"one"))
    await tapped.tap.receive_some()
    tapped.wall_us += 3_000_000
    nursery.start_soon(tapped.tap.receive_some)
    await wait_all_tasks_blocked()
    assert (tapped.clock_reads, tapped.received_us) == (1, [begin_us])

    await tapped.send(encode_text(b"two") + encode_text(b"three"))
    await wait_all_tasks_blocked()
    tapped.wall_us -= 3_600_000_000
    await tapped.send(encode_text(b"four"))
    await wait_all_tasks_blocked()

    assert tapped.batches == [[b"one"], [b"two", b"three"], [b"four"]]
    offsets_us = [each - begin_us for each in tapped.received_us]
    assert (tapped.clock_reads, offsets_us) == (3, [0, 3_000_000, -3_597_000_000])


async def test_a_head_may_come_byte_by_byte():
    """TCP may split a packet anywhere."""
    tapped = Tapped()
    for byte in HEAD:
        await tapped.send(bytes((byte,)))
    await tapped.far.send_eof()

    assert await tapped.tap.receive_some() == HEAD
    assert await tapped.tap.receive_some() == b""


async def test_frames_of_one_read_are_one_batch(autojump_clock, nursery):
    """A batch is joined once per cohort, so the frames of one read stay together."""
    tapped = Tapped()
    await tapped.send(HEAD)
    await tapped.tap.receive_some()
    frame = encode_text(b"x" * 200)

    async def talk():
        await tapped.send(encode_text(b"a") + frame[:50])
        await trio.sleep(1)
        await tapped.send(frame[50:] + encode_text(b"b"))
        await trio.sleep(1)
        await tapped.send(encode_close(1000))

    nursery.start_soon(talk)
    assert encode_close(1000) == await tapped.tap.receive_some()
    assert tapped.batches == [[b"a"], [b"x" * 200, b"b"]]


async def test_the_time_of_every_read_is_kept(autojump_clock):
    """Bytes, not messages, distinguish a dead connection from a quiet one."""
    tapped = Tapped()
    await tapped.send(HEAD)
    await tapped.tap.receive_some()
    await trio.sleep(5)
    await tapped.send(encode_ping())
    await tapped.tap.receive_some()

    assert tapped.tap.heard_at == 5


@pytest.mark.parametrize("status", [200, 301, 401, 403, 404, 429, 503])
@pytest.mark.parametrize("body", [b"", b'{"message":"go away"}', b"<html>" + b"x" * 9000])
async def test_a_refusal_is_its_status_with_any_body(status, body):
    """A late or endless body must not turn a refusal into a timeout."""
    tapped = Tapped()
    await tapped.send(b"HTTP/1.1 %d Some Words\r\nContent-Length: 99999\r\n\r\n" % status + body)

    with pytest.raises(UpgradeRefused, match=f"refused: HTTP {status}") as caught:
        await tapped.tap.receive_some()
    assert status == caught.value.status


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (b"\x15\x03\x01\x00\x02", "not HTTP"),  # a TLS alert: ws:// where wss:// belongs
        (b"HTTP/9 101 Hello\r\n\r\n", "not HTTP/1"),
        (b"HTTP/1.1 101 " + b"x" * 100_000, "too long"),
        (b"HTTP/1.1 101 Switch", "closed the connection"),
        (b"", "closed the connection"),
    ],
)
async def test_an_invalid_handshake_is_named(answer, reason):
    """The operator reads this error when the URL belongs to another service."""
    tapped = Tapped()
    await tapped.send(answer)
    await tapped.far.send_eof()

    with pytest.raises(FeedError, match=reason):
        await tapped.tap.receive_some()


async def test_a_message_over_the_limit_ends_the_connection():
    """Memory is bounded even if the exchange sends too much."""
    tapped = Tapped(message_bytes_max=100)
    await tapped.send(HEAD + encode_text(b"x" * 101))
    await tapped.tap.receive_some()

    with pytest.raises(FrameError, match="101 bytes"):
        await tapped.tap.receive_some()


async def test_writing_and_closing_pass_through():
    """The library writes to the stream; the tap only reads."""
    tapped = Tapped()
    await tapped.tap.wait_send_all_might_not_block()
    await tapped.tap.send_all(b"hello")
    assert await tapped.far.receive_some() == b"hello"
    await tapped.tap.aclose()
    assert await tapped.far.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await tapped.far.send_all(b"anybody?")
