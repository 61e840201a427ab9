"""Configuration: the origin of each value, and the error for a wrong one."""

from pathlib import Path

import pytest

from hedgehogd.domain.errors import EXIT_CONFIG, EXIT_USAGE, OperatorError
from hedgehogd.settings import load as config
from hedgehogd.settings.keys import BY_NAME, KEYS, Settings
from hedgehogd.settings.load import load, nearest, shown

# For each key: two valid texts, and their values.
RIGHT = {
    "feed.pairs": [("BTC-USD, eth-usd", ("BTC-USD", "ETH-USD")), ("A-B,A-B", ("A-B",))],
    "feed.channels": [("ticker,level2", ("ticker", "level2")), ("status", ("status",))],
    "feed.only_pairs": [("true", True), ("No", False)],
    "feed.where": [("demo", "demo"), ("ws://a/ws", "ws://a/ws")],
    "feed.linger_s": [("0", 0.0), ("2.5", 2.5)],
    "feed.stale_after_s": [("0.5", 0.5), ("30", 30.0)],
    "feed.message_bytes_max": [("1024", 1024), ("5000", 5000)],
    "feed.lines": [("2", 2), ("1", 1)],
    "feed.gap_patience_s": [("0", 0.0), ("5", 5.0)],
    "feed.credentials": [("/run/keys", "/run/keys"), ("keys", "keys")],
    "serve.port": [("1", 1), ("65535", 65535)],
    "instance": [("0", 0), ("7", 7)],
    "serve.bind": [("0.0.0.0", "0.0.0.0"), ("::1", "::1")],
    "serve.hosts": [("*", ("*",)), ("Relay.example.,::1", ("relay.example", "::1"))],
    "serve.operator_bind": [("none", "none"), ("[::1]:9001", "[::1]:9001")],
    "serve.trusted_proxies": [
        ("10.0.0.1", ("10.0.0.1",)),
        ("::1,10.0.0.0/8", ("::1", "10.0.0.0/8")),
    ],
    "serve.runtime_dir": [("/run/hedgehogd", "/run/hedgehogd"), ("run", "run")],
    "history.where": [("/var/lib/hedgehogd", "/var/lib/hedgehogd"), ("none", "none")],
    "history.age_max_s": [("3600", 3600.0), ("60", 60.0)],
    "history.bytes_max": [("2000000", 2_000_000), ("1048576", 1_048_576)],
    "history.demanded": [("true", True), ("false", False)],
    "log.window_s": [("600", 600.0), ("10", 10.0)],
    "log.window_bytes_max": [("33554432", 33_554_432), ("100000000", 100_000_000)],
    "log.lease_s": [("0.5", 0.5), ("20", 20.0)],
    "serve.cors_origins": [("*", ("*",)), ("https://a,https://b", ("https://a", "https://b"))],
    "limits.subscribers_max": [("1", 1), ("500", 500)],
    "limits.address_connections_max": [("1", 1), ("500", 500)],
    "limits.address_connections_per_s": [("0.1", 0.1), ("500", 500.0)],
    "limits.topics_max": [("1", 1), ("500", 500)],
    "limits.backlog_bytes_max": [("1024", 1024), ("5000", 5000)],
    "limits.backlog_age_max_s": [("0.1", 0.1), ("5", 5.0)],
    "limits.waiting_bytes_max": [("1048576", 1048576), ("9999999", 9999999)],
    "limits.tape_bytes_max": [("1048576", 1048576), ("9999999", 9999999)],
    "drain.notice_s": [("0", 0.0), ("3", 3.0)],
    "drain.spread_s": [("0", 0.0), ("3", 3.0)],
    "drain.timeout_s": [("6", 6.0), ("30.5", 30.5)],
    "demo.seed": [("0", 0), ("42", 42)],
    "demo.rate": [("0.01", 0.01), ("10", 10.0)],
    "demo.modify_orders": [("false", False), ("yes", True)],
    "log.level": [("debug", "debug"), ("error", "error")],
    "log.format": [("json", "json"), ("human", "human")],
}
WRONG = {
    "feed.pairs": ["BTC/USD", "BTC", "btc usd"],
    "feed.channels": ["tickers", "ticker;matches"],
    "feed.only_pairs": ["maybe", ""],
    "demo.modify_orders": ["sometimes", ""],
    "feed.where": [""],
    "feed.lines": ["0", "3", "two", "1.5", ""],
    "feed.gap_patience_s": ["-0.1", "5.1", "nan", ""],
    "feed.credentials": [""],
    "serve.bind": [""],
    "serve.hosts": ["a:80", "http://a", "a b", "user@a", "[::1]:80"],
    "serve.cors_origins": ["a.example", "https://a/", "null", "https://a:b", "https://*"],
    "serve.operator_bind": ["", "9001", "127.0.0.1", "::1:9001", "[127.0.0.1]:9001", "h:0", "off"],
    "serve.trusted_proxies": ["proxy.example", "10.0.0.0/33", "127.0.0.1;::1"],
    "serve.runtime_dir": [""],
    "history.where": [""],
    "history.age_max_s": ["59", "for ever"],
    "history.bytes_max": ["1", "1e9"],
    "history.demanded": ["perhaps", ""],
    "log.window_s": ["9", "86401", "nan"],
    "log.window_bytes_max": ["33554431", "1e9"],
    "log.lease_s": ["0.4", "21", "inf"],
    "log.level": ["verbose", ""],
    "log.format": ["xml", ""],
    "serve.port": ["0", "65536", "http", "", "80.5"],
    "instance": ["-1", "56536", "one"],
    "feed.linger_s": ["-1", "nan", "inf", "soon", ""],
    "feed.stale_after_s": ["0", "3601", "nan"],
    "limits.backlog_age_max_s": ["11", "0"],
    "limits.subscribers_max": ["0", "1e3"],
    "limits.address_connections_max": ["0", "-1"],
    "limits.address_connections_per_s": ["0", "nan"],
    "demo.rate": ["0", "101"],
}


