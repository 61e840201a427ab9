"""Faults of the connection itself: it stops, trickles or ends, at the next message that suits."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hedgehogd.simulator.faults.lines import LineFault, Outgoing

if TYPE_CHECKING:
    from hedgehogd.simulator.client import Client

_CODE_ABNORMAL = 1006  # RFC 6455 §7.4.1: never in a frame; stands for no close frame at all


class _End(LineFault):
    """Strikes at a message that suits: it is not sent, nor is any after it."""

    def _spoil(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        self._client = client
        if not self._is_due():
            return (outgoing,)
        self._strike(client)
        self.is_over = True
        self._end(client)
        return ()

    def _is_due(self) -> bool:
        """Say whether it is this message; asked once for each that suits."""
        return True

    def _end(self, client: "Client") -> None:
        raise NotImplementedError


class _Countdown(_End):
    """Strikes at the n-th message that suits."""

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
    """A close frame with a code of choice; 1006, which no frame may hold, is a reset."""

    def _end(self, client: "Client") -> None:
        if self._param == _CODE_ABNORMAL:
            client.reset()
        else:
            client.leave(self._param, "a fault was asked for")


class Silence(LineFault):
    """The connection stays open and sends nothing, pongs included; then it goes on."""

    def _spoil(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        self._strike(client)
        self.is_over = True
        client.be_silent(self._param)
        return (outgoing,)


class SlowDrip(LineFault):
    """One message comes byte by byte; what follows it waits."""

    def _spoil(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        self._strike(client)
        self.is_over = True
        client.drip(outgoing.frame, self._param)
        return ()
