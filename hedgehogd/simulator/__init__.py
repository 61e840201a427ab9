"""A simulated exchange: Coinbase's protocol, served from a seeded market or from a recording.

For development and tests without the internet, for ``--feed demo`` and for
``hedgehogd simulate``. WebSocket and REST share one port. All connections of one simulation
receive the same numbered messages.

``serve_exchange`` listens on a port. Tests on a mock clock use ``market_server`` and connect
their clients with ``inprocess.connect``.

The package imports domain, protocol, ``engine.streams`` and ``fanout.subscription``; no feed and
no relay. Only this module reads the wall clock: for the start time of the market, and for
``/time`` of a recording.
"""

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from hedgehogd.domain.errors import EXIT_USAGE, OperatorError
from hedgehogd.domain.product import is_product_id
from hedgehogd.simulator.control import add_control
from hedgehogd.simulator.exchange import MarketExchange
from hedgehogd.simulator.faults import FaultError, Faults, read_param
from hedgehogd.simulator.keys import Keyring
from hedgehogd.simulator.market import RATE_MAX, Market
from hedgehogd.simulator.products import Product, products_for
from hedgehogd.simulator.replay import Recording, ReplayExchange
from hedgehogd.simulator.rest import catalogue_app, market_app
from hedgehogd.simulator.server import Server, listen


@dataclass(frozen=True)
class Simulation:
    """Settings of a simulated exchange.

    Attributes:
        host: address to listen on.
        port: port to listen on; 0 chooses a free one.
        seed: determines the market; None draws one. A recording has none.
        pairs: products to list in addition to the built-in ones.
        rate: activity of the market, above 0 and at most ``RATE_MAX``; 1.0 is near the real
            exchange's.
        recording: a ``feed.jsonl``, or the directory that holds one, to serve instead of
            a market.
        speed: factor to the recorded pace; 0 is as fast as clients read.
        modifies: orders are modified now and then. OrderbookSync and ``cbpro.OrderBook`` do
            not know ``modify_order`` and get out of sync at the first one.
        require_auth: send ``level2``, ``level3`` and ``full`` only to clients that sign with
            ``keys.TEST_KEY``, as the real exchange does.
        faults: recurring faults, ``"name"`` or ``"name:parameter"`` (``faults.KINDS``).
        control: offer ``/faults`` by REST, so that any client that reaches the port can arm
            faults.
    """

    host: str = "127.0.0.1"
    port: int = 0
    seed: int | None = None
    pairs: tuple[str, ...] = ()
    rate: float = 1.0
    recording: Path | None = None
    speed: float = 1.0
    modifies: bool = True
    require_auth: bool = False
    faults: tuple[str, ...] = ()
    control: bool = False


@dataclass(frozen=True)
class Address:
    """Addresses of a running exchange.

    Attributes:
        url: for WebSockets, for example ``"ws://127.0.0.1:9000"``.
        rest_url: for REST, for example ``"http://127.0.0.1:9000"``.
        seed: the seed that reproduces the market; None for a recording.
        faults: arms faults, in this process; None for a recording.
    """

    url: str
    rest_url: str
    seed: int | None
    faults: Faults | None = None


async def serve_exchange(
    simulation: Simulation,
    *,
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the exchange until cancelled; started with its address once it listens.

    Cancellation ends every connection at once, also those of clients that do not read.

    Raises:
        OperatorError: an invalid rate, speed, pair, fault, address or recording; or a recording
            together with faults or keys.
    """
    _check(simulation)
    seed: int | None = None
    if simulation.recording is None:
        seed = simulation.seed
        seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        server = market_server(replace(simulation, seed=seed), time.time_ns())
    else:
        server = await _replay_server(simulation.recording, simulation.speed)
    listeners = await listen(simulation.host, simulation.port)
    async with trio.open_nursery() as nursery:
        if server.faults:
            nursery.start_soon(server.faults.run, _recurring_faults(simulation), seed or 0)
        task_status.started(address_of(simulation.host, listeners, seed, server.faults))
        await server.run(listeners)


def address_of(
    host: str,
    listeners: Sequence[trio.SocketListener],
    seed: int | None = None,
    faults: Faults | None = None,
) -> Address:
    """Return the address at which ``listeners`` listen on ``host``."""
    port = listeners[0].socket.getsockname()[1]
    host = f"[{host}]" if ":" in host else host
    return Address(f"ws://{host}:{port}", f"http://{host}:{port}", seed, faults)


def market_server(
    simulation: Simulation, start_ns: int, products: Iterable[Product] | None = None
) -> Server:
    """Return the server of a seeded market, for callers that need no port.

    ``run`` it in a nursery; ``inprocess.connect`` connects clients, ``app`` is its REST.
    Only ``serve_exchange`` runs recurring faults; here ``faults.fire`` arms single ones.

    Args:
        simulation: without a recording; a seed of None means 0 here.
        start_ns: start time of its market, ns since the epoch.
        products: list these, instead of the built-in ones and ``simulation.pairs``.
    """
    seed = simulation.seed or 0
    listed = products_for(simulation.pairs) if products is None else products
    market = Market(seed, start_ns, listed, simulation.rate, modifies=simulation.modifies)
    faults = Faults(market)
    keyring = Keyring() if simulation.require_auth else None
    app = market_app(market, faults)
    if simulation.control:
        add_control(app, faults, market)
    return Server(MarketExchange(market, seed, faults=faults, keyring=keyring), app, faults=faults)


async def _replay_server(path: Path, speed: float) -> Server:
    recording = await trio.to_thread.run_sync(Recording, path, abandon_on_cancel=True)
    app = catalogue_app(recording.products, time.time_ns)
    return Server(ReplayExchange(recording, speed), app)


def _recurring_faults(simulation: Simulation) -> list[tuple[str, str | None]]:
    """Return the names and parameters of the recurring faults; None for a default parameter."""
    parts = (text.partition(":") for text in simulation.faults)
    return [(name, param if colon else None) for name, colon, param in parts]


def _check(simulation: Simulation) -> None:
    if simulation.recording is not None and (simulation.faults or simulation.require_auth):
        raise OperatorError("a recording has neither faults nor keys", EXIT_USAGE)
    for name, param in _recurring_faults(simulation):
        try:
            read_param(name, param)
        except FaultError as error:
            raise OperatorError(str(error), EXIT_USAGE) from None
    if not 0 < simulation.rate <= RATE_MAX:
        expected = f"more than 0 and at most {RATE_MAX:g}"
        raise OperatorError(f"rate {simulation.rate:g}: expected {expected}", EXIT_USAGE)
    if not 0 <= simulation.speed < float("inf"):
        expected = "0 (as fast as clients read) or a factor above it"
        raise OperatorError(f"speed {simulation.speed:g}: expected {expected}", EXIT_USAGE)
    for pair in simulation.pairs:
        if not is_product_id(pair):
            raise OperatorError(f"pair {pair!r}: expected one like BTC-USD", EXIT_USAGE)
