"""What a subscriber may say: Coinbase's subscribe and unsubscribe, and their meaning.

``parse`` reads one client message into a ``Command``; what the command does to a set of
subscriptions is ``fanout.subscription``'s knowledge. The simulator's exchange reads its
clients with the same function, so that both ends agree on one grammar.

Rules (FEED §3.1): channels are strings or objects; the products of a channel are those
at the root and its own together; extra keys, repeated ids and keys for signing, empty or
not, are ignored.
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
ALL_PRODUCTS = "ALL"  # as good as none, for rfq_matches (FEED §3.1)
POLICIES = ("close", "conflate")
DEFAULT_CHANNELS = ("ticker", "matches")
"""What a URL without channels asks for."""


class CommandError(Exception):
    """The whole message means nothing; answer ``message`` and ``reason`` and change nothing.

    Attributes:
        message: what went wrong, in Coinbase's words where they are known (FEED §6.16).
        reason: what was wrong about it; empty when ``message`` says all.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(f"{message}: {reason}" if reason else message)
        self.message = message
        self.reason = reason


class ChannelRequest(NamedTuple):
    """One channel of a command.

    Attributes:
        channel: which one.
        product_ids: root and own products together, as asked, each once.
        policy: ``"close"``, ``"conflate"``, or None when nothing was asked for.
    """

    channel: Channel
    product_ids: tuple[str, ...]
    policy: str | None = None


class Pace(NamedTuple):
    """How a stretch of the past is replayed.

    Attributes:
        speed: how many times as fast as it was; 0 for as fast as it is read.
        until_us: up to before then, µs since the epoch; None to become live.
    """

    speed: float = 0.0
    until_us: int | None = None


class Command(NamedTuple):
    """One subscribe or unsubscribe.

    Attributes:
        subscribes: True for subscribe, False for unsubscribe.
        requests: the channels that exist.
        errors: a reason for each channel that does not.
        since: where topics are to be resumed.
        is_strict: all of what is resumed, or the stream ends.
        is_alone: another instance asks; nobody else is asked on its behalf.
        pace: the past is replayed from ``since`` on; None to be live, or resume.
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
        """How many topics it names, existing or not."""
        return sum(max(1, len(request.product_ids)) for request in self.requests)

    @property
    def failure(self) -> str:
        """The ``message`` of an error that answers this command."""
        return SUBSCRIBE_FAILED if self.subscribes else UNSUBSCRIBE_FAILED


def parse(text: str | bytes) -> Command:
    """Read one client message.

    Raises:
        CommandError: not a JSON object, another ``type``, no channels, or keys of the
            wrong kind. The connection stays usable.
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
    """Return the reason of an error about a channel that is not to be had here."""
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
    """Return where the products of a channel are to be resumed."""
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
        raise CommandError(failure, "product_ids is a list of texts")
    return tuple(value)


def channel_requests(
    names: Sequence[str], pairs: tuple[str, ...], policy: str | None = None
) -> tuple[ChannelRequest, ...]:
    """Return what a URL asks for: each of ``names`` for all ``pairs``.

    The policy goes to the channels that can be conflated; a URL cannot say which it means.

    Raises:
        SubscriberError: a name is not a channel's, or there is no such policy (400).
    """
    for name in names:
        if name in PRIVATE_CHANNELS:
            raise SubscriberError("private_channel", unknown_channel(name), 403)
        if name not in BY_ALIAS:
            known = ", ".join(sorted(BY_ALIAS))
            raise SubscriberError(
                "unknown_channel", f"{name!r} is not a channel; there are {known}"
            )
    if policy is not None and policy not in POLICIES:
        raise SubscriberError("bad_request", f"policy {policy!r} is neither close nor conflate")
    channels = dict.fromkeys(BY_ALIAS[name] for name in names)
    return tuple(
        ChannelRequest(channel, pairs, policy if channel.conflates else None)
        for channel in channels
    )


def drop_pair(pair: str) -> Command:
    """Return the command that stops every channel of one pair."""
    about_pairs = [channel for channel in CHANNELS if channel.takes_products]
    return Command(False, tuple(ChannelRequest(channel, (pair,)) for channel in about_pairs))
