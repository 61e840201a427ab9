"""Use cbpro as its documentation shows; only the addresses are not Coinbase's.

    drive_cbpro.py stream URL CHANNELS PRODUCTS COUNT SECONDS
    drive_cbpro.py rest API-URL PRODUCT TRADES
    drive_cbpro.py book URL API-URL PRODUCT SECONDS

One JSON object per line on stdout; other lines are the library's output.
"""

import itertools
import json
import sys
import time

import cbpro


def write(kind, **fields):
    sys.stdout.write(json.dumps({"kind": kind, **fields}, default=str) + "\n")
    sys.stdout.flush()


class StreamClient(cbpro.WebsocketClient):
    count = 0

    def on_message(self, message):
        self.count += 1
        write("message", message=message)


def stream(url, channels, products, count, seconds):
    """Read until COUNT messages have arrived or SECONDS have passed."""
    client = StreamClient(
        url=url, products=products.split(","), channels=channels.split(","), should_print=False
    )
    client.start()
    end = time.monotonic() + float(seconds)
    while client.count < int(count) and time.monotonic() < end and not client.error:
        time.sleep(0.05)
    client.close()
    write("closed", error=client.error)


def rest(api_url, product, trades):
    """Call every public method."""
    client = cbpro.PublicClient(api_url=api_url)

    def report(call, answer):
        write("answer", call=call, answer=answer)

    report("products", client.get_products())
    for level in (1, 2, 3):
        report(f"book {level}", client.get_product_order_book(product, level=level))
    report("ticker", client.get_product_ticker(product_id=product))
    report("trades", list(itertools.islice(client.get_product_trades(product), int(trades))))
    report("candles", client.get_product_historic_rates(product, granularity=60))
    report("currencies", client.get_currencies())
    report("time", client.get_time())
    report("wrong product", client.get_product_ticker(product_id="XYZ-ABC"))


class Book(cbpro.OrderBook):
    """A book with channels: its own subscribe has none, which is refused since 2019."""

    def __init__(self, url, api_url, product):
        super().__init__(product_id=product)
        self.url = url
        self.channels = ["full"]
        self._client = cbpro.PublicClient(api_url=api_url)

    def reset_book(self):
        super().reset_book()
        write("loaded", sequence=self._sequence)


def book(url, api_url, product, seconds):
    """Keep a book for SECONDS after it is loaded."""
    client = Book(url, api_url, product)
    client.start()
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end and client.thread.is_alive():
        time.sleep(0.05)
    client.close()
    state = client.get_current_book()
    write("book", sequence=state["sequence"], bids=state["bids"], asks=state["asks"])
    write("closed", error=client.error)


if __name__ == "__main__":
    {"stream": stream, "rest": rest, "book": book}[sys.argv[1]](*sys.argv[2:])
