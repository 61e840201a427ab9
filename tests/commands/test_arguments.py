"""Flags, their errors, and ``--version``."""

import subprocess

import pytest

from hedgehogd import __version__
from hedgehogd.commands import arguments as flags
from hedgehogd.settings.keys import KEYS

pytestmark = pytest.mark.usefixtures("clean")

SINCE = ["--port", "0", "--since", "-5m"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--prot", "8001"], "unrecognized arguments: --prot 8001\n  Did you mean '--port'?"),
        (["--prot=8001"], "Did you mean '--port'?"),
        (["--only-pair"], "Did you mean '--only-pairs'?"),
        (["--port"], "expected one argument\n  See `hedgehogd serve --help`."),
        (["sevre"], "there is no command 'sevre'\n  Did you mean 'serve'?"),
        (
            ["frobnicate"],
            "no command 'frobnicate'\n  Commands are serve, simulate, tail, config, status, ",
        ),
        (["--port", "8001", "tial"], "unrecognized arguments: tial\n  Did you mean 'tail'?"),
        (["serve", "BTC-USD"], "unrecognized arguments: BTC-USD\n  See `hedgehogd serve --help`."),
        (["config", "x"], "unrecognized arguments: x\n  See `hedgehogd config --help`."),
        (["--port", "0"], "--port: found '0'\n  Expected a whole number from 1 to 65535."),
        (["--pairs", "BTC"], "--pairs: found 'BTC'\n  Expected pairs such as BTC-USD"),
        (["--only-pairs"], "--only-pairs without --pairs would serve no product"),
        (["simulate", "--port", "99999"], "found '99999', expected a whole number from 0 to 65535"),
        (["simulate", "--seed", "x"], "argument --seed: found 'x', expected a whole number"),
        (["simulate", "--rate", "nan"], "argument --rate: found 'nan', expected a number"),
        (["simulate", "--rate", "0"], "rate 0: expected more than 0"),
        (["simulate", "--pairs", "BTC"], "pair 'BTC': expected one like BTC-USD"),
        (["simulate", "--fault", "rest"], "no fault 'rest'\n  Did you mean 'reset'?"),
        (["simulate", "--fault", "late:x"], "fault late: found 'x', expected a whole number"),
        (["simulate", "--fault", "late", "--recording", "x"], "has neither faults nor keys"),
        (["replay", "--port", "1"], "the following arguments are required: --since"),
        (["replay", "--since", "-5m"], "the following arguments are required: --port"),
        (["replay", "--since"], "argument --since: expected one argument"),
        (
            ["replay", "--since", "-5x"],
            "found '-5x', expected a time like 2026-01-31T12:00:00Z, or",
        ),
        (["replay", "--since", "20260131"], "found '20260131', expected a time like"),
        (["replay", "--since", "2026-01-31T12:00:00"], "or an age like -5m"),
        (["replay", *SINCE, "--sped", "2"], "Did you mean '--speed'?"),
        (["replay", *SINCE, "--until", "-6m"], "--since is not before --until"),
        (["replay", *SINCE, "--speed", "-1"], "argument --speed: found '-1', expected a number"),
        (["replay", *SINCE, "--speed", "inf"], "speed inf: expected 0 (as fast as clients read)"),
        (["replay", *SINCE, "--pairs", "BTC"], "--pairs: found 'BTC', expected pairs such as"),
        (["replay", *SINCE, "--channels", "tickr"], "--channels: found 'tickr', expected channels"),
        (["replay", *SINCE, "--port", "99999"], "found '99999', expected a whole number from 0 to"),
        (["replay", *SINCE, "--history", "none"], "no history is kept here\n  Expected --history"),
        (["replay", *SINCE, "--history", ""], "--history: found '', expected a text that is not"),
        (["tail"], "the following arguments are required: URL|PAIR"),
        (["tail", "btc"], "'btc' is neither a URL nor a pair like BTC-USD"),
        (["tail", "http://a"], "'http://a' is not a feed."),
        (["tail", "ws://"], "'ws://' is not a feed."),
        (["tail", "ws://a:99999"], "'ws://a:99999' is not a feed."),
        (["tail", "ws://[a"], "'ws://[a' is not a feed."),
        (
            ["tail", "BTC-USD", "--channels", "tickr"],
            "no channel 'tickr'\n  Did you mean 'ticker'?",
        ),
        (["tail", "BTC-USD", "--count", "-1"], "found '-1', expected a whole number from 0"),
        (["tail", "BTC-USD", "--format", "xml"], "invalid choice: 'xml'"),
    ],
)
def test_a_wrong_word_is_64_and_the_error_names_a_valid_one(run_command, argv, says):
    """Two lines at most, and the second one helps."""
    status, out, err = run_command(*argv)

    assert (status, out) == (64, "")
    assert err.startswith("hedgehogd: ")
    assert says in err
    assert err.count("\n") <= 2


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["serve", "--help"], ["help"]])
def test_help_has_every_key_with_its_flag(run_command, argv):
    """An operator finds every key in one place."""
    status, out, err = run_command(*argv)

    assert (status, err) == (0, "")
    for key in KEYS:
        assert f"  {key.flag}" in out
        assert f"[{key.name}]" in " ".join(out.split())
    for heading in ("feed:", "serving:", "limits:", "signals:", "exit status:"):
        assert f"\n{heading}\n" in out
    for word in ("--config FILE", "--check", "--version", "hedgehogd tail", "HEDGEHOGD_"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("command", flags.COMMANDS)
def test_every_command_has_help(run_command, command):
    """Its first line is the usage."""
    status, out, _ = run_command(command, "--help")

    assert status == 0
    assert out.startswith(f"usage: hedgehogd {'[serve]' if command == 'serve' else command} ")
    assert max(map(len, out.splitlines())) <= 80


def test_defaults_are_in_the_help(run_command):
    """An operator must not have to read the code for them."""
    text = " ".join(run_command("--help")[1].split())

    assert "default ticker,matches,heartbeat [feed.channels]" in text
    assert "default 127.0.0.1 [serve.bind]" in text


def test_abbreviations_are_refused(run_command):
    """``--p`` would change its meaning with the next flag."""
    assert run_command("--por", "8001")[0] == 64


def test_the_version_names_the_commit_of_a_checkout(run_command, monkeypatch, tmp_path):
    """The first question about a bug report."""
    repository = tmp_path / "checkout"
    (repository / "hedgehogd").mkdir(parents=True)
    monkeypatch.setattr(flags, "__file__", str(repository / "hedgehogd/commands/arguments.py"))
    assert run_command("--version") == (0, f"hedgehogd {__version__}\n", "")
    (repository / ".git").mkdir()  # not a repository: git fails
    assert run_command("--version") == (0, f"hedgehogd {__version__}\n", "")
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 0, "abc123-dirty\n"),
    )
    assert run_command("--version") == (0, f"hedgehogd {__version__} (abc123-dirty)\n", "")


def test_the_version_of_a_build_names_its_commit(run_command, monkeypatch, tmp_path):
    """A build runs without git; scripts/build-binary wrote the commit into a file."""
    (tmp_path / "commit").write_text("abc123\n")
    monkeypatch.setattr(flags, "__file__", str(tmp_path / "commands" / "arguments.pyc"))

    assert run_command("--version") == (0, f"hedgehogd {__version__} (abc123)\n", "")
