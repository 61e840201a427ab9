"""Products (markets such as ``BTC-USD``) and the catalogue of those that exist.

The command line, REST paths and the configuration file say *pair*, because users do;
code and wire say product.
"""

import re

from hedgehogd.domain.limits import TOPICS_MAX

_PRODUCT_ID = re.compile(r"[A-Z0-9]{1,16}(?:-[A-Z0-9]{1,16}){1,3}")


def is_product_id(text: str) -> bool:
    """Say whether ``text`` has the shape of a product id, for example ``BTC-USD``.

    Only the shape: whether the exchange lists it is the catalogue's knowledge.
    """
    return _PRODUCT_ID.fullmatch(text) is not None


class Catalogue:
    """Which products may be subscribed to.

    Until the exchange's list is known every well-formed id may exist; then the feed's own
    refusals are remembered here, so that the next one who asks is told at once.

    Attributes:
        unreadable: entries of the exchange's newest list that could not be read.
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
        """True once the exchange's list has been loaded, or a fixed list was configured."""
        return self._only is not None or self._listed is not None

    @property
    def only(self) -> frozenset[str] | None:
        """The fixed list that was configured; None when there is none."""
        return self._only

    def restrict(self, only: frozenset[str] | None) -> None:
        """Serve these products alone from now on; None for all that the exchange lists."""
        self._only = only

    def known(self) -> frozenset[str] | None:
        """Return the products that may be subscribed to; None when nobody can say."""
        if self._listed is None or self._only is None:
            return self._listed if self._only is None else self._only
        return self._listed & self._only

    def is_in_auction(self, product_id: str) -> bool:
        """Say whether the exchange's newest list has a product in an auction."""
        return product_id in self._in_auction

    def replace(
        self,
        product_ids: frozenset[str],
        in_auction: frozenset[str] = frozenset(),
        unreadable: int = 0,
    ) -> None:
        """Take the exchange's list of products; from now on it alone decides."""
        self._listed = product_ids
        self._in_auction = in_auction
        self.unreadable = unreadable
        self._refused.clear()

    def refuse(self, product_id: str) -> None:
        """Remember that the exchange does not know ``product_id``; at most ``TOPICS_MAX``."""
        if self._listed is None and len(self._refused) < TOPICS_MAX:
            self._refused.add(product_id)

    def refuse_channel(self, channel: str, message: str, reason: str) -> None:
        """Remember in which words the exchange refused us a topic channel.

        It refuses all who come later too, until ``allow_channel``: what it asks for is a key.
        """
        self._refused_channels[channel] = (message, reason)

    def allow_channel(self, channel: str) -> None:
        """A topic channel may be asked for again."""
        self._refused_channels.pop(channel, None)

    def refusal_of(self, channel: str) -> tuple[str, str] | None:
        """Return message and reason of a topic channel's refusal, or None."""
        return self._refused_channels.get(channel)

    def accepts(self, product_id: str) -> bool:
        """Say whether ``product_id`` may be subscribed to, as far as is known now."""
        if self._only is not None and product_id not in self._only:
            return False
        if self._listed is not None and product_id not in self._listed:
            return False
        return is_product_id(product_id) and product_id not in self._refused
