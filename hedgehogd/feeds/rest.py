"""The exchange's REST service: which products there are."""

from contextlib import aclosing

import httpx
import msgspec
import structlog
import trio

from hedgehogd import __version__
from hedgehogd.domain import limits
from hedgehogd.domain.product import Catalogue

log = structlog.get_logger("rest")

_ANSWER_BYTES_MAX = 16 * 1024 * 1024
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
    rest_url: str,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Read the list of products now and then, for ever.

    Started means: the first answer has come, or has been waited for long enough. Where
    there is no such service the feed's own answers decide which products exist.
    """
    async with httpx.AsyncClient(
        base_url=rest_url,
        headers={"User-Agent": f"hedgehogd/{__version__}"},
        timeout=limits.REST_TIMEOUT_S,
        trust_env=True,
    ) as client:
        with trio.move_on_after(_FIRST_ANSWER_S):
            known = await _refresh(client, catalogue)
        task_status.started()
        known = catalogue.is_known
        while True:
            await trio.sleep(limits.CATALOGUE_REFRESH_S if known else _RETRY_S)
            known = await _refresh(client, catalogue)


async def _refresh(client: httpx.AsyncClient, catalogue: Catalogue) -> bool:
    """Read the list once; say whether there was one. What was known stays when not."""
    try:
        body = bytearray()
        async with client.stream("GET", "/products") as response:
            response.raise_for_status()
            parts = response.aiter_bytes()
            async with aclosing(parts):  # type: ignore[type-var]  # it is a generator
                async for part in parts:
                    body += part
                    if len(body) > _ANSWER_BYTES_MAX:
                        raise httpx.DecodingError(f"over {_ANSWER_BYTES_MAX} bytes")
        products = read_products(bytes(body))
        if not products:  # an exchange in trouble, not one without a market
            raise msgspec.DecodeError("the list is empty")
    except (httpx.HTTPError, msgspec.DecodeError, OSError) as error:
        log.warning(
            "no list of products: the feed's own answers decide which there are",
            url=str(client.base_url),
            reason=_reason(error),
        )
        return False
    catalogue.replace(products)
    return True


def _reason(error: Exception) -> str:
    """Return in one line why there is no list."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    return str(error) or type(error).__name__
