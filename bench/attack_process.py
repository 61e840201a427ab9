"""A process of the ``attack`` benchmark: a crowd of attackers, or the honest clients.

    attack_process.py crowd PORT SEED ATTACK SOCKETS
    attack_process.py honest PORT SEED COUNT PER_S

The crowd prints "ready" once its sockets are open, continues until a line arrives on standard
input, and prints its toll as JSON. The honest clients print "ready", start on a line, and print
their figures. Where the system permits it, they run before all other processes on the core that
they share with the crowd (SCHED_FIFO): in the field the crowd is on another machine.
"""

import contextlib
import json
import os
import sys
from dataclasses import asdict
from random import Random

import trio
from attacks import ATTACKS, Service, Toll, crowd, serve_honest

ALL_OPENED_S = 3.0


async def attack(port: int, random: Random, name: str, sockets: int) -> None:
    """Attack until a line arrives on standard input."""
    toll = Toll()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd, ATTACKS[name], port, sockets, toll, random)
        await trio.sleep(ALL_OPENED_S)
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        nursery.cancel_scope.cancel()
    print("toll", json.dumps(asdict(toll)), flush=True)


async def run_honest(port: int, random: Random, count: int, per_s: float) -> None:
    """Run the honest clients and print their figures."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    service = Service()
    print("ready", flush=True)
    await trio.to_thread.run_sync(sys.stdin.readline)
    await serve_honest(port, count, per_s, service, random)
    figures = {
        "success": service.success,
        "p50_ms": service.quantile_ms(0.5),
        "p99_ms": service.quantile_ms(0.99),
        "slowest_ms": {visit: s * 1000 for visit, s in service.slowest_s.items()},
        "failures": dict(service.failures),
    }
    print("served", json.dumps(figures), flush=True)


if __name__ == "__main__":
    role, port, seed, *rest = sys.argv[1:]
    if role == "crowd":
        trio.run(attack, int(port), Random(int(seed)), rest[0], int(rest[1]))
    else:
        trio.run(run_honest, int(port), Random(int(seed)), int(rest[0]), float(rest[1]))
