"""Products (markets such as ``BTC-USD``), and the catalogue of those that are accepted.

The command line, REST paths and the configuration file say *pair*, because users do;
code and wire say product.
"""

import re

from hedgehogd.domain.limits import TOPICS_MAX

_PRODUCT_ID = re.compile(r"[A-Z0-9]{1,16}(?:-[A-Z0-9]{1,16}){1,3}")


def is_product_id(text: str) -> bool:
    """Return True if ``text`` has the form of a product id, for example ``BTC-USD``.

    Only the form is checked; ``Catalogue.accepts`` checks the lists of products too.
    """
    return _PRODUCT_ID.fullmatch(text) is not None


class Catalogue:
    """The products, and the channels, that subscribers may subscribe to.

    A product must be on the configured fixed list and on the exchange's list, as far as they
    exist. Without any list every well-formed id is accepted. Until the exchange's list is loaded,
    the catalogue remembers the products that the exchange refused, so that the next subscribe to
    one of them is refused at once.

    Args:
        only: the configured fixed list; None without one.

    Attributes:
        unreadable: number of unreadable entries in the exchange's newest list.
    """

    def __init__(self, only: frozenset[str] | None = None) -> None:
        self.unreadable = 0
        self._only = only
        self._listed: frozenset[str] | None = None
        self._in_auction: frozenset[str] = frozenset()
        self._refused: set[str] = set()
        self._refused_channels: dict[str, tuple[str, str]] = {}

    @property
    def is_known(self) -> bool:
        """True if the exchange's list is loaded or a fixed list is configured."""
        return self._only is not None or self._listed is not None

    @property
    def only(self) -> frozenset[str] | None:
        """The configured fixed list; None without one."""
        return self._only

    def restrict(self, only: frozenset[str] | None) -> None:
        """Set the fixed list from now on; None for all products of the exchange."""
        self._only = only

    def known(self) -> frozenset[str] | None:
        """Return the products of the fixed list, of the exchange's list, or common to both.

        None without either list: then every well-formed id is accepted.
        """
        if self._listed is None or self._only is None:
            return self._listed if self._only is None else self._only
        return self._listed & self._only

    def is_in_auction(self, product_id: str) -> bool:
        """Return True if the exchange's newest list marks a product as in an auction.

        False for a product that is not on the list, and before the first list.
        """
        return product_id in self._in_auction

    def replace(
        self,
        product_ids: frozenset[str],
        in_auction: frozenset[str] = frozenset(),
        unreadable: int = 0,
    ) -> None:
        """Set the exchange's list of products, and remove the refusals of products.

        Args:
            product_ids: the products that the exchange lists.
            in_auction: those of them that are in an auction.
            unreadable: number of unreadable entries in the list.
        """
        self._listed = product_ids
        self._in_auction = in_auction
        self.unreadable = unreadable
        self._refused.clear()

    def refuse(self, product_id: str) -> None:
        """Remember a product that the exchange refused; at most ``TOPICS_MAX`` are kept.

        Nothing happens once the exchange's list is loaded.
        """
        if self._listed is None and len(self._refused) < TOPICS_MAX:
            self._refused.add(product_id)

    def refuse_channel(self, channel: str, message: str, reason: str) -> None:
        """Remember the exchange's refusal of a topic channel: its message and reason.

        The exchange refuses a channel that needs a key, or that it does not know. Later
        subscribers are refused with the same texts until ``allow_channel``.
        """
        self._refused_channels[channel] = (message, reason)

    def allow_channel(self, channel: str) -> None:
        """Remove the refusal of a topic channel, so that it may be requested again."""
        self._refused_channels.pop(channel, None)

    def refusal_of(self, channel: str) -> tuple[str, str] | None:
        """Return the message and the reason of a topic channel's refusal; None without one."""
        return self._refused_channels.get(channel)

    def accepts(self, product_id: str) -> bool:
        """Return True if ``product_id`` is well-formed, on each list, and not refused."""
        if self._only is not None and product_id not in self._only:
            return False
        if self._listed is not None and product_id not in self._listed:
            return False
        return is_product_id(product_id) and product_id not in self._refused