@pytest.fixture(autouse=True)
def no_default_file(monkeypatch, tmp_path):
    """Keep the tests from reading a file in this machine's /etc."""
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "default.toml")


@pytest.fixture
def write(tmp_path):
    """Write a configuration file."""

    def write(text, name="hedgehogd.toml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def toml(name, value):
    """Return a file that sets one key."""
    section, _, key = name.rpartition(".")
    if isinstance(value, tuple):
        value = list(value)
    text = str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
    return (f"[{section}]\n" if section else "") + f"{key} = {text}\n"


def refused(flags=None, environment=None, file=None):
    with pytest.raises(OperatorError) as caught:
        load(flags or {}, environment or {}, file)
    return str(caught.value), caught.value.exit_status


def test_every_key_has_examples_here():
    """A new key gets its line in RIGHT."""
    assert RIGHT.keys() == BY_NAME.keys()


def test_keys_and_settings_agree():
    """A key without a field could not be read, a field without a key not be set."""
    assert {key.field for key in KEYS} == set(Settings.__dataclass_fields__)
    assert len({key.flag for key in KEYS}) == len({key.variable for key in KEYS}) == len(KEYS)


@pytest.mark.parametrize("name", RIGHT)
def test_a_key_is_set_by_flag_environment_and_file_in_this_order(name, write):
    """An operator looks for a value in this order; ``config`` shows where it was found."""
    key, ((first, one), (second, two)) = BY_NAME[name], RIGHT[name]
    # --only-pairs makes sense with pairs alone
    extra = {"feed.pairs": "A-B"} if name == "feed.only_pairs" else {}
    file = write(toml(name, one))
    default = getattr(Settings(), key.field)

    found = load(extra, {}, None)
    assert (getattr(found.settings, key.field), found.origins[name]) == (default, "default")
    found = load(extra, {}, file)
    assert (getattr(found.settings, key.field), found.origins[name]) == (one, f"file {file}")
    found = load(extra, {key.variable: second}, file)
    assert getattr(found.settings, key.field) == two
    assert found.origins[name] == f"environment {key.variable}"
    found = load({name: first, **extra}, {key.variable: second}, file)
    assert (getattr(found.settings, key.field), found.origins[name]) == (one, f"flag {key.flag}")


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, texts in WRONG.items() for t in texts])
def test_a_bad_value_names_key_found_and_expected(name, text, write):
    """One line names the change to make; the exit status differs for a flag and the file."""
    key = BY_NAME[name]
    message, status = refused(flags={name: text})
    assert message.startswith(f"{key.flag}: found {text!r}\n  Expected ")
    assert status == EXIT_USAGE
    message, status = refused(environment={key.variable: text})
    assert message.startswith(f"environment variable {key.variable}: found {text!r}\n  Expected ")
    assert status == EXIT_CONFIG
    file = write(toml(name, text))
    message, status = refused(file=file)
    assert message.startswith(f"{file}: {name}: found ")
    assert status == EXIT_CONFIG


