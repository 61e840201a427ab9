"""The simulated exchange: Coinbase's protocol, spoken from a ``Market``.

Every client of one server sees the same market. A new subscription is answered with
errors first, then the acknowledgement and the state of what was asked for, in one order
or the other, as on the real feed (FEED §8.1): which of them is first is drawn by lot.
Asking again for what is held brings an acknowledgement but no second snapshot.
"""

import random

import trio

from hedgehogd.domain.channel import LEVEL2, STATUS, Channel
from hedgehogd.protocol import coinbase
from hedgehogd.protocol.commands import ChannelRequest, Command, CommandError, parse
from hedgehogd.protocol.frames import encode_text
from hedgehogd.simulator.amounts import NS_PER_S
from hedgehogd.simulator.client import Client
from hedgehogd.simulator.market import Market

_STEP_S = 0.01
# The most market time in one turn of the loop, when the machine cannot keep up.
_STEP_NS_MAX = NS_PER_S // 50

State = dict[Channel, dict[str, None]]


class MarketExchange:
    """Answer clients from one market, and let its time pass."""

    def __init__(self, market: Market, seed: int) -> None:
        self._market = market
        self._lots = random.Random(seed)
        self._states: dict[Client, State] = {}
        self._routes: dict[tuple[str, str], dict[Client, None]] = {}

    async def run(self) -> None:
        """Let the market follow trio's clock until cancelled.

        A rate that the machine cannot hold makes the market's clock slow, not its
        messages fewer.
        """
        ahead_ns = self._market.now_ns - _ns(trio.current_time())
        while True:
            due_ns = _ns(trio.current_time()) + ahead_ns
            self._step(min(due_ns, self._market.now_ns + _STEP_NS_MAX))
            await trio.sleep(_STEP_S if self._market.now_ns >= due_ns else 0)

    def _step(self, until_ns: int) -> None:
        for message in self._market.advance(until_ns):
            clients = self._routes.get((message.channel, message.product_id))
            if clients:
                frame = encode_text(message.payload)
                for client in clients:
                    client.send(frame)

    def heard(self, client: Client, text: str) -> None:
        """Do what the client asks, and answer."""
        try:
            command = parse(text)
        except CommandError as error:
            client.send(encode_text(coinbase.error(error.message, error.reason)))
            return
        state = self._states.setdefault(client, {})
        if command.subscribes:
            client.has_subscribed = True
            answers = self._subscribe(client, state, command)
        else:
            answers = self._unsubscribe(client, state, command)
        for answer in answers:
            client.send(encode_text(answer))

    def left(self, client: Client) -> None:
        """Forget the client."""
        for channel, product_ids in self._states.pop(client, {}).items():
            for product_id in product_ids:
                self._detach(client, channel, product_id)

    def _subscribe(self, client: Client, state: State, command: Command) -> list[bytes]:
        reasons = dict.fromkeys(command.errors)
        state_messages: list[bytes] = []
        for request in command.requests:
            product_ids, refusals = self._sort(request)
            reasons.update(dict.fromkeys(refusals))
            for product_id in product_ids:
                held = state.setdefault(request.channel, {})
                if product_id in held:
                    continue
                held[product_id] = None
                key = (request.channel.name, product_id)
                self._routes.setdefault(key, {})[client] = None
                greeting = self._market.greeting(*key)
                if greeting is not None:
                    state_messages.append(greeting)
        errors = [coinbase.error(command.failure, reason) for reason in reasons]
        acknowledgement = [_acknowledge(state)]
        if self._lots.random() < 0.5:
            return errors + acknowledgement + state_messages
        return errors + state_messages + acknowledgement

    def _sort(self, request: ChannelRequest) -> tuple[list[str], list[str]]:
        """Return ``(product ids, reasons)``: what can be had, and why the rest cannot."""
        channel = request.channel
        if channel is LEVEL2:
            # With level3 and full it comes to those who sign; nobody can sign here yet.
            return [], [f"{channel.name} is not a valid channel"]
        if channel is STATUS:
            return [""], []
        if not request.product_ids:
            return [], [coinbase.no_products(channel)]
        listed = self._market.products
        return (
            [product_id for product_id in request.product_ids if product_id in listed],
            [coinbase.not_a_product(wrong) for wrong in request.product_ids if wrong not in listed],
        )

    def _unsubscribe(self, client: Client, state: State, command: Command) -> list[bytes]:
        for channel, product_ids, _ in command.requests:
            held = state.get(channel, {})
            everything = channel is STATUS or not product_ids
            for product_id in list(held) if everything else product_ids:
                if product_id in held:
                    del held[product_id]
                    self._detach(client, channel, product_id)
            if not held:
                state.pop(channel, None)
        errors = [coinbase.error(command.failure, reason) for reason in command.errors]
        return [*errors, _acknowledge(state)]

    def _detach(self, client: Client, channel: Channel, product_id: str) -> None:
        key = (channel.name, product_id)
        clients = self._routes[key]
        del clients[client]
        if not clients:
            del self._routes[key]


def _acknowledge(state: State) -> bytes:
    """Return the acknowledgement; ``status`` is about no product."""
    return coinbase.subscriptions(
        {channel: [name for name in held if name] for channel, held in state.items()}
    )


def _ns(seconds: float) -> int:
    return int(seconds * NS_PER_S)
