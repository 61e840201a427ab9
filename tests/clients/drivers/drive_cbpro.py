"""Uses cbpro as its documentation shows; only the addresses are not Coinbase's.

    drive_cbpro.py stream URL CHANNELS PRODUCTS COUNT SECONDS
    drive_cbpro.py rest API-URL PRODUCT TRADES
    drive_cbpro.py book URL API-URL PRODUCT SECONDS

One JSON object a line on stdout; what is no JSON there, the library said.
"""

import itertools
import json
import sys
import time

import cbpro


def say(kind, **fields):
    sys.stdout.write(json.dumps({"kind": kind, **fields}, default=str) + "\n")
    sys.stdout.flush()


class StreamClient(cbpro.WebsocketClient):
    count = 0

    def on_message(self, message):
        self.count += 1
        say("message", message=message)


def stream(url, channels, products, count, seconds):
    """Listen until COUNT messages are here or SECONDS have passed."""
    client = StreamClient(
        url=url, products=products.split(","), channels=channels.split(","), should_print=False
    )
    client.start()
    end = time.monotonic() + float(seconds)
    while client.count < int(count) and time.monotonic() < end and not client.error:
        time.sleep(0.05)
    client.close()
    say("closed", error=client.error)


def rest(api_url, product, trades):
    """Ask everything that is public."""
    client = cbpro.PublicClient(api_url=api_url)

    def tell(call, answer):
        say("answer", call=call, answer=answer)

    tell("products", client.get_products())
    for level in (1, 2, 3):
        tell(f"book {level}", client.get_product_order_book(product, level=level))
    tell("ticker", client.get_product_ticker(product_id=product))
    tell("trades", list(itertools.islice(client.get_product_trades(product), int(trades))))
    tell("candles", client.get_product_historic_rates(product, granularity=60))
    tell("currencies", client.get_currencies())
    tell("time", client.get_time())
    tell("wrong product", client.get_product_ticker(product_id="XYZ-ABC"))


class Book(cbpro.OrderBook):
    """With channels: a subscribe without any, which is what it sends, is refused since 2019."""

    def __init__(self, url, api_url, product):
        super().__init__(product_id=product)
        self.url = url
        self.channels = ["full"]
        self._client = cbpro.PublicClient(api_url=api_url)

    def reset_book(self):
        super().reset_book()
        say("loaded", sequence=self._sequence)


def book(url, api_url, product, seconds):
    """Keep a book for SECONDS, from when it was loaded."""
    client = Book(url, api_url, product)
    client.start()
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end and client.thread.is_alive():
        time.sleep(0.05)
    client.close()
    state = client.get_current_book()
    say("book", sequence=state["sequence"], bids=state["bids"], asks=state["asks"])
    say("closed", error=client.error)


if __name__ == "__main__":
    {"stream": stream, "rest": rest, "book": book}[sys.argv[1]](*sys.argv[2:])
