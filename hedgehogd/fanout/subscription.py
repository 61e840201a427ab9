"""One subscriber's set of channels and products, and the effect of a command on it.

The semantics are Coinbase's (COINBASE §3, §4): subscribe adds topics and drops none, unsubscribe
without products drops the whole channel, an invalid product or channel affects only itself, and
every answer states the whole subscription.
"""

from collections.abc import Iterable

from hedgehogd.domain.channel import Channel, Topic
from hedgehogd.domain.product import Catalogue
from hedgehogd.protocol import coinbase
from hedgehogd.protocol.commands import ALL_PRODUCTS, ChannelRequest, Command


class Subscription:
    """The channels and products of one subscriber.

    Attributes:
        conflated: topics in which newer messages may replace waiting ones.
    """

    __slots__ = ("_channels", "_count", "_topics_max", "conflated")

    def __init__(self, topics_max: int) -> None:
        self.conflated: set[Topic] = set()
        self._channels: dict[Channel, dict[str, None]] = {}
        self._count = 0
        self._topics_max = topics_max

    @property
    def state(self) -> dict[Channel, dict[str, None]]:
        """Each channel with its products, in the order of subscribing; no products for all."""
        return self._channels

    @property
    def count(self) -> int:
        """The number of topics; a channel without products is one."""
        return self._count

    def topics(self) -> frozenset[Topic]:
        """Return the topics of the whole state."""
        return frozenset(
            channel.topic(product_id)
            for channel, product_ids in self._channels.items()
            for product_id in product_ids or ("",)
        )

    def room_for(self, command: Command) -> bool:
        """Say whether all topics that ``command`` would add fit the limit; change nothing."""
        if not command.subscribes:
            return True
        added = 0
        for request in command.requests:
            held = self._channels.get(request.channel)
            if _is_about_all(request):
                added += held is None  # it replaces single products
            elif held is None or held:
                added += len(set(request.product_ids).difference(held or ()))
        return self._count + added <= self._topics_max

    def apply(
        self, command: Command, catalogue: Catalogue, *, may_conflate: bool = False
    ) -> list[str]:
        """Execute the valid parts of ``command``.

        Args:
            command: the subscriber's command.
            catalogue: the products that exist, and the channels that the exchange refuses.
            may_conflate: False on streams without notices, which ignore a policy like any other
                key that Coinbase does not know.

        Returns:
            A reason for each part that was not executed, each reason once.
        """
        errors = list(command.errors)
        for request in command.requests:
            if command.subscribes:
                self._subscribe(request, catalogue, errors, may_conflate=may_conflate)
            else:
                self._unsubscribe(request)
        return list(dict.fromkeys(errors))

    def remove_channel(self, channel: Channel) -> bool:
        """Drop ``channel``; return whether it was subscribed to."""
        if channel not in self._channels:
            return False
        self._unsubscribe(ChannelRequest(channel, ()))
        return True

    def remove_product(self, product_id: str) -> bool:
        """Drop ``product_id`` from every channel; return whether a channel had it."""
        found = False
        for channel, product_ids in list(self._channels.items()):
            if product_id in product_ids:
                found = True
                self._drop(channel, product_id)
        return found

    def _subscribe(
        self,
        request: ChannelRequest,
        catalogue: Catalogue,
        errors: list[str],
        *,
        may_conflate: bool,
    ) -> None:
        channel = request.channel
        policy = request.policy if may_conflate else None
        if policy == "conflate" and not channel.conflates:
            errors.append(f"{channel.name} is never conflated")
            return
        refusal = catalogue.refusal_of(channel.topic_channel)
        if refusal is not None:
            errors.append(refusal[1] or refusal[0])
            return
        product_ids = request.product_ids
        if channel.needs_products and not product_ids:
            errors.append(coinbase.no_products(channel))
            return
        if _is_about_all(request):
            self._subscribe_to_all(channel, errors)
            return
        if channel in self._channels and not self._channels[channel]:
            errors.append(f"{channel.name} is subscribed to for all products")
            return
        for product_id in product_ids:
            if not catalogue.accepts(product_id):
                errors.append(coinbase.not_a_product(product_id))
                continue
            if product_id not in self._channels.get(channel, ()):
                if not self._has_room(errors):
                    return
                self._channels.setdefault(channel, {})[product_id] = None
                self._count += 1
            if policy == "conflate":
                self.conflated.add(channel.topic(product_id))
            elif policy:
                self.conflated.discard(channel.topic(product_id))

    def _subscribe_to_all(self, channel: Channel, errors: list[str]) -> None:
        """Subscribe to a channel for all products; this replaces single products.

        Without room for one more topic, a reason is added to ``errors`` and nothing changes.
        """
        held = self._channels.get(channel)
        if held is None and not self._has_room(errors):
            return
        self._count += 1 - (max(1, len(held)) if held is not None else 0)
        self._channels[channel] = {}

    def _has_room(self, errors: list[str]) -> bool:
        if self._count < self._topics_max:
            return True
        errors.append(f"{self._topics_max} subscriptions are the most allowed")
        return False

    def _unsubscribe(self, request: ChannelRequest) -> None:
        channel = request.channel
        held = self._channels.get(channel)
        if held is None:
            return
        if not request.product_ids or _is_about_all(request):
            self._count -= max(1, len(held))
            del self._channels[channel]
            self._forget_conflation(channel, held)
            return
        for product_id in request.product_ids:  # a subscription for all products has no single ones
            if product_id in held:
                self._drop(channel, product_id)

    def _drop(self, channel: Channel, product_id: str) -> None:
        held = self._channels[channel]
        del held[product_id]
        self._count -= 1
        self._forget_conflation(channel, (product_id,))
        if not held:
            del self._channels[channel]

    def _forget_conflation(self, channel: Channel, product_ids: Iterable[str]) -> None:
        if self.conflated:
            self.conflated.difference_update(map(channel.topic, product_ids))


def _is_about_all(request: ChannelRequest) -> bool:
    """Say whether ``request`` means the whole channel, not single products."""
    channel, product_ids, _ = request
    if channel.needs_products:
        return False
    return not channel.takes_products or not product_ids or ALL_PRODUCTS in product_ids