@pytest.mark.parametrize(
    "line",
    [
        "[serve]\nport = true",
        "[serve]\nport = 80.5",
        "[serve]\nport = [1]",
        "[feed]\nlinger_s = true",
        "[feed]\nlinger_s = nan",
        "[feed]\nlinger_s = 1979-05-27",
        "[feed]\npairs = 7",
        "[feed]\npairs = [7]",
        "[feed]\nwhere = 7",
        "[feed]\nonly_pairs = 1",
        "[log]\nlevel = ['info']",
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(line, write):
    """TOML has types; ``port = true`` is not port 1."""
    message, status = refused(file=write(line))
    assert "Expected" in message
    assert status == EXIT_CONFIG


@pytest.mark.parametrize(
    ("line", "name", "hint"),
    [
        ("[feed]\nstale_after = 5", "feed.stale_after", "feed.stale_after_s"),
        ("[serve]\nprot = 5", "serve.prot", "serve.port"),
        ("port = 5", "port", "serve.port"),
        ("[tls]\nx = 5", "tls.x", None),
        ("[feed.pairs]\nx = 5", "feed.pairs", None),
        ("instances = 5", "instances", "instance"),
    ],
)
def test_an_unknown_key_offers_the_nearest(line, name, hint, write):
    """A typo that is ignored is a limit that is not in force."""
    file = write(line)
    message, status = refused(file=file)

    assert status == EXIT_CONFIG
    if name == "feed.pairs":  # a table where a value belongs
        assert f"{file}: feed.pairs: found" in message
        return
    assert message.startswith(f"{file}: there is no key {name!r}")
    assert (f"Did you mean {hint!r}?" in message) if hint else ("mean" not in message)


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("HEDGEHOGD_PORT", "HEDGEHOGD_SERVE_PORT"),
        ("HEDGEHOGD_FEED_PAIR", "HEDGEHOGD_FEED_PAIRS"),
        ("HEDGEHOGD_XYZ", None),  # the prefix alone does not make names similar
        ("HEDGEHOGD_", None),
    ],
)
def test_an_unknown_variable_offers_the_nearest(variable, hint):
    """The same, for containers."""
    message, status = refused(environment={variable: "1", "PATH": "/bin"})

    assert status == EXIT_CONFIG
    assert message.startswith(f"there is no environment variable {variable}")
    assert (f"Did you mean {hint!r}?" in message) if hint else ("mean" not in message)


DEEP = "a = " + "[" * 100_000  # limits of Python's parsers: these must not end a running daemon
LONG = "a = " + "9" * 5_000


