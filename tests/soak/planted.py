"""hedgehogd with a planted leak of 100 bytes a message, to prove that the soak finds one.

``python -m tests.soak.planted ARGUMENTS`` is ``hedgehogd ARGUMENTS``, except that it never
frees 100 bytes for each message that is put on the tape.
"""

import sys
from collections.abc import Sequence

from hedgehogd.cli import main
from hedgehogd.domain.message import Message
from hedgehogd.engine.tape import Tape

LEAK_BYTES = 100
_PAYLOAD_BYTES = LEAK_BYTES - sys.getsizeof(b"")


class Leak:
    """Keeps 100 bytes for each message of a tape."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self._append = Tape.append

    def plant(self) -> None:
        """Put the leak into all tapes of this process."""
        leak = self

        def append(tape: Tape, messages: Sequence[Message]) -> None:
            leak.kept += [bytes(_PAYLOAD_BYTES) for _ in messages]
            leak._append(tape, messages)

        Tape.append = append  # type: ignore[method-assign]


if __name__ == "__main__":
    Leak().plant()
    main(sys.argv[1:])
