"""Faults of the connection: it stops, slows down or ends, at the next message that matches."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hedgehogd.simulator.faults.lines import LineFault, Outgoing

if TYPE_CHECKING:
    from hedgehogd.simulator.client import Client

_CODE_ABNORMAL = 1006  # RFC 6455 §7.4.1: never in a frame; means no close frame


class _End(LineFault):
    """End the connection at a message that matches; neither it nor any later one is sent."""

    def _replace(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        self._client = client
        if not self._is_due():
            return (outgoing,)
        self._mark_fired(client)
        self.is_over = True
        self._end(client)
        return ()

    def _is_due(self) -> bool:
        """Return whether a message triggers the fault; called once for each that matches."""
        return True

    def _end(self, client: "Client") -> None:
        raise NotImplementedError


class _Countdown(_End):
    """Take effect at the n-th message that matches; the parameter is n."""

    def _is_due(self) -> bool:
        self._param -= 1
        return bool(self._param == 0)


class Reset(_Countdown):
    """The connection is reset: no close frame, no end of the stream."""

    def _end(self, client: "Client") -> None:
        client.reset()


class Eof(_Countdown):
    """The byte stream ends cleanly, but without a close frame."""

    def _end(self, client: "Client") -> None:
        client.end()


class Close(_End):
    """A close frame with a chosen code; 1006, which no frame may hold, is a reset."""

    def _end(self, client: "Client") -> None:
        if self._param == _CODE_ABNORMAL:
            client.reset()
        else:
            client.leave(self._param, "a fault was asked for")


class Silence(LineFault):
    """The connection stays open and sends nothing, pongs included; later it continues."""

    def _replace(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        self._mark_fired(client)
        self.is_over = True
        client.pause_writes(self._param)
        return (outgoing,)


class SlowDrip(LineFault):
    """One message is sent byte by byte; later messages wait."""

    def _replace(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        self._mark_fired(client)
        self.is_over = True
        client.drip(outgoing.frame, self._param)
        return ()
