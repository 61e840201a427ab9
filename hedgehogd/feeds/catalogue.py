"""The list of products, read from the exchange's REST service at intervals."""

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
    """The content of a list of products.

    Attributes:
        ids: the products that are not delisted.
        in_auction: the products among ``ids`` that are in an auction.
        unreadable: number of entries left out: unreadable, or with an invalid product id.
    """

    ids: frozenset[str]
    in_auction: frozenset[str]
    unreadable: int


def read_products(body: bytes) -> Products:
    """Read the answer of ``GET /products``.

    Raises:
        msgspec.DecodeError: the body is not a list.
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
    """Update ``catalogue`` from the exchange's list of products, at intervals, for ever.

    ``rest`` is running. A failed read leaves the catalogue unchanged and is repeated after
    ``_RETRY_S``. Started means: the first answer has arrived, or the wait of ``_FIRST_ANSWER_S``
    for it has ended. Without a REST service the feed's own acknowledgements and errors show which
    products exist.
    """
    with trio.move_on_after(_FIRST_ANSWER_S):
        await _refresh(rest, catalogue)
    task_status.started()
    known = catalogue.is_known
    while True:
        await trio.sleep(limits.CATALOGUE_REFRESH_S if known else _RETRY_S)
        known = await _refresh(rest, catalogue)


def keep_products(answer: Answer) -> float:  # noqa: ARG001
    """Return ``PRODUCTS_KEEP_S``: a list of products may be cached so long, even an empty one."""
    return PRODUCTS_KEEP_S


async def _refresh(rest: RestClient, catalogue: Catalogue) -> bool:
    """Read the list once, and put it into ``catalogue``.

    Returns:
        False for an error, a body that is no list, or a list without a usable product:
        ``catalogue`` is then unchanged. Single unreadable entries are only left out.
    """
    answer = await rest.get(PRODUCTS_PATH, keeping=keep_products)
    reason = "" if answer.status == 200 else answer.message
    if not reason:
        try:
            products = read_products(answer.body)
            if products.ids:
                if products.unreadable != catalogue.unreadable:
                    log.warning(
                        "unreadable entries in the list of products",
                        url=rest.url,
                        entries=products.unreadable,
                        of=products.unreadable + len(products.ids),
                    )
                catalogue.replace(products.ids, products.in_auction, products.unreadable)
                return True
            reason = "the list is empty"  # a fault of the exchange: it has products
        except msgspec.DecodeError as error:
            reason = str(error)
    log.warning(
        "no list of products: the feed's answers show which products exist",
        url=rest.url,
        reason=reason,
    )
    return False
