"""Which products there are, read from the exchange's REST service now and then."""

from typing import Any, NamedTuple

import msgspec
import structlog
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.product import Catalogue, is_product_id
from hedgehogd.domain.rows import read_list
from hedgehogd.feeds.rest_cache import Answer
from hedgehogd.feeds.rest_client import RestClient

log = structlog.get_logger("rest")

PRODUCTS_PATH = "/products"
PRODUCTS_KEEP_S = 60.0
_FIRST_ANSWER_S = 3.0
_RETRY_S = 15.0


class _Product(msgspec.Struct):
    id: str
    status: Any = "online"
    auction_mode: Any = False


_decode_product = msgspec.json.Decoder(_Product).decode


class Products(NamedTuple):
    """What a list of products says.

    Attributes:
        ids: the products that are not delisted.
        in_auction: those of them that are in an auction.
        unreadable: entries that could not be read; each costs itself.
    """

    ids: frozenset[str]
    in_auction: frozenset[str]
    unreadable: int


def read_products(body: bytes) -> Products:
    """Read the answer of ``GET /products``.

    Raises:
        msgspec.DecodeError: the body is no list.
    """
    products, unreadable = read_list(body, _decode_product)
    listed = [product for product in products if is_product_id(product.id)]
    offered = [product for product in listed if product.status != "delisted"]
    return Products(
        frozenset(product.id for product in offered),
        frozenset(product.id for product in offered if product.auction_mode is True),
        unreadable + len(products) - len(listed),
    )


async def keep_catalogue(
    catalogue: Catalogue,
    rest: RestClient,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Read the list of products now and then, for ever; ``rest`` is running.

    Started means: the first answer has come, or has been waited for long enough. Where
    there is no such service the feed's own answers decide which products exist.
    """
    with trio.move_on_after(_FIRST_ANSWER_S):
        await _refresh(rest, catalogue)
    task_status.started()
    known = catalogue.is_known
    while True:
        await trio.sleep(limits.CATALOGUE_REFRESH_S if known else _RETRY_S)
        known = await _refresh(rest, catalogue)


def keep_products(answer: Answer) -> float:  # noqa: ARG001
    """Return how long a list of products may be kept."""
    return PRODUCTS_KEEP_S


async def _refresh(rest: RestClient, catalogue: Catalogue) -> bool:
    """Read the list once; say whether there was one. What was known stays when not."""
    answer = await rest.get(PRODUCTS_PATH, keeping=keep_products)
    reason = "" if answer.status == 200 else answer.message
    if not reason:
        try:
            products = read_products(answer.body)
            if products.ids:
                if products.unreadable != catalogue.unreadable:
                    log.warning(
                        "entries of the list of products cannot be read",
                        url=rest.url,
                        entries=products.unreadable,
                        of=products.unreadable + len(products.ids),
                    )
                catalogue.replace(products.ids, products.in_auction, products.unreadable)
                return True
            reason = "the list is empty"  # an exchange in trouble, not one without a market
        except msgspec.DecodeError as error:
            reason = str(error)
    log.warning(
        "no list of products: the feed's own answers decide which there are",
        url=rest.url,
        reason=reason,
    )
    return False
