"""The last bytes of a stream: what happened, where to resume, and the form's own end. Pure."""

from collections.abc import Mapping

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.errors import CLOSE_NORMAL, CLOSE_RESTART, CLOSE_SLOW_CONSUMER
from hedgehogd.protocol import notices
from hedgehogd.protocol.frames import encode_close
from hedgehogd.protocol.wire import SSE_RETRY_MS, SseForm, WireForm


def goodbye(
    form: WireForm,
    code: int,
    reason: str,
    detail: str,
    position: Mapping[Topic, int],
    why_slow: str,
) -> bytes:
    """Return the last bytes of a stream that we end.

    Args:
        form: how things look on it. Only where it has notices is the peer told more than
            a close code; an NDJSON stream shows by its last chunk that its end was planned.
        code: the close code of a WebSocket, whose meaning holds for all forms.
        reason: a stable name.
        detail: for the close frame.
        position: all that has been sent whole.
        why_slow: for a slow consumer, what was too much.
    """
    planned = code in {CLOSE_NORMAL, CLOSE_RESTART}
    note = b""
    if form.has_notices and code == CLOSE_SLOW_CONSUMER:
        note = form.tell(notices.slow_consumer(code, why_slow, position))
    elif form.has_notices and planned:
        note = form.tell(notices.closing(reason, position, SSE_RETRY_MS / 1000))
    if form.kind == "websocket":
        return note + encode_close(code, detail)
    if isinstance(form, SseForm):
        return note + form.retry(SSE_RETRY_MS) + form.end()
    return note + form.end() if planned else note


def excess(waiting_bytes: int, oldest_s: float, bytes_max: int, age_max_s: float) -> str:
    """Say what was too much for a slow consumer, for people."""
    return (
        f"{waiting_bytes} bytes were waiting for you, the oldest {oldest_s:.1f} s old; "
        f"{bytes_max} bytes and {age_max_s:g} s are the most allowed."
    )


def excess_of_all(waiting_bytes: int, bytes_max: int) -> str:
    """Return the text for a slow consumer that was ended because all together had too much."""
    return (
        f"{waiting_bytes} bytes were waiting for you; {bytes_max} bytes of memory are the most "
        "allowed for all subscribers together, and the largest backlogs are closed first."
    )
