"""permessage-deflate (RFC 7692): what is agreed, what large messages become, what clients say.

Neither side keeps a window between messages. So a large message is compressed once and
the same bytes go to every subscriber that asked, and no connection has a compressor of its
own: an idle one costs what it costs without.

Small messages stay the shared frame that arrived. Alone, an l2update of 120 bytes keeps
95 % of its size, and compressing it takes longer than writing it to a socket.

Measured on recorded level2 snapshots, zlib 1.2.13, 2-core VM, CPython 3.11:

    bytes      level 1          level 6
     5,382     0.35  0.03 ms    0.30  0.08 ms
    40,683     0.33  0.20 ms    0.27  1.01 ms

Level 6 saves a sixth of what is left and takes five times as long; in the meantime
everybody waits for the next message, also those who never asked for compression.
"""

import re
import zlib

from wsproto.extensions import Extension
from wsproto.frame_protocol import (
    CloseReason,
    FrameDecoder,
    FrameProtocol,
    Opcode,
    ParseFailed,
    RsvBits,
)

from hedgehogd.domain.message import Message
from hedgehogd.protocol.frames import TEXT, encode_text

# From here on compressing is worth it: 20 µs, once, make 4 KiB a third of that for everyone.
# On the feed only snapshots and ``status`` are as large.
DEFLATE_BYTES_MIN = 4096

_NAME = b"permessage-deflate"
_ANSWER = _NAME + b"; server_no_context_takeover; client_no_context_takeover"
_BITS_STATED = b"; server_max_window_bits=15"
_RSV1 = 0x40
_LEVEL = 1
_WINDOW_BITS = 15
_RAW = -_WINDOW_BITS  # zlib's way to say: no header, no checksum
_TAIL = b"\x00\x00\xff\xff"  # of every flush; not sent (RFC 7692 §7.2.1)

# Quoted text may hold the separators. What is not closed is quoted to its end, so that
# matching never goes back and a head full of quotes takes no longer than another.
_QUOTED = rb'"(?:\\.|[^"\\])*"?'
_OFFERS = re.compile(rb'(?s)(?:^|,)((?:%b|[^,"])*)' % _QUOTED)
_PARAMETERS = re.compile(rb'(?s)(?:^|;)((?:%b|[^;"])*)' % _QUOTED)
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_PARAMETER = re.compile(
    rb'[ \t]*(%b+)[ \t]*(?:=[ \t]*(?:(%b+)|"((?:\\?%b)+)")[ \t]*)?' % (_TOKEN, _TOKEN, _TOKEN)
)
_NO_VALUE = b""
_ACCEPTABLE = {
    b"server_no_context_takeover": frozenset({_NO_VALUE}),
    b"client_no_context_takeover": frozenset({_NO_VALUE}),
    # One compression serves all, so it cannot fit a smaller window than others take.
    b"server_max_window_bits": frozenset({b"15"}),
    b"client_max_window_bits": frozenset({_NO_VALUE, *(b"%d" % n for n in range(8, 16))}),
}


def answer_offers(offers: bytes) -> bytes:
    """Answer ``Sec-WebSocket-Extensions``; what is no offer that we can keep is ignored.

    Args:
        offers: the header's value; several headers joined by commas; empty for none.

    Returns:
        The value of the answer's header, or nothing when messages stay as they are.
    """
    for offer in _OFFERS.findall(offers):
        name, *parameters = map(_parameter, _PARAMETERS.findall(offer))
        if name != (_NAME, _NO_VALUE) or None in parameters:
            continue
        asked = dict(filter(None, parameters))
        is_unique = len(asked) == len(parameters)
        if is_unique and all(asked[key] in _ACCEPTABLE.get(key, ()) for key in asked):
            # Who states a window is told that it was heard (RFC 7692 §7.1.2.1).
            return _ANSWER + _BITS_STATED if b"server_max_window_bits" in asked else _ANSWER
    return b""


def _parameter(text: bytes) -> tuple[bytes, bytes] | None:
    """Return name and value of ``name``, ``name=value`` or ``name="value"``; None if it is none."""
    found = _PARAMETER.fullmatch(text)
    if found is None:
        return None
    name, token, quoted = found.groups(default=b"")
    return name, token or quoted.replace(b"\\", b"")


def deflate_frame(payload: bytes) -> bytes:
    """Return ``payload`` (UTF-8) as one unmasked, compressed text frame.

    It holds no reference to messages before it. Takes 6 ms per MB, most of it without
    the interpreter's lock.
    """
    compressor = zlib.compressobj(_LEVEL, wbits=_RAW)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return bytes((TEXT | _RSV1,)) + encode_text(data.removesuffix(_TAIL))[1:]


def deflated(message: Message) -> bytes | None:
    """Return what belongs into ``message.deflated``; None when its frame is as good."""
    if len(message.payload) < DEFLATE_BYTES_MIN:
        return None
    frame = deflate_frame(message.payload)
    return frame if len(frame) < len(message.frame) else None


class Inflater(Extension):
    """Inflate what one client says; wsproto's ``FrameProtocol`` calls it.

    wsproto's own ``PerMessageDeflate`` (1.3.2) takes the rest of a fragmented message for
    plain text when a ping comes in between, and inflates without end: of one read of
    4 KiB it makes 4 MB, three times over. This one stops behind ``message_bytes_max``.

    Raises:
        ParseFailed: the data is broken (1007) or becomes too much (1009).
    """

    def __init__(self, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        self._room = 0  # bytes that the message may still become
        self._is_message_deflated = False
        self._is_frame_deflated = False
        self._stream: zlib._Decompress | None = None  # made when the first byte needs it

    def enabled(self) -> bool:
        """Return True: it is made once the extension has been agreed on."""
        return True

    def offer(self) -> bool:
        """Return False: a server offers nothing."""
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,  # noqa: ARG002
    ) -> RsvBits:
        """Return which reserved bits this frame may have: RSV1, where a message begins."""
        begins = opcode in {Opcode.TEXT, Opcode.BINARY}
        if begins:
            self._is_message_deflated = rsv.rsv1
            self._room = self._message_bytes_max
        self._is_frame_deflated = self._is_message_deflated and not opcode.iscontrol()
        return RsvBits(begins, False, False)

    def frame_inbound_payload_data(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        data: bytes,
    ) -> bytes:
        """Return what ``data``, a part of a frame, stands for."""
        return self._inflate(data) if self._is_frame_deflated else data

    def frame_inbound_complete(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        fin: bool,
    ) -> bytes | None:
        """Return the end of a message; None when this frame is none."""
        if not fin or not self._is_frame_deflated:
            return None
        end = self._inflate(_TAIL)
        self._is_message_deflated = False
        self._stream = None
        return end

    def _inflate(self, data: bytes) -> bytes:
        parts = []
        while True:
            if self._stream is None:
                self._stream = zlib.decompressobj(_RAW)
            try:
                part = self._stream.decompress(data, self._room + 1)
            except zlib.error as error:
                code = CloseReason.INVALID_FRAME_PAYLOAD_DATA
                raise ParseFailed(f"cannot inflate: {error}", code) from None
            self._room -= len(part)
            if self._room < 0:
                raise ParseFailed("message too big", CloseReason.MESSAGE_TOO_BIG)
            parts.append(part)
            if not self._stream.eof:
                return b"".join(parts)
            # The client marked its last block; others may follow all the same (§7.2.1).
            data, self._stream = self._stream.unused_data, None
