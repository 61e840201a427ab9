"""Signing: signatures are as documented, and no text contains a secret."""

import base64
import hashlib
import hmac
import pickle
import traceback

import pytest

from hedgehogd.protocol.signing import BadSecret, Credentials

SECRET = base64.b64encode(bytes(range(64))).decode()
CREDENTIALS = Credentials("the-key", SECRET, "the-passphrase")


def documented(timestamp, secret=SECRET):
    """Sign as the sample code of the documentation does (COINBASE §3.2)."""
    message = timestamp + "GET" + "/users/self/verify"
    mac = hmac.new(base64.b64decode(secret), message.encode("ascii"), hashlib.sha256)
    return base64.b64encode(mac.digest()).decode("utf-8")


def fields(timestamp="1700000000.123", **changes):
    signed = documented(str(timestamp))
    return {
        "signature": signed,
        "key": "the-key",
        "passphrase": "the-passphrase",
        "timestamp": timestamp,
    } | changes


def test_a_subscribe_is_signed_as_documented():
    """The message and the signed text contain the same text of the timestamp."""
    assert fields() == CREDENTIALS.sign(1_700_000_000.1234)
    assert "1700000000.000" == CREDENTIALS.sign(1_700_000_000)["timestamp"]


@pytest.mark.parametrize(
    "timestamp", ["1700000000.123", "1700000000", 1_700_000_000, 1795384488.5607824]
)
def test_every_form_of_timestamp_in_use_is_verified(timestamp):
    """Real clients send a text, an integer or a float (COINBASE §3.2)."""
    assert CREDENTIALS.verifies(fields(timestamp))


@pytest.mark.parametrize(
    "change",
    [
        {"signature": ""},
        {"signature": None},
        {"signature": "é"},
        {"signature": documented("1700000000.124")},
        {"timestamp": "1700000000.124"},
        {"timestamp": None},
        {"timestamp": ["1700000000.123"]},
        {"timestamp": True},
        {"key": ""},
        {"key": 7},
        {"key": "The-key"},
        {"passphrase": ""},
        {"passphrase": None},
    ],
)
def test_a_changed_message_is_not_verified(change):
    """A simulator that accepts any signature would hide our bugs."""
    assert not CREDENTIALS.verifies(fields() | change)
    assert not CREDENTIALS.verifies({k: v for k, v in fields().items() if k not in change})


def test_our_own_signature_is_verified():
    """The feed and the simulated exchange use the same algorithm."""
    assert CREDENTIALS.verifies({"type": "subscribe", **CREDENTIALS.sign(1_700_000_000.5)})
    assert not Credentials("the-key", SECRET[:-4] + "AAAA", "the-passphrase").verifies(
        CREDENTIALS.sign(0)
    )


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r}".format])
def test_credentials_are_not_printed(show):
    """Logs and tracebacks have further readers."""
    text = show(CREDENTIALS)

    assert "Credentials(…)" == text
    with pytest.raises(AttributeError):
        vars_of = CREDENTIALS.__dict__
        assert not vars_of


@pytest.mark.parametrize(
    "secret", ["", "===", "not base64!", "c2VjcmV0c2VjcmV0c2VjcmV0c2Vj\n", "secrétsecret", "YWJ"]
)
def test_an_invalid_secret_is_not_quoted(secret):
    """The error is logged, and a mistyped secret is most of the real one."""
    with pytest.raises(BadSecret, match="API secret") as caught:
        Credentials("the-key", secret, "the-passphrase")
    text = "".join(traceback.format_exception(caught.value, chain=True))
    shown = str(caught.value) + repr(caught.value)

    assert not secret.strip() or secret not in shown
    assert "binascii" not in text
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert pickle.dumps(shown)


def test_all_three_values_are_hidden_in_a_peers_text():
    """The exchange may quote a subscribe message that it refuses."""
    text = f"the-key {SECRET} the-passphrase"

    assert CREDENTIALS.secrets.hide(text) == "*** *** ***"
