"""Reference books: of level2, and of ``full`` on top of the exchange's level 3."""

import json
import urllib.request
from decimal import Decimal

import trio

from tests.clients.harness import DRIVER_S
from tests.e2e.harness import subscribe, websocket


def contiguous(numbers: list[int]) -> bool:
    """Say whether each number is one more than its predecessor."""
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def fold_level2(messages: list[dict]) -> dict[str, dict[str, str]]:
    """Return the book after a snapshot and its updates, as clients keep it.

    Fails on a removal of an unknown level: it would break the books of trusting clients.
    """
    assert messages[0]["type"] == "snapshot"
    book: dict[str, dict[str, str]] = {}
    for message in messages:
        if message["type"] == "snapshot":
            book = {"buy": dict(message["bids"]), "sell": dict(message["asks"])}
            continue
        for side, price, size in message["changes"]:
            if Decimal(size):
                book[side][price] = size
            else:
                del book[side][price]
    return book


Orders = dict[str, tuple[str, Decimal, Decimal]]
"""Order id → side, price, size."""


class FullBook:
    """A level-3 reference book, from the exchange's REST and the daemon's ``full``.

    It keeps every message, so it can return the book at any sequence since its start.
    """

    def __init__(self, exchange_rest: str, product: str) -> None:
        self._path = f"{exchange_rest}/products/{product}/book?level=3"
        self._base = 0, Orders()
        self._messages: dict[int, dict] = {}

    async def load(self) -> tuple[int, Orders]:
        """Return the exchange's own book: its sequence and its orders."""
        answer = await get_json(self._path)
        return answer["sequence"], orders_of(answer)

    async def follow(self, port: int, product: str, task_status: trio.TaskStatus[None]) -> None:
        """Keep every message of ``full`` until cancelled; started when the book is loaded.

        It reads while it loads, which may take seconds: a slow consumer would be closed.
        """

        async def begin() -> None:
            self._base = await self.load()
            task_status.started()

        async with websocket(port, "/ws-feed") as feed, trio.open_nursery() as nursery:
            await feed.send_message(subscribe([product], ["full"]))
            while True:
                message = json.loads(await feed.get_message())
                assert message["type"] != "error", message
                if "sequence" not in message:
                    continue
                if not self._messages:
                    nursery.start_soon(begin)
                self._messages[message["sequence"]] = message

    async def at(self, sequence: int) -> Orders:
        """Return the book at ``sequence``; wait until that message arrives."""
        base, orders = self._base[0], dict(self._base[1])
        assert base <= sequence, "the client's book is older than ours"
        with trio.fail_after(DRIVER_S):
            while max(self._messages) < sequence:
                await trio.sleep(0.01)
        numbers = range(base + 1, sequence + 1)
        assert [] == [n for n in numbers if n not in self._messages], "`full` has gaps"
        for number in numbers:
            _apply(orders, self._messages[number])
        return orders


def orders_of(book: dict) -> Orders:
    """Return the orders of a level-3 book: Coinbase's, or one printed by a driver."""
    return {
        order_id: (side, Decimal(price), Decimal(size))
        for side, rows in (("buy", book["bids"]), ("sell", book["asks"]))
        for price, size, order_id in rows
    }


def _apply(orders: Orders, message: dict) -> None:
    """Apply one message of ``full``, by docs/COINBASE.md §6.7 to §6.11."""
    kind = message["type"]
    if kind == "open":
        size, price = Decimal(message["remaining_size"]), Decimal(message["price"])
        orders[message["order_id"]] = message["side"], price, size
    elif kind == "done":
        orders.pop(message["order_id"], None)
    elif kind == "match":
        side, price, size = orders[message["maker_order_id"]]
        left = size - Decimal(message["size"])
        assert (side, price) == (message["side"], Decimal(message["price"]))
        assert left >= 0
        orders[message["maker_order_id"]] = side, price, left
        if not left:
            del orders[message["maker_order_id"]]
    elif kind == "change" and message["order_id"] in orders and "new_size" in message:
        side, price, _ = orders[message["order_id"]]
        price = Decimal(message.get("new_price") or price)
        orders[message["order_id"]] = side, price, Decimal(message["new_size"])


async def get_json(url: str) -> dict:
    """Return the decoded JSON that a GET of ``url`` returns."""

    def get() -> dict:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=10) as answer:
            return json.load(answer)

    return await trio.to_thread.run_sync(get)
