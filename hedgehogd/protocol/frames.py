"""WebSocket frames (RFC 6455): split the upstream's byte stream into frames, encode our own.

A server's frames are unmasked, both the exchange's and ours. So subscribers get the frame that
the exchange sent: the scanner extracts it, and encodes only a fragmented message again, as one
frame.

``FrameScanner`` separates a byte stream into complete text messages (as ready frames) and control
frames, which the caller passes to the WebSocket library; it drops binary messages. Measured with
its caller: 0.8 µs per message, against 46 µs through the library.
"""

from hedgehogd.domain.errors import CLOSE_INVALID_UTF8, CLOSE_PROTOCOL_ERROR, CLOSE_TOO_BIG

TEXT = 0x81  # FIN and opcode 1: a whole text message in one frame
_OPCODE = 0x0F
_FIN = 0x80
_RSV = 0x70
_MASKED = 0x80
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_CONTROL_BYTES_MAX = 125
_CLOSE_REASON_BYTES_MAX = 123

Frames = list[tuple[bytes, bytes]]
"""Text messages in order of arrival, each as its frame and the payload in it."""


class FrameError(Exception):
    """A violation of RFC 6455, or of a limit, by the peer.

    Attributes:
        code: the close code with which our side closes the connection.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def encode_text(payload: bytes) -> bytes:
    """Return ``payload`` (UTF-8) as one unmasked text frame."""
    return _encode(TEXT, payload)


def encode_ping(payload: bytes = b"") -> bytes:
    """Return a ping frame; ``payload`` is at most 125 bytes."""
    return _encode(_FIN | _PING, payload)


def encode_pong(payload: bytes) -> bytes:
    """Return a pong frame; ``payload`` is that of the ping, at most 125 bytes."""
    return _encode(_FIN | _PONG, payload)


def encode_close(code: int | None, reason: str = "") -> bytes:
    """Return a close frame; a ``reason`` over 123 bytes of UTF-8 is truncated.

    With None as ``code`` the frame is empty, without a reason.
    """
    if code is None:
        return _encode(_FIN | _CLOSE, b"")
    text = reason.encode()[:_CLOSE_REASON_BYTES_MAX].decode(errors="ignore").encode()
    return _encode(_FIN | _CLOSE, code.to_bytes(2, "big") + text)


def _encode(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


class FrameScanner:
    """Split a server's byte stream into text messages and control frames.

    Sans-I/O. The caller passes all bytes after the handshake, in order, in pieces of any size.

    * A text message in one frame is returned as that frame, unchanged.
    * A fragmented text message is joined and encoded as one new frame.
    * Binary messages are dropped and counted in ``binary_dropped``: the feed has none.
    * Control frames are returned as bytes, complete frames only.

    For RSV bits, masks, unknown opcodes, invalid fragmentation, lengths not in their shortest form,
    invalid UTF-8 and messages over ``message_bytes_max``, ``receive`` raises FrameError.
    """

    def __init__(self, message_bytes_max: int) -> None:
        self.binary_dropped = 0
        self._message_bytes_max = message_bytes_max
        self._left = b""
        self._needed = 0  # size in bytes of the frame at the start of _left
        self._buffered = 0  # bytes in _left and _pieces
        self._pieces: list[bytes] = []
        self._parts = bytearray()  # a list would use 40 bytes for a fragment of one byte
        self._parts_opcode = 0

    def receive(self, data: bytes) -> tuple[Frames, bytes]:
        """Process the next bytes from the peer; those of an incomplete frame are kept.

        Returns:
            ``(messages, rest)``: the text messages that ``data`` completed, as pairs
            ``(frame, payload)``, and the control frames that it completed, both in order.

        Raises:
            FrameError: the connection must be closed; the scanner is then of no further use.
        """
        buffer = self._gather(data)
        if buffer is None:
            return [], b""
        messages: Frames = []
        rest = b""
        at, size = 0, len(buffer)
        while size - at >= 2:
            first, length = buffer[at], buffer[at + 1]
            start = at + 2
            if length >= 126:
                start, length = self._extended_length(buffer, at, size, length)
                if start == 0:
                    break
            end = start + length
            if length > self._message_bytes_max:
                raise FrameError(CLOSE_TOO_BIG, f"a frame of {length} bytes")
            if end > size:
                self._needed = end - at
                break
            if first == TEXT and not self._parts_opcode:
                payload = buffer[start:end]
                if not payload.isascii():
                    _check_utf8(payload)
                messages.append((buffer[at:end], payload))
            elif first & 0x08:
                rest += self._control(first, buffer[at:end], length)
            else:
                self._data(first, buffer[start:end], messages)
            at = end
        self._left = buffer[at:]
        self._buffered = size - at
        return messages, rest

    def _gather(self, data: bytes) -> bytes | None:
        """Append ``data`` to the buffered bytes; return all bytes to be scanned.

        None while the first buffered frame is known to be incomplete.

        A 5 MB snapshot arrives in eighty reads; joining at each read would copy 200 MB.
        """
        if not self._buffered:
            return data
        self._pieces.append(data)
        self._buffered += len(data)
        if self._buffered < self._needed:
            return None
        buffer = self._left + b"".join(self._pieces)
        self._pieces.clear()
        self._needed = 0
        return buffer

    def _extended_length(self, buffer: bytes, at: int, size: int, code: int) -> tuple[int, int]:
        """Return ``(payload start, payload length)``; start 0 if more bytes are needed.

        Raises FrameError for a masked frame, and for a length that is not in its shortest form.
        """
        if code & _MASKED:
            raise FrameError(CLOSE_PROTOCOL_ERROR, "a server's frame is masked")
        start = at + (4 if code == 126 else 10)
        if start > size:
            return 0, 0
        length = int.from_bytes(buffer[at + 2 : start], "big")
        if length < (126 if code == 126 else 65536):
            raise FrameError(CLOSE_PROTOCOL_ERROR, "a frame's length is not in its shortest form")
        return start, length

    def _control(self, first: int, frame: bytes, length: int) -> bytes:
        if first & _RSV or not first & _FIN or first & _OPCODE not in {_CLOSE, _PING, _PONG}:
            raise FrameError(CLOSE_PROTOCOL_ERROR, f"a control frame begins with 0x{first:02x}")
        if length > _CONTROL_BYTES_MAX:
            raise FrameError(CLOSE_PROTOCOL_ERROR, f"a control frame of {length} bytes")
        return frame

    def _data(self, first: int, payload: bytes, messages: Frames) -> None:
        """Process a fragment, or a binary message; raises FrameError if it is invalid.

        A text message that it completes is added to ``messages``.
        """
        opcode = first & _OPCODE
        if first & _RSV:
            raise FrameError(CLOSE_PROTOCOL_ERROR, f"a data frame begins with 0x{first:02x}")
        if opcode == _CONTINUATION:
            if not self._parts_opcode:
                raise FrameError(CLOSE_PROTOCOL_ERROR, "a continuation without a first frame")
        elif opcode in {_TEXT, _BINARY}:
            if self._parts_opcode:
                raise FrameError(CLOSE_PROTOCOL_ERROR, "a new message inside a fragmented one")
            self._parts_opcode = opcode
        else:
            raise FrameError(CLOSE_PROTOCOL_ERROR, f"a data frame begins with 0x{first:02x}")
        self._parts += payload
        if len(self._parts) > self._message_bytes_max:
            raise FrameError(CLOSE_TOO_BIG, f"a message of over {self._message_bytes_max} bytes")
        if first & _FIN:
            whole = bytes(self._parts)
            if self._parts_opcode == _TEXT:
                _check_utf8(whole)
                messages.append((encode_text(whole), whole))
            else:
                self.binary_dropped += 1
            self._parts.clear()
            self._parts_opcode = 0


def _check_utf8(payload: bytes) -> None:
    try:
        payload.decode()
    except UnicodeDecodeError as error:
        raise FrameError(CLOSE_INVALID_UTF8, f"a text message is not UTF-8: {error}") from None
