"""The signature of a subscribe message, which the exchange requires for restricted channels.

``signature = base64(HMAC-SHA256(base64decode(secret), timestamp + "GET" + "/users/self/verify"))``;
the timestamp is seconds since the epoch, with the same text in the message and in the signed
text.

Source: docs/COINBASE.md §3.2 (Coinbase Exchange WebSocket authentication).
"""

import base64
import binascii
import hashlib
import hmac

from hedgehogd.domain.secret import Secrets

_SIGNED_REQUEST = "GET/users/self/verify"


class BadSecret(ValueError):
    """The API secret is not base64, or is empty; the error message does not quote it."""


class Credentials:
    """An API key with its secret and passphrase; its ``repr`` shows none of them.

    Attributes:
        secrets: all three values, to be hidden in texts from a peer.

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
        """Return a text without the values."""
        return "Credentials(…)"

    def sign(self, now_s: float) -> dict[str, str]:
        """Return the root keys of a signed subscribe: signature, key, passphrase and timestamp.

        Args:
            now_s: seconds since the epoch; the exchange accepts a difference of up to 30 s.
        """
        timestamp = f"{now_s:.3f}"
        return {
            "signature": signature(self._secret, timestamp),
            "key": self._key,
            "passphrase": self._passphrase,
            "timestamp": timestamp,
        }

    def verifies(self, fields: dict[str, object]) -> bool:
        """Return True if ``fields``, the root keys of a subscribe, are signed by these credentials.

        The age of the timestamp is not checked.
        """
        if fields.get("key") != self._key or fields.get("passphrase") != self._passphrase:
            return False
        timestamp, received = fields.get("timestamp"), fields.get("signature")
        if not isinstance(timestamp, str | int | float) or not isinstance(received, str):
            return False
        expected = signature(self._secret, str(timestamp))
        return hmac.compare_digest(expected.encode(), received.encode())


def signature(secret: bytes, timestamp: str) -> str:
    """Return the signature for ``timestamp``, in base64; ``secret`` is decoded from base64."""
    message = (timestamp + _SIGNED_REQUEST).encode()
    return base64.b64encode(hmac.digest(secret, message, hashlib.sha256)).decode()
