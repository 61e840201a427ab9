"""The simulated exchange: answer Coinbase's protocol from a ``Market``.

All clients of one server receive the same market. The answer to a subscribe is first the errors,
then the acknowledgement and the initial state of the new topics, in one order or the other, as
on the real feed (docs/COINBASE.md §8.1); the order is random. Subscribing again to a topic
brings an acknowledgement but no second snapshot.

Every outgoing message passes through ``Faults``, which changes nothing unless a fault is armed.
"""

import random
from collections.abc import Iterable

import trio

from hedgehogd.domain.channel import LEVEL3, RFQ_MATCHES, STATUS, Channel
from hedgehogd.protocol import coinbase
from hedgehogd.protocol.commands import ChannelRequest, Command, CommandError, parse
from hedgehogd.protocol.frames import encode_text
from hedgehogd.simulator.amounts import NS_PER_S
from hedgehogd.simulator.client import Client
from hedgehogd.simulator.faults import Faults, Outgoing
from hedgehogd.simulator.keys import AUTHENTICATION_REQUIRED, Keyring, WrongSignature
from hedgehogd.simulator.market import Market
from hedgehogd.simulator.messages import MarketMessage

_STEP_S = 0.01
# Limit of market time in one turn of the loop, when the machine is too slow.
_STEP_NS_MAX = NS_PER_S // 50

State = dict[Channel, dict[str, None]]


_ALL_HELD = "ALL products are subscribed to already"


