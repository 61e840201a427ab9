"""permessage-deflate (RFC 7692): negotiate it, compress large messages, inflate client messages.

Neither side keeps a window between messages (no context takeover). So each large message is
compressed once, and every subscriber that negotiated compression gets the same bytes. No
connection has a compressor, so an idle connection costs no more than one without compression.

Small messages are sent as the shared frame that arrived. A single l2update of 120 bytes keeps
95 % of its size, and compressing it takes longer than writing it to a socket.

Measured on recorded level2 snapshots, zlib 1.2.13, 2-core VM, CPython 3.11:

    bytes      level 1          level 6
     5,382     0.35  0.03 ms    0.30  0.08 ms
    40,683     0.33  0.20 ms    0.27  1.01 ms

Level 6 saves another sixth of the size and takes five times as long. During that time the next
message is delayed for all subscribers, including those without compression.
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

# Messages from this size on are compressed: 4 KiB shrink to a third in 20 µs, once for all
# subscribers. On the feed only snapshots and ``status`` are as large.
DEFLATE_BYTES_MIN = 4096

_NAME = b"permessage-deflate"
_ANSWER = _NAME + b"; server_no_context_takeover; client_no_context_takeover"
_BITS_STATED = b"; server_max_window_bits=15"
_RSV1 = 0x40
_LEVEL = 1
_WINDOW_BITS = 15
_RAW = -_WINDOW_BITS  # zlib's notation for no header and no checksum
_TAIL = b"\x00\x00\xff\xff"  # the end of every flush; not sent (RFC 7692 §7.2.1)

# Quoted text may contain the separators. An unclosed quote extends to the end of the text, so
# that matching never backtracks and a head full of quotes takes no longer than any other.
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
    # All subscribers get the same compressed bytes, so no client can have a smaller window.
    b"server_max_window_bits": frozenset({b"15"}),
    b"client_max_window_bits": frozenset({_NO_VALUE, *(b"%d" % n for n in range(8, 16))}),
}


def answer_offers(offers: bytes) -> bytes:
    """Answer ``Sec-WebSocket-Extensions`` by the first offer that we can accept.

    Args:
        offers: the header's value; several headers are joined by commas; empty without one.

    Returns:
        The value of the answer's header; empty if messages are not compressed.
    """
    for offer in _OFFERS.findall(offers):
        name, *parameters = map(_parameter, _PARAMETERS.findall(offer))
        if name != (_NAME, _NO_VALUE) or None in parameters:
            continue
        values = dict(filter(None, parameters))
        is_unique = len(values) == len(parameters)
        if is_unique and all(values[key] in _ACCEPTABLE.get(key, ()) for key in values):
            # An offer of a window is confirmed in the answer (RFC 7692 §7.1.2.1).
            return _ANSWER + _BITS_STATED if b"server_max_window_bits" in values else _ANSWER
    return b""


def _parameter(text: bytes) -> tuple[bytes, bytes] | None:
    """Parse ``name``, ``name=value`` or ``name="value"``; return name and value.

    A missing value is empty. None for a text of another form.
    """
    found = _PARAMETER.fullmatch(text)
    if found is None:
        return None
    name, token, quoted = found.groups(default=b"")
    return name, token or quoted.replace(b"\\", b"")


def deflate_frame(payload: bytes) -> bytes:
    """Return ``payload`` (UTF-8) as one unmasked, compressed text frame.

    The frame does not refer to earlier messages. Cost: 6 ms per MB, most of it without the
    interpreter's lock.
    """
    compressor = zlib.compressobj(_LEVEL, wbits=_RAW)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return bytes((TEXT | _RSV1,)) + encode_text(data.removesuffix(_TAIL))[1:]


def deflated(message: Message) -> bytes | None:
    """Return the compressed frame for ``message.deflated``, which the caller sets.

    None if the payload is smaller than ``DEFLATE_BYTES_MIN``, or the frame would not become
    smaller.
    """
    if len(message.payload) < DEFLATE_BYTES_MIN:
        return None
    frame = deflate_frame(message.payload)
    return frame if len(frame) < len(message.frame) else None


class Inflater(Extension):
    """Inflate the messages of one client; wsproto's ``FrameProtocol`` calls the methods.

    wsproto's own ``PerMessageDeflate`` (1.3.2) has two faults. After a ping between the fragments
    of a message it treats the rest of that message as uncompressed. It also inflates without a
    limit: it turns one read of 4 KiB into 4 MB, with three copies. This class stops at
    ``message_bytes_max``.

    Raises:
        ParseFailed: from the methods for payloads; the data is invalid (1007) or inflates to too
            many bytes (1009).
    """

    def __init__(self, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        self._room = 0  # bytes that may still be added to the inflated message
        self._is_message_deflated = False
        self._is_frame_deflated = False
        self._stream: zlib._Decompress | None = None  # created for the first compressed byte

    def enabled(self) -> bool:
        """Return True: an object exists only after the extension was negotiated."""
        return True

    def offer(self) -> bool:
        """Return False: a server makes no offer."""
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,  # noqa: ARG002
    ) -> RsvBits:
        """Return the reserved bits that this frame may have: RSV1 on a message's first frame.

        RSV1 there means that the whole message is compressed.
        """
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
        """Return ``data``, a part of a frame's payload, inflated if the frame is compressed."""
        return self._inflate(data) if self._is_frame_deflated else data

    def frame_inbound_complete(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        fin: bool,
    ) -> bytes | None:
        """Return the last inflated bytes of a compressed message that ends with this frame.

        None if the message is not compressed or continues, or the frame is a control frame.
        """
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
            # The client marked a block as the last; further blocks may follow it (§7.2.1).
            data, self._stream = self._stream.unused_data, None
