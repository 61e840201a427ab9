"""The last bytes of a stream: reason, resume position, and the end of the wire form; no I/O."""

from collections.abc import Mapping

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.errors import CLOSE_NORMAL, CLOSE_RESTART, CLOSE_SLOW_CONSUMER
from hedgehogd.protocol import notices
from hedgehogd.protocol.frames import encode_close
from hedgehogd.protocol.wire import SSE_RETRY_MS, SseForm, WireForm


def farewell(
    form: WireForm,
    code: int,
    reason: str,
    detail: str,
    position: Mapping[Topic, int],
    exceeded: str,
) -> bytes:
    """Return the last bytes of a stream that hedgehogd ends.

    Args:
        form: the stream's wire form. A form with notices gets a notice about a slow consumer or a
            planned end; on NDJSON the last chunk is sent only when the end was planned.
        code: the close code of a WebSocket; on all forms it determines the notice, and whether the
            end is planned (``CLOSE_NORMAL``, ``CLOSE_RESTART``).
        reason: a stable name, stated in the notice of a planned end.
        detail: text of a WebSocket's close frame.
        position: the resume position, after all messages that are sent completely.
        exceeded: for a slow consumer, a sentence about the bound that it exceeded.
    """
    planned = code in {CLOSE_NORMAL, CLOSE_RESTART}
    note = b""
    if form.has_notices and code == CLOSE_SLOW_CONSUMER:
        note = form.tell(notices.slow_consumer(code, exceeded, position))
    elif form.has_notices and planned:
        note = form.tell(notices.closing(reason, position, SSE_RETRY_MS / 1000))
    if form.kind == "websocket":
        return note + encode_close(code, detail)
    if isinstance(form, SseForm):
        return note + form.retry(SSE_RETRY_MS) + form.end()
    return note + form.end() if planned else note


def excess(waiting_bytes: int, oldest_s: float, bytes_max: int, age_max_s: float) -> str:
    """Return a sentence, for people, about a slow consumer's backlog and its two bounds."""
    return (
        f"{waiting_bytes} bytes were waiting for this subscriber, the oldest {oldest_s:.1f} s old; "
        f"the limits are {bytes_max} bytes and {age_max_s:g} s."
    )


def excess_of_all(waiting_bytes: int, bytes_max: int) -> str:
    """Return the sentence for a slow consumer that ended because the budget was exceeded."""
    return (
        f"{waiting_bytes} bytes were waiting for this subscriber; all subscribers together may use "
        f"{bytes_max} bytes of memory, and the largest backlogs are closed first."
    )