class MarketExchange:
    """Answer clients from one market, and advance its time."""

    def __init__(
        self,
        market: Market,
        seed: int,
        *,
        faults: Faults | None = None,
        keyring: Keyring | None = None,
    ) -> None:
        """Prepare to answer.

        Args:
            market: source of the data.
            seed: determines the order of acknowledgement and state.
            faults: the faults to apply; without them nothing can be armed.
            keyring: checks clients that ask for ``level2``, ``level3`` and ``full``; None
                admits all clients.
        """
        self._market = market
        self._faults = Faults(market) if faults is None else faults
        self._keyring = keyring
        self._random = random.Random(seed)
        self._states: dict[Client, State] = {}
        self._routes: dict[tuple[str, str], dict[Client, None]] = {}

    async def run(self) -> None:
        """Advance the market with trio's clock until cancelled.

        A rate that the machine cannot hold slows the market's clock down; it does not reduce
        the number of messages.
        """
        ahead_ns = self._market.now_ns - _ns(trio.current_time())
        while True:
            due_ns = _ns(trio.current_time()) + ahead_ns
            self._step(min(due_ns, self._market.now_ns + _STEP_NS_MAX))
            await trio.sleep(_STEP_S if self._market.now_ns >= due_ns else 0)

    def _step(self, until_ns: int) -> None:
        self._publish(self._market.advance(until_ns, self._routes))

    def _publish(self, messages: Iterable[MarketMessage]) -> None:
        for message in messages:
            channel, product_id = topic = message.channel, message.product_id
            clients = self._routes.get(topic, {})
            if channel == RFQ_MATCHES.name:
                clients = clients | self._routes.get((channel, ""), {})
            if not clients:
                continue
            payload = message.payload
            frame = encode_text(payload)
            if self._faults.watches_lines:
                outgoing = Outgoing(channel, product_id, payload, frame)
                for client in clients:
                    self._send(client, outgoing)
            else:
                for client in clients:
                    client.send(frame)

    def _send(self, client: Client, outgoing: Outgoing) -> None:
        for each in self._faults.apply(client, outgoing):
            client.send(each.frame)

    def _answer(self, client: Client, payload: bytes) -> None:
        self._send(client, Outgoing("", "", payload, encode_text(payload)))

    def receive(self, client: Client, text: str) -> None:
        """Carry out the client's command, and answer; an invalid one gets an error alone."""
        try:
            command = parse(text)
            is_trusted = self._keyring is None or self._keyring.is_signed(text)
        except (CommandError, WrongSignature) as error:
            self._answer(client, coinbase.error(error.message, error.reason))
            return
        state = self._states.setdefault(client, {})
        if command.subscribes:
            client.has_subscribed = True
            self._subscribe(client, state, command, is_trusted)
        else:
            self._unsubscribe(client, state, command)

    def left(self, client: Client) -> None:
        """Forget the client and its subscriptions."""
        for channel, product_ids in self._states.pop(client, {}).items():
            for product_id in product_ids:
                self._detach(client, channel, product_id)

    def _subscribe(self, client: Client, state: State, command: Command, is_trusted: bool) -> None:
        reasons = dict.fromkeys(command.errors)
        topics: list[tuple[Channel, str]] = []
        asked = {each for request in command.requests for each in request.product_ids}
        refused = self._faults.refused_product(
            client, [each for each in self._market.products if each in asked]
        )
        for request in command.requests:
            product_ids, refusals = self._sort(request, state, is_trusted, refused)
            reasons.update(dict.fromkeys(refusals))
            held = state.get(request.channel, {})
            topics += ((request.channel, each) for each in product_ids if each not in held)
        self._faults.subscribed(client, [(channel.name, each) for channel, each in topics])
        # Other subscribers receive the new levels before this client receives the snapshot.
        for channel, product_id in topics:
            levels = self._faults.levels_to_add(client, (channel.name, product_id))
            if levels:
                self._publish(self._market.add_levels(product_id, levels, self._routes))
        initial = self._attach(client, state, topics)
        for reason in reasons:
            self._answer(client, coinbase.error(command.failure, reason))
        acknowledgement = _acknowledge(state)
        ack_first = self._random.random() < 0.5
        if ack_first:
            self._answer(client, acknowledgement)
        for initial_state in initial:
            self._send(client, initial_state)
        if not ack_first:
            self._answer(client, acknowledgement)

    def _attach(
        self, client: Client, state: State, topics: Iterable[tuple[Channel, str]]
    ) -> list[Outgoing]:
        """Subscribe to ``topics`` from now on; return their initial states.

        A topic may have none; an equal one of several topics is returned once.
        """
        initial: dict[bytes, Outgoing] = {}
        for channel, product_id in topics:
            state.setdefault(channel, {})[product_id] = None
            self._routes.setdefault((channel.name, product_id), {})[client] = None
            payload = self._market.initial_state(channel.name, product_id)
            if payload is not None:
                frame = encode_text(payload)
                about = "" if channel is LEVEL3 else product_id  # one schema for all products
                initial[payload] = Outgoing(channel.name, about, payload, frame)
        return list(initial.values())

    def _sort(
        self, request: ChannelRequest, state: State, is_trusted: bool, refused: str | None
    ) -> tuple[list[str], list[str]]:
        """Return ``(product ids, reasons)``: the accepted products, and reasons for refusals."""
        channel = request.channel
        if channel.needs_key and not is_trusted:
            return [], [AUTHENTICATION_REQUIRED]
        if channel is STATUS:
            return [""], []
        if not request.product_ids:
            return ([], [coinbase.no_products(channel)]) if channel.needs_products else ([""], [])
        if channel is RFQ_MATCHES and "" in state.get(channel, {}):
            return [], [_ALL_HELD]
        listed = self._market.products
        there = [each for each in request.product_ids if each in listed and each != refused]
        return (
            there,
            [coinbase.not_a_product(each) for each in request.product_ids if each not in there],
        )

    def _unsubscribe(self, client: Client, state: State, command: Command) -> None:
        for channel, product_ids, _ in command.requests:
            held = state.get(channel, {})
            everything = channel is STATUS or not product_ids
            for product_id in list(held) if everything else product_ids:
                if product_id in held:
                    del held[product_id]
                    self._detach(client, channel, product_id)
                    self._faults.unsubscribed(client, (channel.name, product_id))
            if not held:
                state.pop(channel, None)
        for reason in command.errors:
            self._answer(client, coinbase.error(command.failure, reason))
        self._answer(client, _acknowledge(state))

    def _detach(self, client: Client, channel: Channel, product_id: str) -> None:
        key = (channel.name, product_id)
        clients = self._routes[key]
        del clients[client]
        if not clients:
            del self._routes[key]


def _acknowledge(state: State) -> bytes:
    """Return the acknowledgement, which lists all subscriptions; ``status`` has no products."""
    return coinbase.subscriptions(
        {channel: [name for name in held if name] for channel, held in state.items()}
    )


def _ns(seconds: float) -> int:
    return int(seconds * NS_PER_S)
