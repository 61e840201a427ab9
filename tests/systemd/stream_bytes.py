"""Parsers of a stream's bytes: its messages and its end. Pure, and cheap enough for hundreds.

They share no code with hedgehogd's writers.
"""

from dataclasses import dataclass, field

TEXT_HEAD, CLOSE_HEAD, PONG_HEAD = 0x81, 0x88, 0x8A


@dataclass
class Ending:
    """The end of a stream, as far as it has arrived.

    Attributes:
        close_code: of a WebSocket's close frame.
        last_chunk: the last chunk of an HTTP body has arrived.
        closing: the notice ``closing`` has arrived.
    """

    close_code: int = 0
    last_chunk: bool = False
    closing: bool = False


def masked(head: int, payload: bytes) -> bytes:
    """Return a client's frame of up to 65,535 bytes; the mask is 0."""
    size = len(payload)
    sizes = bytes((0x80 | size,)) if size < 126 else bytes((0x80 | 126, *size.to_bytes(2, "big")))
    return bytes((head,)) + sizes + bytes(4) + payload


@dataclass
class Frames:
    """The frames of a WebSocket server."""

    ending: Ending
    replies: bytearray = field(default_factory=bytearray)
    _left: bytes = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the text messages that ``data`` completes; ``replies`` gets pongs."""
        data = self._left + data
        messages, at = [], 0
        while (parts := _frame(data, at)) is not None:
            head, start, at = parts
            payload = data[start:at]
            if head == 0x81:
                messages.append(payload)
            elif head == 0x89:
                self.replies += masked(PONG_HEAD, payload)
            elif head == 0x88:
                self.ending.close_code = int.from_bytes(payload[:2], "big")
                self.replies += masked(CLOSE_HEAD, payload[:2])
            else:
                raise ValueError(f"a frame that begins with {head:#x}")
        self._left = data[at:]
        return messages


def _frame(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Return head, start and end of the frame at ``at``; None when it is incomplete."""
    if len(data) < at + 2:
        return None
    size, start = data[at + 1], at + 2
    if size >= 126:
        start += 2 if size == 126 else 8
        size = int.from_bytes(data[at + 2 : start], "big")
    return (data[at], start, start + size) if len(data) >= start + size else None


@dataclass
class Chunks:
    """A chunked body, split at ``separator`` into NDJSON lines or SSE events."""

    ending: Ending
    separator: bytes
    _raw: bytes = b""
    _body: bytes = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the parts that ``data`` completes."""
        raw, at = self._raw + data, 0
        pieces = [self._body]
        while (line_end := raw.find(b"\r\n", at)) >= 0:
            size = int(raw[at:line_end].partition(b";")[0], 16)
            end = line_end + 2 + size + 2
            if len(raw) < end:
                break
            if raw[end - 2 : end] != b"\r\n":
                raise ValueError("a chunk has another length than it states")
            self.ending.last_chunk = size == 0
            pieces.append(raw[line_end + 2 : end - 2])
            at = end
        self._raw = raw[at:]
        *parts, self._body = b"".join(pieces).split(self.separator)
        return parts


class Lines(Chunks):
    """NDJSON."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that ``data`` completes; blank lines are ignored."""
        return [line for line in super().feed(data) if line]


class Events(Chunks):
    """SSE; notices count as messages."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that ``data`` completes; comments are ignored."""
        return [
            line[len(b"data: ") :]
            for block in super().feed(data)
            for line in block.split(b"\n")
            if line.startswith(b"data: ")
        ]
