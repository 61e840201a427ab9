"""Signing a subscribe message, as the exchange asks of those who want its restricted channels.

``signature = base64(HMAC-SHA256(base64decode(secret), timestamp + "GET" + "/users/self/verify"))``;
the timestamp is seconds since the epoch, the same text in the message and under the
signature.

Source: FEED §3.2 (Coinbase Exchange WebSocket authentication).
"""

import base64
import binascii
import hashlib
import hmac

from hedgehogd.domain.secret import Secrets

_WHAT_IS_SIGNED = "GET/users/self/verify"


class BadSecret(ValueError):
    """The API secret is not base64; the text does not repeat it."""


class Credentials:
    """An API key with its secret and passphrase; prints nothing of them.

    Attributes:
        secrets: all three, to be hidden in text that a peer wrote.

    Raises:
        BadSecret: ``secret`` is not base64, or empty.
    """

    __slots__ = ("_key", "_passphrase", "_secret", "secrets")

    def __init__(self, key: str, secret: str, passphrase: str) -> None:
        try:
            self._secret = base64.b64decode(secret, validate=True)
        except (binascii.Error, ValueError):
            raise BadSecret("the API secret is not base64") from None
        if not self._secret:
            raise BadSecret("the API secret is empty")
        self._key = key
        self._passphrase = passphrase
        self.secrets = Secrets((key, secret, passphrase))

    def __repr__(self) -> str:
        """Return a text without any of them."""
        return "Credentials(…)"

    def sign(self, now_s: float) -> dict[str, str]:
        """Return the four root keys that make a subscribe message an authenticated one.

        Args:
            now_s: seconds since the epoch; the exchange asks for one within 30 s of its own.
        """
        timestamp = f"{now_s:.3f}"
        return {
            "signature": signature(self._secret, timestamp),
            "key": self._key,
            "passphrase": self._passphrase,
            "timestamp": timestamp,
        }

    def verifies(self, fields: dict[str, object]) -> bool:
        """Say whether ``fields``, the root keys of a subscribe, were signed with these."""
        if fields.get("key") != self._key or fields.get("passphrase") != self._passphrase:
            return False
        timestamp, given = fields.get("timestamp"), fields.get("signature")
        if not isinstance(timestamp, str | int | float) or not isinstance(given, str):
            return False
        expected = signature(self._secret, str(timestamp))
        return hmac.compare_digest(expected.encode(), given.encode())


def signature(secret: bytes, timestamp: str) -> str:
    """Return the signature for ``timestamp``; ``secret`` is decoded already."""
    message = (timestamp + _WHAT_IS_SIGNED).encode()
    return base64.b64encode(hmac.digest(secret, message, hashlib.sha256)).decode()
