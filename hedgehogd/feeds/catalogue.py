"""Which products there are, read from the exchange's REST service now and then."""

import msgspec
import structlog
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.product import Catalogue
from hedgehogd.feeds.answers import Answer
from hedgehogd.feeds.rest import RestClient

log = structlog.get_logger("rest")

PRODUCTS_PATH = "/products"
PRODUCTS_KEEP_S = 60.0
_FIRST_ANSWER_S = 3.0
_RETRY_S = 15.0


class _Product(msgspec.Struct):
    id: str
    status: str = "online"


def read_products(body: bytes) -> frozenset[str]:
    """Return the ids of the products that are not delisted, from ``GET /products``.

    Raises:
        msgspec.DecodeError: the body is not such a list.
    """
    try:
        products = msgspec.json.decode(body, type=list[_Product])
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None
    return frozenset(product.id for product in products if product.status != "delisted")


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
            if products:
                catalogue.replace(products)
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
