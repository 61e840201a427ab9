"""A simple level-3 book as a reference for tests."""

from decimal import Decimal


class Reference:
    """A plain list of orders, oldest first: [side, price, size, order_id]."""

    def __init__(self, bids=(), asks=()):
        self.orders = []
        for side, rows in (("buy", bids), ("sell", asks)):
            for price, size, order_id in rows:
                if Decimal(size):
                    self.open(side, price, size, order_id)

    def find(self, order_id):
        return next((order for order in self.orders if order[3] == order_id), None)

    def open(self, side, price, size, order_id):
        self.orders = [order for order in self.orders if order[3] != order_id]
        if Decimal(size):
            self.orders.append([side, price, size, order_id])

    def apply(self, event):
        if event.kind == "open":
            self.open(event.side, event.price, event.size, event.order_id)
            return
        order = self.find(event.order_id)
        if order is None or event.kind == "noop":
            return
        if event.kind == "match":
            order[2] = str(Decimal(order[2]) - Decimal(event.size))
        elif event.kind == "change":
            order[2] = event.size
            if event.price and Decimal(event.price) != Decimal(order[1]):
                order[1] = event.price
                self.orders.remove(order)
                self.orders.append(order)
        if event.kind == "done" or Decimal(order[2]) <= 0:
            self.orders.remove(order)

    def rows(self):
        return [
            [
                tuple(order[1:])
                for order in sorted(self.orders, key=lambda order: sign * Decimal(order[1]))
                if order[0] == side
            ]
            for side, sign in (("buy", -1), ("sell", 1))
        ]

    def levels(self):
        result = []
        for rows in self.rows():
            levels = {}
            for price, size, _ in rows:
                levels.setdefault(Decimal(price), []).append(Decimal(size))
            result.append([(price, sum(sizes), len(sizes)) for price, sizes in levels.items()])
        return result
