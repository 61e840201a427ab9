"""The exchange's API key: read from files, never from flags or the environment.

One directory has three files: ``coinbase-key``, ``coinbase-secret``, ``coinbase-passphrase``.
systemd puts its credentials into such a directory and names it in ``CREDENTIALS_DIRECTORY``.
Their content never appears in a log line, an error or the output of ``hedgehogd config``.
"""

import stat
from collections.abc import Mapping
from pathlib import Path

from hedgehogd.domain.errors import OperatorError
from hedgehogd.domain.feed_address import FeedAddress
from hedgehogd.protocol.signing import BadSecret, Credentials

NAMES = ("coinbase-key", "coinbase-secret", "coinbase-passphrase")
_SYSTEMD = "CREDENTIALS_DIRECTORY"
_BYTES_MAX = 4096
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


def read_credentials(directory: str, environment: Mapping[str, str]) -> Credentials | None:
    """Return the credentials in ``directory``, by default in systemd's directory.

    None only if ``directory`` is empty, and there is no directory of systemd, or none of the
    files in it.

    Raises:
        OperatorError: a file is missing, unreadable, empty, not text, or readable or writable by
            all users; or the secret is not base64.
    """
    where = directory or environment.get(_SYSTEMD, "")
    if not where or (not directory and not _are_there(Path(where))):
        return None
    key, secret, passphrase = (_read(Path(where) / name) for name in NAMES)
    try:
        return Credentials(key, secret, passphrase)
    except BadSecret as error:
        raise OperatorError(f"{Path(where) / NAMES[1]}: {error}") from None


def check_secrecy(address: FeedAddress) -> None:
    """Refuse to send credentials over a network without encryption.

    Raises:
        OperatorError: the feed is on another machine, and its URL is not ``wss://``.
    """
    if not address.is_tls and address.host not in _THIS_MACHINE:
        raise OperatorError(
            f"{address.url}: credentials would be sent unencrypted.\n  Expected wss://…"
        )


def _are_there(directory: Path) -> bool:
    try:
        return any((directory / name).exists() for name in NAMES)
    except OSError:  # this user may not read the directory
        return False


def _read(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            raise OperatorError(
                f"{path}: all users may read or write it.\n  Expected mode 0600 or 0400."
            )
        with path.open("rb") as file:
            text = file.read(_BYTES_MAX).decode().strip()
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise OperatorError(f"{path}: it is not text") from None
    if not text:
        raise OperatorError(f"{path}: it is empty")
    return text
