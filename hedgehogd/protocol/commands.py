"""Commands of subscribers: Coinbase's subscribe and unsubscribe, and their meaning.

``parse`` converts one client message to a ``Command``; ``fanout.subscription`` applies it to a
set of subscriptions. The simulated exchange parses its clients' messages with the same function,
so that both ends use one grammar.

Rules (docs/COINBASE.md §3.1): a channel is a string or an object; its products are those of the
root and its own together; the keys ``policy``, ``since`` and
``strict`` of a channel object are hedgehogd's own; further keys, repeated ids and keys for signing,
empty or not, are
ignored.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from hedgehogd.domain.channel import BY_ALIAS, CHANNELS, PRIVATE_CHANNELS, Channel, Topic
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.domain.limits import SEQUENCE_MAX
from hedgehogd.domain.position import Start

SUBSCRIBE_FAILED = "Failed to subscribe"
UNSUBSCRIBE_FAILED = "Failed to unsubscribe"
NO_CHANNELS = "No channels provided"
ALL_PRODUCTS = "ALL"  # equivalent to no list of products, for rfq_matches (COINBASE §3.1)
POLICIES = ("close", "conflate")
DEFAULT_CHANNELS = ("ticker", "matches")
"""The channels of a URL that names none."""


class CommandError(Exception):
    """A client message that is invalid as a whole; it is answered and changes nothing.

    Attributes:
        message: the ``message`` of the answer, in Coinbase's words if known (COINBASE §6.16).
        reason: the ``reason`` of the answer; empty if ``message`` is sufficient.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(f"{message}: {reason}" if reason else message)
        self.message = message
        self.reason = reason


class ChannelRequest(NamedTuple):
    """One channel of a command.

    Attributes:
        channel: the channel.
        product_ids: the products of the root and of the channel, in order, each once.
        policy: ``"close"``, ``"conflate"``, or None if the command names no policy.
    """

    channel: Channel
    product_ids: tuple[str, ...]
    policy: str | None = None


class Pace(NamedTuple):
    """Speed and end of a replay of recorded messages.

    Attributes:
        speed: the factor to the original speed; 0 to send messages as fast as they are read.
        until_us: end of the replay, exclusive, µs since the epoch; None to continue live.
    """

    speed: float = 0.0
    until_us: int | None = None


class Command(NamedTuple):
    """One subscribe or unsubscribe.

    Attributes:
        subscribes: True for subscribe, False for unsubscribe.
        requests: the channels of the command that exist, each once.
        errors: a reason for each channel name that does not exist.
        since: the start of each topic that is resumed.
        is_strict: True to end the stream if a resumed message is missing.
        is_alone: True if a peer instance sent the command: no further peer is asked for it.
        pace: replay recorded messages from ``since`` on; None for a live or resumed stream.
    """

    subscribes: bool
    requests: tuple[ChannelRequest, ...]
    errors: tuple[str, ...] = ()
    since: Mapping[Topic, Start] = MappingProxyType({})
    is_strict: bool = False
    is_alone: bool = False
    pace: Pace | None = None

    @property
    def weight(self) -> int:
        """The number of topics that the command names, of existing channels and any products.

        A channel without products counts as one topic.
        """
        return sum(max(1, len(request.product_ids)) for request in self.requests)

    @property
    def failure(self) -> str:
        """The ``message`` of an error that answers this command."""
        return SUBSCRIBE_FAILED if self.subscribes else UNSUBSCRIBE_FAILED


