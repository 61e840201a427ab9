"""Authentication for the restricted channels of the simulated exchange.

The exchange sends ``level2``, ``level3`` and ``full`` only to clients that sign their subscribe
(docs/COINBASE.md §3.2, §5). Here all clients get them, unless ``Simulation.require_auth`` is set.
The only valid key is published in this module, because it protects nothing.
"""

from typing import Any

import msgspec

from hedgehogd.protocol.signing import Credentials

TEST_KEY = "hedgehogd-simulator"
TEST_SECRET = "aGVkZ2Vob2dkIHNpbXVsYXRvciwgbm90IGEgc2VjcmV0"  # noqa: S105  # decoded, it says that it is no secret
TEST_PASSPHRASE = "not-a-secret"  # noqa: S105

AUTHENTICATION_REQUIRED = (
    "level2, level3, and full channels now require authentication. "
    "https://docs.cloud.coinbase.com/exchange/docs/websocket-auth"
)
UNKNOWN_KEY = ("Authentication Failed", '{"message":"Invalid API Key"}')
BAD_SIGNATURE = ("Sorry, you could not be authenticated: Bad Request", "invalid signature")

_SIGNED_WITH = ("signature", "key", "passphrase", "timestamp")


class WrongSignature(Exception):
    """A subscribe has an invalid signature.

    Attributes:
        message: the exchange's error message.
        reason: its reason (docs/COINBASE.md §6.16).
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(f"{message}: {reason}")
        self.message = message
        self.reason = reason


class Keyring:
    """The one set of credentials that the simulated exchange accepts."""

    def __init__(
        self, key: str = TEST_KEY, secret: str = TEST_SECRET, passphrase: str = TEST_PASSPHRASE
    ) -> None:
        self._key = key
        self._credentials = Credentials(key, secret, passphrase)

    def is_signed(self, text: str | bytes) -> bool:
        """Return whether a subscribe, a well-formed JSON object, has a valid signature.

        False for an unsigned one. Empty keys, and a lone ``timestamp``, count as unsigned: some
        clients send them (docs/COINBASE.md §3.1).

        Raises:
            WrongSignature: it was signed with an unknown key, or the signature is invalid.
        """
        fields: dict[str, Any] = msgspec.json.decode(text)
        if not any(fields.get(name) for name in _SIGNED_WITH[:3]):
            return False
        if fields.get("key") != self._key:
            raise WrongSignature(*UNKNOWN_KEY)
        if not self._credentials.verifies(fields):
            raise WrongSignature(*BAD_SIGNATURE)
        return True
