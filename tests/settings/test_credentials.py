"""The exchange's API key: from files alone, and never shown."""

import base64
from pathlib import Path

import pytest

from hedgehogd.app.daemon import Daemon
from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.domain.feed_address import parse_url
from hedgehogd.settings.credentials import NAMES, check_secrecy, read_credentials
from hedgehogd.settings.keys import Settings

SECRET = base64.b64encode(b"house secret").decode()
CONTENTS = ("the-key-itself", SECRET, "the-passphrase-itself")


@pytest.fixture
def write(tmp_path):
    """Write the three files, as they should be but for what is said; return their folder."""

    def write(mode=0o600, **contents):
        for name, content in zip(NAMES, CONTENTS, strict=True):
            text = contents.get(name.removeprefix("coinbase-"), content)
            if text is None:
                continue
            path = tmp_path / name
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
            path.chmod(mode)
        return tmp_path

    return write


def refused(directory, environment=None):
    """Return what is said about it; never anything of what is in the files."""
    with pytest.raises(OperatorError) as caught:
        read_credentials(str(directory), environment or {})
    text = f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    assert not any(content in text for content in CONTENTS)
    assert caught.value.exit_status == EXIT_CONFIG
    return str(caught.value)


def signs_as_expected(credentials):
    fields = credentials.sign(1700000000.0)
    return (fields["key"], fields["passphrase"]) == CONTENTS[::2] and credentials.verifies(fields)


def test_they_are_read_from_a_directory(write):
    """An editor's newline at the end is no part of a key."""
    assert signs_as_expected(read_credentials(str(write()), {}))
    write(key=CONTENTS[0] + "\n", secret=f" {SECRET}\r\n", passphrase=CONTENTS[2] + "\n")
    assert signs_as_expected(read_credentials(str(write()), {}))


def test_systemd_names_the_directory(write):
    """``LoadCredential=`` needs no flag; a flag wins."""
    environment = {"CREDENTIALS_DIRECTORY": str(write(mode=0o400))}
    assert signs_as_expected(read_credentials("", environment))
    assert "nowhere" in refused("/nowhere", environment)


@pytest.mark.parametrize("environment", [{}, {"CREDENTIALS_DIRECTORY": "/nowhere"}])
def test_without_files_there_are_none(environment):
    """systemd may have other credentials for us, and none of these."""
    assert read_credentials("", environment) is None


def test_a_directory_of_systemds_that_may_not_be_entered_has_none(monkeypatch):
    """It belongs to another service; ours starts without a key."""

    def denied(self):
        raise PermissionError

    monkeypatch.setattr(Path, "exists", denied)
    assert read_credentials("", {"CREDENTIALS_DIRECTORY": "/run/credentials/other"}) is None


@pytest.mark.parametrize(
    "url",
    [
        "wss://feed.example",
        "ws://localhost:9000",
        "ws://127.0.0.1:9000/ws-feed",
        "ws://[::1]:9000",
    ],
)
def test_credentials_go_out_encrypted_or_not_at_all_off_this_machine(url):
    """A simulator or a proxy on this machine needs no TLS."""
    check_secrecy(parse_url(url))


@pytest.mark.parametrize("url", ["ws://feed.example/", "ws://127.0.0.2:9000/", "ws://10.0.0.7:80/"])
def test_an_unencrypted_feed_elsewhere_is_refused_by_name(url):
    """Everybody on the way could read the key, and use it."""
    with pytest.raises(OperatorError) as caught:
        check_secrecy(parse_url(url))

    shown = url.replace(":80/", "/")
    expected = f"{shown}: credentials would be sent unencrypted.\n  Expected wss://…"
    assert str(caught.value) == expected
    assert caught.value.exit_status == EXIT_CONFIG


async def test_a_daemon_with_a_key_does_not_even_dial_an_unencrypted_feed(write):
    """The check is of no use where it is not made; and it says nothing of the key."""
    settings = Settings(
        feed_where="ws://feed.invalid/", feed_credentials=str(write()), serve_port=0
    )
    with pytest.raises(ExceptionGroup) as caught:
        await Daemon(settings).run()

    refusal = caught.value
    while isinstance(refusal, ExceptionGroup):
        (refusal,) = refusal.exceptions
    assert str(refusal).startswith("ws://feed.invalid/: credentials would be sent unencrypted.")
    assert not any(content in repr(refusal) for content in CONTENTS)


@pytest.mark.parametrize("missing", ["key", "secret", "passphrase"])
def test_two_of_three_are_an_error(write, missing):
    """Half a key would be found out by the exchange, on the first subscribe."""
    directory = write(**{missing: None})

    expected = f"{directory}/coinbase-{missing}: No such file or directory"
    assert refused(directory) == expected
    assert refused("", {"CREDENTIALS_DIRECTORY": str(directory)}) == expected


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        ({"key": ""}, "coinbase-key: it is empty"),
        ({"passphrase": " \n"}, "coinbase-passphrase: it is empty"),
        ({"secret": "not base64!"}, "coinbase-secret: the API secret is not base64"),
        ({"secret": "abc"}, "coinbase-secret: the API secret is not base64"),
        ({"secret": "é"}, "coinbase-secret: the API secret is not base64"),
        ({"key": b"\xff\xfe"}, "coinbase-key: it is not text"),
    ],
)
def test_what_is_wrong_is_said_without_what_is_in_it(write, contents, complaint):
    """The error goes to a journal that others read."""
    said = refused(write(**contents))
    assert said.endswith(complaint)
    assert "not base64!" not in said


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o666])
def test_files_that_others_may_read_are_refused(write, mode):
    """A key that everybody on the machine can read is no secret."""
    assert "others may read it.\n  Expected mode 0600 or 0400." in refused(write(mode=mode))


def test_a_directory_in_a_files_place_is_named(write, tmp_path):
    """A mistake of whoever mounts secrets in containers."""
    directory = write(secret=None)
    (tmp_path / "coinbase-secret").mkdir(mode=0o700)
    assert refused(directory).endswith("coinbase-secret: Is a directory")


def test_a_printed_configuration_has_the_place_and_nothing_of_what_is_there(
    clean, said, write, monkeypatch
):
    """``hedgehogd config`` is pasted into bug reports."""
    directory = str(write())
    status, out, err = said("config", "--credentials", directory)

    assert (status, err) == (0, "")
    assert directory in out
    assert not any(content in out for content in CONTENTS)


def test_a_check_of_the_configuration_reads_them(clean, said, write, monkeypatch):
    """Whoever checks before a restart must not find out by it."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    right = ("--check", "--feed", "demo", "--credentials", str(write()))
    assert said(*right) == (0, "the configuration is sound\n", "")
    status, out, err = said("--check", "--feed", "demo", "--credentials", "/nowhere")

    assert (status, out) == (EXIT_CONFIG, "")
    assert "/nowhere/coinbase-key: No such file or directory" in err