def parse(text: str | bytes) -> Command:
    """Parse one client message.

    A channel that does not exist is in ``errors`` of the result; products are not checked.

    Raises:
        CommandError: ``text`` is not a JSON object, or has another ``type``, no channels, or
            keys of a wrong type. The connection stays usable.
    """
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise CommandError("Malformed JSON") from None
    if not isinstance(value, dict):
        raise CommandError("Malformed message", "a message is a JSON object")
    kind = value.get("type")
    if kind not in ("subscribe", "unsubscribe"):
        raise CommandError("Type has to be either subscribe or unsubscribe")
    failure = SUBSCRIBE_FAILED if kind == "subscribe" else UNSUBSCRIBE_FAILED
    channels = value.get("channels")
    if not channels:
        raise CommandError(failure, NO_CHANNELS)
    if not isinstance(channels, list):
        raise CommandError(failure, "channels is a list of names or objects")
    root = _product_ids(value.get("product_ids"), failure)
    requests: dict[str, ChannelRequest] = {}
    errors: dict[str, None] = {}
    since: dict[Topic, Start] = {}
    for item in channels:
        name, own, policy = _channel_item(item, failure)
        channel = BY_ALIAS.get(name)
        if channel is None:
            errors[unknown_channel(name)] = None
            continue
        known = requests.get(channel.name)
        before = known.product_ids if known else ()
        policy = policy or (known.policy if known else None)
        together = tuple(dict.fromkeys((*before, *root, *own)))
        requests[channel.name] = ChannelRequest(channel, together, policy)
        if isinstance(item, dict):
            since.update(_since(channel, item.get("since"), failure))
    is_strict = any(isinstance(item, dict) and item.get("strict") is True for item in channels)
    return Command(kind == "subscribe", tuple(requests.values()), tuple(errors), since, is_strict)


def unknown_channel(name: str) -> str:
    """Return the reason of an error about a channel that hedgehogd does not offer."""
    if name in PRIVATE_CHANNELS:
        return f"{name} is private to one account and is not relayed"
    return f"{name} is not a valid channel"


def _channel_item(item: Any, failure: str) -> tuple[str, tuple[str, ...], str | None]:
    if isinstance(item, str):
        return item, (), None
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise CommandError(failure, "a channel is a name, or an object with a name")
    policy = item.get("policy")
    if policy is not None and policy not in POLICIES:
        raise CommandError(failure, "policy is close or conflate")
    return item["name"], _product_ids(item.get("product_ids"), failure), policy


def _since(channel: Channel, value: Any, failure: str) -> dict[Topic, Start]:
    """Return the start of each topic of ``channel`` in the ``since`` of a command.

    Empty without ``since``. Raises CommandError if it is not an object of sequences.
    """
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(
        type(number) is int and 0 <= number <= SEQUENCE_MAX for number in value.values()
    ):
        raise CommandError(failure, "since is an object of products and their last sequence")
    return {channel.topic(product_id): Start(number) for product_id, number in value.items()}


def _product_ids(value: Any, failure: str) -> tuple[str, ...]:
    if value is None or value in ("", ALL_PRODUCTS):
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CommandError(failure, "product_ids is a list of strings")
    return tuple(value)


def channel_requests(
    names: Sequence[str], pairs: tuple[str, ...], policy: str | None = None
) -> tuple[ChannelRequest, ...]:
    """Return the requests of a URL: each channel of ``names`` (aliases), once, for all ``pairs``.

    The policy applies to the channels that can be conflated, because a URL cannot assign it to
    single channels.

    Raises:
        SubscriberError: a name is not a channel, or the policy is unknown (400); or a channel
            is private to an account (403).
    """
    for name in names:
        if name in PRIVATE_CHANNELS:
            raise SubscriberError("private_channel", unknown_channel(name), 403)
        if name not in BY_ALIAS:
            known = ", ".join(sorted(BY_ALIAS))
            raise SubscriberError(
                "unknown_channel", f"{name!r} is not a channel; the channels are {known}"
            )
    if policy is not None and policy not in POLICIES:
        raise SubscriberError("bad_request", f"policy {policy!r} is neither close nor conflate")
    channels = dict.fromkeys(BY_ALIAS[name] for name in names)
    return tuple(
        ChannelRequest(channel, pairs, policy if channel.conflates else None)
        for channel in channels
    )


def drop_pair(pair: str) -> Command:
    """Return the command that unsubscribes from one pair on every channel that takes products."""
    about_pairs = [channel for channel in CHANNELS if channel.takes_products]
    return Command(False, tuple(ChannelRequest(channel, (pair,)) for channel in about_pairs))
