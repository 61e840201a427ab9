"""``hedgehogd simulate``: serve a simulated exchange until a signal."""

import math
from collections.abc import Sequence
from pathlib import Path

from hedgehogd.commands.arguments import Parser, checked, new_parser, split_names
from hedgehogd.settings.readers import PORT_MAX, number, whole_number


def simulate_parser() -> Parser:
    """Return the parser of ``simulate``."""
    parser = new_parser(
        "simulate", "Serve a simulated exchange with Coinbase's protocol, REST included."
    )
    add = parser.add_argument
    add(
        "--port",
        type=checked(whole_number(0, PORT_MAX)),
        default=9000,
        metavar="PORT",
        help="TCP port; default 9000",
    )
    add("--bind", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1")
    add(
        "--seed",
        type=checked(whole_number(0, 2**63)),
        metavar="N",
        help="the same seed makes the same market; default a random one, which is logged",
    )
    add("--pairs", default="", metavar="A,B", help="products besides the built-in ones")
    add(
        "--rate",
        type=checked(number(0, math.inf)),
        default=1.0,
        metavar="X",
        help="how busy the market is; default 1, about the real rate",
    )
    add("--recording", type=Path, metavar="PATH", help="recording to replay instead of a market")
    add("--speed", type=checked(number(0, math.inf)), default=1.0, metavar="X",
        help="speed of the replay; default 1; 0 is as fast as clients read")  # fmt: skip
    add(
        "--no-modify-orders",
        action="store_true",
        help="never send `modify_order`, which OrderbookSync and cbpro.OrderBook do not support",
    )
    add("--require-auth", action="store_true",
        help="send level2, level3 and full only to clients that sign with the test key, which "
        "is logged at the start")  # fmt: skip
    add("--fault", action="append", default=[], metavar="NAME[:PARAM]",
        help="inject this fault repeatedly; the flag may be repeated; `--fault help` lists the "
        "faults")  # fmt: skip
    return parser


def run(argv: Sequence[str]) -> int:
    """Run the simulator until a signal; with ``--fault help`` print the faults and return 0.

    SIGINT raises KeyboardInterrupt.

    Raises:
        OperatorError: a flag is wrong, or the port is in use; in an exception group.
    """
    arguments = simulate_parser().parse_args(argv)

    import structlog
    import trio

    from hedgehogd.logs.setup import configure_logs
    from hedgehogd.simulator import Simulation, serve_exchange
    from hedgehogd.simulator.faults import fault_list
    from hedgehogd.simulator.keys import TEST_KEY, TEST_PASSPHRASE, TEST_SECRET

    if "help" in arguments.fault:
        print("hedgehogd simulate --fault NAME[:PARAM]\n")
        print(fault_list(), end="")
        print("\nThe same by REST: GET /faults, POST /faults/NAME?param=&product=&client=")
        return 0
    configure_logs("info", "auto")
    simulation = Simulation(
        host=arguments.bind,
        port=arguments.port,
        seed=arguments.seed,
        pairs=split_names(arguments.pairs.upper()),
        rate=arguments.rate,
        recording=arguments.recording,
        speed=arguments.speed,
        modifies=not arguments.no_modify_orders,
        require_auth=arguments.require_auth,
        faults=tuple(arguments.fault),
        control=True,
    )

    async def simulate() -> None:
        async with trio.open_nursery() as nursery:
            address = await nursery.start(serve_exchange, simulation)
            # The key gives access to nothing else; a client needs all three parts to sign.
            keys = {"key": TEST_KEY, "secret": TEST_SECRET, "passphrase": TEST_PASSPHRASE}
            structlog.get_logger("cli").info(
                "simulating", url=address.url, rest=address.rest_url, seed=address.seed,
                **(keys if simulation.require_auth else {}),
            )  # fmt: skip

    trio.run(simulate)
    return 0
