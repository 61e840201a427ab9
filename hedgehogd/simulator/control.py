"""``/faults``: arming faults of the simulated exchange from outside the process.

``GET /faults`` lists them; ``POST /faults/<name>?param=&product=&client=`` arms one.
``POST /auctions/<product>?seconds=`` is no fault, but as rare: it starts messages on
``auctionfeed``. Only a simulation with ``Simulation.control`` offers these routes.
"""

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from hedgehogd.simulator.faults import KINDS, FaultError, Faults
from hedgehogd.simulator.market import Market

_AUCTION_S_MAX = 3600.0


def add_control(app: QuartTrio, faults: Faults, market: Market) -> None:
    """Add the routes of ``faults`` and of auctions of ``market`` to ``app``."""

    @app.post("/auctions/<product_id>")
    async def hold_auction(product_id: str) -> Response:
        if product_id not in market.products:
            return _json({"message": "NotFound"}, 404)
        text = request.args.get("seconds", "60")
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= _AUCTION_S_MAX:
            expected = f"a number above 0, at most {_AUCTION_S_MAX:g}"
            return _json({"message": f"seconds: found {text!r}, expected {expected}"}, 400)
        market.hold_auction(product_id, seconds)
        return _json({"product_id": product_id, "seconds": seconds})

    @app.get("/faults")
    async def all_faults() -> Response:
        return _json(
            {
                "connections": sorted(faults.clients),
                "faults": [_fault_object(faults, name) for name in KINDS],
            }
        )

    @app.post("/faults/<name>")
    async def fire(name: str) -> Response:
        if name not in KINDS:
            return _json({"message": _one_line(_unknown(faults, name))}, 404)
        client = request.args.get("client", "")
        if client and not (client.isascii() and client.isdigit()):
            return _json({"message": f"client: found {client!r}, expected a number"}, 400)
        try:
            faults.fire(
                name,
                request.args.get("param"),
                request.args.get("product") or None,
                int(client) if client else None,
            )
        except FaultError as error:
            return _json({"message": _one_line(str(error))}, 400)
        return _json(_fault_object(faults, name))


def _fault_object(faults: Faults, name: str) -> dict[str, object]:
    kind = KINDS[name]
    return {
        "name": name,
        "says": kind.says,
        "param": kind.param.name or None,
        "default": kind.param.default or None,
        "armed": faults.armed(name),
        "fired": faults.fired[name],
    }


def _unknown(faults: Faults, name: str) -> str:
    try:
        faults.fire(name)
    except FaultError as error:
        return str(error)
    raise AssertionError(f"{name} is a fault")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, mimetype="application/json")
