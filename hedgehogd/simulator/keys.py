"""Who may have the restricted channels of the simulated exchange.

The exchange gives ``level2``, ``level3`` and ``full`` only to those who sign their
subscribe (FEED §3.2, §5). Here everybody may have them, unless the simulation is told to
ask. The one key it knows is published right here, because it opens nothing.
"""

from typing import Any

import msgspec

from hedgehogd.protocol.signing import Credentials

TEST_KEY = "hedgehogd-simulator"
TEST_SECRET = "aGVkZ2Vob2dkIHNpbXVsYXRvciwgbm90IGEgc2VjcmV0"  # noqa: S105  # it says so itself
TEST_PASSPHRASE = "not-a-secret"  # noqa: S105

AUTHENTICATION_REQUIRED = (
    "level2, level3, and full channels now require authentication. "
    "https://docs.cloud.coinbase.com/exchange/docs/websocket-auth"
)
UNKNOWN_KEY = ("Authentication Failed", '{"message":"Invalid API Key"}')
BAD_SIGNATURE = ("Sorry, you could not be authenticated: Bad Request", "invalid signature")

_SIGNED_WITH = ("signature", "key", "passphrase", "timestamp")


class WrongSignature(Exception):
    """A subscribe was signed, but not rightly.

    Attributes:
        message: what the exchange answers.
        reason: and its reason (FEED §6.16).
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(f"{message}: {reason}")
        self.message = message
        self.reason = reason


class Keyring:
    """The credentials that the exchange knows: one."""

    def __init__(
        self, key: str = TEST_KEY, secret: str = TEST_SECRET, passphrase: str = TEST_PASSPHRASE
    ) -> None:
        self._key = key
        self._credentials = Credentials(key, secret, passphrase)

    def is_signed(self, text: str | bytes) -> bool:
        """Say whether a subscribe, well-formed JSON, was signed.

        Empty keys, and a lone ``timestamp``, are as good as none: clients send such (FEED §3.1).

        Raises:
            WrongSignature: it was, but not with a key known here, or not rightly.
        """
        fields: dict[str, Any] = msgspec.json.decode(text)
        if not any(fields.get(name) for name in _SIGNED_WITH[:3]):
            return False
        if fields.get("key") != self._key:
            raise WrongSignature(*UNKNOWN_KEY)
        if not self._credentials.verifies(fields):
            raise WrongSignature(*BAD_SIGNATURE)
        return True
