"""The exchange's API key: read from files alone, and never shown."""

import base64
from pathlib import Path

import pytest

from hedgehogd.app.daemon import Daemon
from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.domain.feed_address import parse_url
from hedgehogd.settings.credentials import NAMES, check_secrecy, read_credentials
from hedgehogd.settings.keys import Settings
from tests.e2e.harness import free_port

SECRET = base64.b64encode(b"house secret").decode()
CONTENTS = ("the-key-itself", SECRET, "the-passphrase-itself")


@pytest.fixture
def write(tmp_path):
    """Write the three files, valid except for the arguments; return their folder."""

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
    """Return the error message for ``directory``, after a check that it quotes no file."""
    with pytest.raises(OperatorError) as caught:
        read_credentials(str(directory), environment or {})
    text = f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    assert not any(content in text for content in CONTENTS)
    assert caught.value.exit_status == EXIT_CONFIG
    return str(caught.value)


def signs_as_expected(credentials):
    fields = credentials.sign(1700000000.0)
    return (fields["key"], fields["passphrase"]) == CONTENTS[::2] and credentials.verifies(fields)


def test_credentials_are_read_from_a_directory(write):
    """An editor's newline at the end of a file is not part of a key."""
    assert signs_as_expected(read_credentials(str(write()), {}))
    write(key=CONTENTS[0] + "\n", secret=f" {SECRET}\r\n", passphrase=CONTENTS[2] + "\n")
    assert signs_as_expected(read_credentials(str(write()), {}))


def test_systemd_names_the_directory(write):
    """``LoadCredential=`` needs no flag; a flag wins."""
    environment = {"CREDENTIALS_DIRECTORY": str(write(mode=0o400))}
    assert signs_as_expected(read_credentials("", environment))
    assert "nowhere" in refused("/nowhere", environment)


@pytest.mark.parametrize("environment", [{}, {"CREDENTIALS_DIRECTORY": "/nowhere"}])
def test_without_files_there_are_no_credentials(environment):
    """systemd may pass other credentials to the daemon, and none of these."""
    assert read_credentials("", environment) is None


def test_a_directory_of_systemd_that_may_not_be_entered_has_no_credentials(monkeypatch):
    """It belongs to another service; the daemon starts without a key."""

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
def test_credentials_leave_this_machine_encrypted_only(url):
    """A simulator or a proxy on this machine needs no TLS."""
    check_secrecy(parse_url(url))


@pytest.mark.parametrize("url", ["ws://feed.example/", "ws://127.0.0.2:9000/", "ws://10.0.0.7:80/"])
def test_an_unencrypted_feed_on_another_machine_is_refused_by_name(url):
    """Every router between could read the key, and use it."""
    with pytest.raises(OperatorError) as caught:
        check_secrecy(parse_url(url))

    shown = url.replace(":80/", "/")
    expected = f"{shown}: credentials would be sent unencrypted.\n  Expected wss://…"
    assert str(caught.value) == expected
    assert caught.value.exit_status == EXIT_CONFIG


async def test_a_daemon_with_a_key_does_not_even_dial_an_unencrypted_feed(write):
    """The daemon makes the check before it dials, and its error does not quote the key."""
    settings = Settings(
        feed_where="ws://feed.invalid/", feed_credentials=str(write()), serve_port=free_port()
    )
    with pytest.raises(ExceptionGroup) as caught:
        await Daemon(settings).run()

    refusal = caught.value
    while isinstance(refusal, ExceptionGroup):
        (refusal,) = refusal.exceptions
    assert str(refusal).startswith("ws://feed.invalid/: credentials would be sent unencrypted.")
    assert not any(content in repr(refusal) for content in CONTENTS)


@pytest.mark.parametrize("missing", ["key", "secret", "passphrase"])
def test_two_files_of_three_are_an_error(write, missing):
    """The exchange would refuse an incomplete key only on the first subscribe."""
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
def test_an_error_names_the_file_and_quotes_nothing_of_it(write, contents, complaint):
    """The error goes to a journal that other users read."""
    message = refused(write(**contents))
    assert message.endswith(complaint)
    assert "not base64!" not in message


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o666])
def test_files_that_all_users_may_read_are_refused(write, mode):
    """A key that every user of the machine can read is no secret."""
    assert "all users may read or write it.\n  Expected mode 0600 or 0400." in refused(
        write(mode=mode)
    )


def test_a_directory_in_place_of_a_file_is_named(write, tmp_path):
    """A common mistake where secrets are mounted in containers."""
    directory = write(secret=None)
    (tmp_path / "coinbase-secret").mkdir(mode=0o700)
    assert refused(directory).endswith("coinbase-secret: Is a directory")


def test_a_printed_configuration_has_the_directory_and_nothing_of_the_files(
    clean, run_command, write, monkeypatch
):
    """Operators paste the output of ``hedgehogd config`` into bug reports."""
    directory = str(write())
    status, out, err = run_command("config", "--credentials", directory)

    assert (status, err) == (0, "")
    assert directory in out
    assert not any(content in out for content in CONTENTS)


def test_a_check_of_the_configuration_reads_the_files(clean, run_command, write, monkeypatch):
    """An operator that checks before a restart must not learn of a bad file by the restart."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    right = ("--check", "--feed", "demo", "--credentials", str(write()))
    assert run_command(*right) == (0, "the configuration is valid\n", "")
    status, out, err = run_command("--check", "--feed", "demo", "--credentials", "/nowhere")

    assert (status, out) == (EXIT_CONFIG, "")
    assert "/nowhere/coinbase-key: No such file or directory" in err
