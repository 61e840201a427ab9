"""State that all connections of the streaming plane share."""

import itertools
import secrets
import socket
from functools import partial

from hedgehogd.domain import limits
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.fanout.instance import Instance
from hedgehogd.fanout.session import Session
from hedgehogd.fanout.subscription import Subscription
from hedgehogd.protocol.access import CrossOrigins
from hedgehogd.protocol.commands import Command
from hedgehogd.protocol.wire import WireForm
from hedgehogd.streaming.address import share_of
from hedgehogd.streaming.admission import Addresses
from hedgehogd.streaming.outlet import Outlet, OutletSettings

_SESSION_ID_BYTES = 16  # 128 bits: the id is the key to the stream


class StreamingPlane:
    """The streams of one instance.

    Attributes:
        instance: the instance to which the streams belong.
        counts: counters of streams and refusals.
        outlets: the outlet of every open stream, oldest first.
        settings: settings shared by the outlets.
        subscribers_max: number of streams that may be open; a reload may change it.
        topics_max: number of topics that a new stream may hold; a reload may change it.
        addresses: connections of each address, at all doors together.
        cross_origins: the origins of web pages that may read the streams.
    """

    def __init__(
        self,
        instance: Instance,
        settings: OutletSettings,
        *,
        subscribers_max: int = limits.SUBSCRIBERS_MAX,
        topics_max: int = limits.TOPICS_PER_SUBSCRIBER_MAX,
        cors_origins: tuple[str, ...] = (),
        addresses: Addresses | None = None,
    ) -> None:
        self.instance = instance
        self.counts = instance.counts
        self.outlets: dict[Outlet, None] = {}
        self.settings = settings
        self.subscribers_max = subscribers_max
        self.topics_max = topics_max
        self.addresses = Addresses() if addresses is None else addresses
        self.cross_origins = CrossOrigins(cors_origins)
        self._slots = itertools.count()

    def check_room(self) -> None:
        """Refuse a new stream when the largest number of streams is open.

        Raises:
            SubscriberError: 503; the client may retry later, or at another instance.
        """
        if len(self.outlets) >= self.subscribers_max:
            raise SubscriberError(
                "too_many_subscribers", f"the limit is {self.subscribers_max} subscribers", 503
            )

    def new_stream(
        self, sock: socket.socket, form: WireForm, address: str = ""
    ) -> tuple[Outlet, Session]:
        """Return outlet and session of a stream to ``address``; ``enter`` registers them."""
        opener = partial(self.new_session, form=form, address=address)
        outlet = Outlet(sock, form, self.settings, opener)
        if outlet.session is None:
            raise AssertionError("an outlet without the session that it has opened")
        return outlet, outlet.session

    def new_session(self, outlet: Outlet, form: WireForm, address: str = "") -> Session:
        """Return a session for ``outlet`` and its peer's ``address``; ``enter`` registers it."""
        session_id = f"{self.instance.number}.{secrets.token_urlsafe(_SESSION_ID_BYTES)}"
        share = share_of(address)
        return Session(
            session_id, outlet, form, self.instance.pipe, self.topics_max, address, share
        )

    def check_room_for(self, command: Command) -> None:
        """Refuse a new stream if its first command has more topics than one stream may hold.

        Raises:
            SubscriberError: 429.
        """
        if not Subscription(self.topics_max).room_for(command):
            raise SubscriberError(
                "too_many_subscriptions", f"the limit is {self.topics_max} subscriptions", 429
            )

    def enter(self, outlet: Outlet, session: Session) -> None:
        """Register an open stream: commands find its session, its outlet gets keepalives."""
        outlet.slot = next(self._slots) % round(limits.KEEP_ALIVE_S)
        self.outlets[outlet] = None
        self.instance.sessions.add(session)

    def leave(self, outlet: Outlet) -> None:
        """Unregister a stream and close its outlet; the caller closes its socket afterwards."""
        self.outlets.pop(outlet, None)
        outlet.close()
        # Breaks the reference cycle, so that both are freed without the garbage collector.
        session, outlet.session = outlet.session, None
        if session is not None:
            self.instance.sessions.discard(session)

    def cors_headers(self, origin: str) -> bytes:
        """Return the header lines that allow a page of ``origin`` to read; empty if it may not."""
        allowed = self.cross_origins.answer(origin)
        if not allowed:
            return b""
        return (
            f"Access-Control-Allow-Origin: {allowed}\r\n"
            "Access-Control-Expose-Headers: Hedgehog-Session, Retry-After\r\nVary: Origin\r\n"
        ).encode("latin-1")
