"""Authentication for the restricted channels (docs/COINBASE.md §3.2, §5)."""

import base64
import json

import pytest

from hedgehogd.protocol.signing import Credentials
from hedgehogd.simulator.keys import (
    TEST_KEY,
    TEST_PASSPHRASE,
    TEST_SECRET,
    Keyring,
    WrongSignature,
)

SIGNED = Credentials(TEST_KEY, TEST_SECRET, TEST_PASSPHRASE).sign(1.7e9)


def subscribe(fields):
    return json.dumps({"type": "subscribe", "channels": ["full"]} | fields)


def test_the_published_key_is_accepted():
    """It is in the source so that all users can use it."""
    assert Keyring().is_signed(subscribe(SIGNED))
    assert "not a secret" in base64.b64decode(TEST_SECRET).decode()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"timestamp": 1.5},
        {"signature": "", "key": "", "passphrase": "", "timestamp": ""},
        {"signature": None, "key": None},
    ],
)
def test_empty_keys_count_as_unsigned(fields):
    """Real clients send them for channels without authentication (docs/COINBASE.md §3.1)."""
    assert not Keyring().is_signed(subscribe(fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"key": "x"}, "Authentication Failed"),
        ({"key": None, "signature": "x"}, "Authentication Failed"),
        ({"passphrase": "x"}, "Sorry, you could not be authenticated: Bad Request"),
        ({"signature": "x"}, "Sorry, you could not be authenticated: Bad Request"),
        ({"timestamp": "1700000001"}, "Sorry, you could not be authenticated: Bad Request"),
        ({"timestamp": None}, "Sorry, you could not be authenticated: Bad Request"),
    ],
)
def test_a_wrong_signature_and_an_unknown_key_are_different_errors(fields, message):
    """The exchange distinguishes them (docs/COINBASE.md §6.16)."""
    with pytest.raises(WrongSignature) as caught:
        Keyring().is_signed(subscribe(SIGNED | fields))

    assert caught.value.message == message