@pytest.mark.parametrize(
    "text", ["[feed", "a = ", "pairs = BTC-USD", b"\xff\xfe", "a = 1\na = 2", DEEP, LONG]
)
def test_a_file_that_is_not_toml_is_named_with_the_place(text, write):
    """The parser's message follows the name of the file."""
    file = write(text)
    message, status = refused(file=file)

    assert message.startswith(f"{file}: ")
    assert status == EXIT_CONFIG


def test_a_named_file_must_exist(tmp_path):
    """Defaults in its place would serve the wrong market without a warning."""
    assert refused(file=tmp_path / "nowhere")[0].endswith("nowhere: No such file or directory")
    assert refused(file=tmp_path)[0].endswith("Is a directory")


def test_the_default_file_is_read_if_it_exists(write):
    """A package installs it; a checkout has none."""
    write("[serve]\nport = 9", "default.toml")
    found = load({}, {}, None)

    assert found.settings.serve_port == 9
    assert found.origins["serve.port"] == f"file {config.DEFAULT_FILE}"
    assert load({}, {}, write("[serve]\nport = 10")).settings.serve_port == 10


def test_a_default_file_that_may_not_be_seen_is_an_error(monkeypatch):
    """A directory ``/etc/hedgehogd`` that only root may enter must not lead to a traceback."""

    class Locked(type(Path())):
        def exists(self):
            raise PermissionError(13, "Permission denied")

        def read_text(self, encoding=None):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(config, "DEFAULT_FILE", Locked("/locked/hedgehogd.toml"))
    assert refused() == ("/locked/hedgehogd.toml: Permission denied", EXIT_CONFIG)


@pytest.mark.parametrize("flags", [{"drain.timeout_s": "5"}, {"drain.notice_s": "15"}])
def test_a_drain_without_time_for_farewells_is_refused(flags):
    """Every planned stop would close all streams without a farewell."""
    message, status = refused(flags)
    assert "Expected some time left for farewells" in message
    assert status == EXIT_CONFIG


def test_only_pairs_needs_pairs():
    """Without pairs it would serve no product."""
    assert refused(flags={"feed.only_pairs": True})[1] == EXIT_USAGE


@pytest.mark.parametrize(
    ("value", "text"),
    [(("a", "b"), "a,b"), ((), ""), (True, "true"), (2.0, "2"), (0.25, "0.25"), (7, "7")],
)
def test_values_are_shown_as_they_are_written(value, text):
    """An operator can copy the output of ``config`` into a file."""
    assert shown(value) == text


def test_defaults_are_shown_in_the_same_words():
    """``--help`` and ``config`` must not differ."""
    assert shown(BY_NAME["feed.channels"].default) == "ticker,matches,heartbeat"
    assert shown(BY_NAME["serve.port"].default) == "0"


def test_an_unlike_name_gets_no_hint():
    """A wrong hint is worse than none."""
    assert nearest("xyzzy", BY_NAME) == ""


@pytest.mark.parametrize(
    ("flags", "address"),
    [
        ({}, ("127.0.0.1", 9001)),
        ({"instance": "56535"}, ("127.0.0.1", 65535)),
        ({"instance": "3", "serve.bind": "0.0.0.0"}, ("127.0.0.1", 9003)),
        ({"serve.port": "8001"}, None),
        ({"serve.port": "8001", "serve.operator_bind": "auto"}, None),
        ({"serve.operator_bind": "none"}, None),
        ({"serve.port": "8001", "serve.operator_bind": "127.0.0.2:7"}, ("127.0.0.2", 7)),
        ({"serve.operator_bind": "[::1]:9001"}, ("::1", 9001)),
        ({"serve.operator_bind": "localhost:9001"}, ("localhost", 9001)),
    ],
)
def test_the_operator_listener_follows_the_instance_number_or_is_set(flags, address):
    """A port that an operator chose does not tell which second port is free."""
    assert load(flags, {}, None).settings.operator_address == address
