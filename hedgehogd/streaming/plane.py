"""What every connection of the streaming plane shares."""

import itertools
import secrets

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
        instance: the instance they belong to.
        counts: what happened to streams.
        outlets: every open stream, in the order in which they came.
        settings: what outlets share.
        subscribers_max: streams that may be open at once; may be changed at any time.
        topics_max: topics that a new stream may hold; may be changed at any time.
        addresses: what each address holds of the connections of all doors.
        cross_origins: whose pages may read it from other hosts.
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
        """Refuse a new stream when there is no room for it.

        Raises:
            SubscriberError: 503; come back later, or to another instance.
        """
        if len(self.outlets) >= self.subscribers_max:
            raise SubscriberError(
                "too_many_subscribers", f"{self.subscribers_max} subscribers are the most", 503
            )

    def new_session(self, outlet: Outlet, form: WireForm, address: str = "") -> Session:
        """Return a session for ``outlet``, whose peer is at ``address``; not registered yet."""
        session_id = f"{self.instance.number}.{secrets.token_urlsafe(_SESSION_ID_BYTES)}"
        share = share_of(address)
        return Session(
            session_id, outlet, form, self.instance.pipe, self.topics_max, address, share
        )

    def check_room_for(self, command: Command) -> None:
        """Refuse a stream that asks for more topics than one may have.

        Raises:
            SubscriberError: 429.
        """
        if not Subscription(self.topics_max).room_for(command):
            raise SubscriberError(
                "too_many_subscriptions", f"{self.topics_max} subscriptions are the most", 429
            )

    def enter(self, outlet: Outlet, session: Session) -> None:
        """The stream is open: its session can be found, its outlet is kept alive."""
        outlet.session = session
        outlet.slot = next(self._slots) % round(limits.KEEP_ALIVE_S)
        self.outlets[outlet] = None
        self.instance.sessions.add(session)

    def leave(self, outlet: Outlet) -> None:
        """The stream is over, its socket about to be closed."""
        self.outlets.pop(outlet, None)
        outlet.close()
        # The two refer to each other: this frees them now, not when the collector looks.
        session, outlet.session = outlet.session, None
        if session is not None:
            self.instance.sessions.discard(session)

    def cors_headers(self, origin: str) -> bytes:
        """Return the header lines that let a page of ``origin`` read us, if it may."""
        allowed = self.cross_origins.answer(origin)
        if not allowed:
            return b""
        return (
            f"Access-Control-Allow-Origin: {allowed}\r\n"
            "Access-Control-Expose-Headers: Hedgehog-Session, Retry-After\r\nVary: Origin\r\n"
        ).encode("latin-1")
