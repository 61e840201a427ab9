"""The collector of reference cycles, and the return of freed memory to the system.

The C library keeps free memory that lies between blocks in use, and the tape, which always
grows, places such blocks everywhere: after a burst of slow subscribers the process would keep
the memory of the burst for ever. ``malloc_trim`` also returns the free pages inside the heap.
"""

import ctypes
import gc
from collections.abc import Callable

import structlog
import trio

from hedgehogd.domain import limits
from hedgehogd.engine.budget import Budget

log = structlog.get_logger("memory")

_LOOK_S = 5.0


def calm_garbage_collector() -> None:
    """Collect cycles now, exempt all objects so far, and collect rarely from now on.

    The objects that the pipe creates for a message are freed by reference counting; only
    connections create reference cycles. Python's default is a collection after 700 new objects,
    and from time to time a full one over the objects of thousands of subscribers: the collector
    took a tenth of the fan-out's time, and its pauses were the longest of all.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(limits.GC_NEW_OBJECTS_MAX, 100, 100)


def _find_trim() -> Callable[[int], int] | None:
    """Return the C library's ``malloc_trim``; None if it has none, for example musl."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim


async def return_memory(
    budget: Budget,
    trim: Callable[[int], int] | None = _find_trim(),  # noqa: B008  # looked up once
) -> None:
    """Trim the heap, for ever, each time ``TRIM_BYTES_MIN`` of ``budget`` were freed.

    The budget is read every ``_LOOK_S`` seconds; ``highest`` has a burst that was shorter, and is
    set back after a trim. Nothing is trimmed if ``trim`` is None.
    """
    while True:
        freed = budget.highest - budget.bytes
        if trim is not None and freed >= limits.TRIM_BYTES_MIN:
            trim(0)
            log.debug("returned memory", freed=freed)
            budget.highest = budget.bytes
        await trio.sleep(_LOOK_S)
