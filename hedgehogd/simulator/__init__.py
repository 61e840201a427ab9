"""A simulated exchange: a seeded market, or a recording, that speaks Coinbase's protocol.

For development and tests without the internet, for ``--feed demo`` and for
``hedgehogd simulate``. WebSocket and REST are on one port.

Floor 3: knows domain and protocol; no feed, no relay, no subscriber. Only this module
reads the wall clock: to say when the market begins, and for ``/time`` of a recording.
"""

import random
import time
from dataclasses import dataclass
from pathlib import Path

import trio

from hedgehogd.domain.errors import EXIT_USAGE, OperatorError
from hedgehogd.domain.product import is_product_id
from hedgehogd.simulator.exchange import MarketExchange
from hedgehogd.simulator.market import RATE_MAX, Market
from hedgehogd.simulator.products import products_for
from hedgehogd.simulator.replay import Recording, ReplayExchange
from hedgehogd.simulator.rest import catalogue_app, market_app
from hedgehogd.simulator.server import Server, listen


@dataclass(frozen=True)
class Simulation:
    """What to simulate, and where.

    Attributes:
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        seed: decides the market; None draws one. A recording has none.
        pairs: products to list beside the built-in ones.
        rate: liveliness of the market; 1.0 is near the real exchange's.
        recording: a ``feed.jsonl``, or the directory that holds one, to serve instead of
            a market.
        speed: how much faster than recorded; 0 is as fast as clients read.
    """

    host: str = "127.0.0.1"
    port: int = 0
    seed: int | None = None
    pairs: tuple[str, ...] = ()
    rate: float = 1.0
    recording: Path | None = None
    speed: float = 1.0


@dataclass(frozen=True)
class Address:
    """Where the exchange is.

    Attributes:
        url: for WebSockets, for example ``"ws://127.0.0.1:9000"``.
        rest_url: for REST, for example ``"http://127.0.0.1:9000"``.
        seed: what makes the same market again; None for a recording.
    """

    url: str
    rest_url: str
    seed: int | None


async def serve_exchange(
    simulation: Simulation,
    *,
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the exchange until cancelled; started with its address once it listens.

    Cancelled: every connection is cut at once, also those that do not read.

    Raises:
        OperatorError: a rate, a speed, a pair, an address or a recording that cannot be.
    """
    _check(simulation)
    if simulation.recording is None:
        seed, server = _market_server(simulation)
    else:
        seed, server = None, await _replay_server(simulation.recording, simulation.speed)
    listeners = await listen(simulation.host, simulation.port)
    port = listeners[0].socket.getsockname()[1]
    host = f"[{simulation.host}]" if ":" in simulation.host else simulation.host
    task_status.started(Address(f"ws://{host}:{port}", f"http://{host}:{port}", seed))
    await server.run(listeners)


def _market_server(simulation: Simulation) -> tuple[int, Server]:
    """Return the seed in use and the server of its market, which begins now."""
    seed = random.SystemRandom().getrandbits(32) if simulation.seed is None else simulation.seed
    market = Market(seed, time.time_ns(), products_for(simulation.pairs), simulation.rate)
    return seed, Server(MarketExchange(market, seed), market_app(market))


async def _replay_server(path: Path, speed: float) -> Server:
    recording = await trio.to_thread.run_sync(Recording, path, abandon_on_cancel=True)
    app = catalogue_app(recording.products, time.time_ns)
    return Server(ReplayExchange(recording, speed), app)


def _check(simulation: Simulation) -> None:
    if not 0 < simulation.rate <= RATE_MAX:
        expected = f"more than 0 and at most {RATE_MAX:g}"
        raise OperatorError(f"rate {simulation.rate:g}: expected {expected}", EXIT_USAGE)
    if not 0 <= simulation.speed < float("inf"):
        expected = "0 (as fast as clients read) or a factor above it"
        raise OperatorError(f"speed {simulation.speed:g}: expected {expected}", EXIT_USAGE)
    for pair in simulation.pairs:
        if not is_product_id(pair):
            raise OperatorError(f"pair {pair!r}: expected one like BTC-USD", EXIT_USAGE)
