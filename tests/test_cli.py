"""The command line as a whole: exit statuses, secrets, and one configuration for all commands."""

import os
import subprocess
import sys

import pytest
import structlog
import trio

from hedgehogd.app import daemon, upstream
from hedgehogd.cli import main
from hedgehogd.commands import status as status_command
from hedgehogd.commands import stream_printer
from hedgehogd.commands.serve import serve_parser
from hedgehogd.domain.errors import FeedError, OperatorError
from hedgehogd.logs import setup
from hedgehogd.settings.keys import KEYS
from hedgehogd.settings.load import load
from hedgehogd.simulator import Address

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def serve(monkeypatch):
    """Replace the daemon by one that stores its settings and ends with ``error``."""
    served = []

    def end_with(error=None):
        async def serve(settings, read_settings):
            served.append(settings)
            await trio.lowlevel.checkpoint()
            if error is not None:
                raise error

        monkeypatch.setattr(daemon, "serve", serve)
        return served

    return end_with


# Exit statuses


@pytest.mark.parametrize("argv", [[], ["serve"], ["--feed", "demo"], ["serve", "--port", "9"]])
def test_a_drained_daemon_is_0(serve, run_command, argv):
    """``serve`` may be left out."""
    served = serve()

    assert run_command(*argv) == (0, "", "")
    assert len(served) == 1


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (OperatorError("no such thing", 78), 78, "hedgehogd: no such thing\n"),
        (OperatorError("no such flag", 64), 64, "hedgehogd: no such flag\n"),
        (FeedError("refused", for_good=True), 69, "hedgehogd: refused\n"),
        (KeyboardInterrupt(), 130, ""),
        (ExceptionGroup("", [ExceptionGroup("", [OperatorError("deep")])]), 78, "hedgehogd: deep"),
        (ExceptionGroup("", [FeedError("deep", for_good=True)]), 69, "hedgehogd: deep"),
    ],
)
def test_each_end_has_its_status_and_no_traceback(serve, run_command, error, status, text):
    """systemd restarts or not by the status; an operator reads the line."""
    serve(error)
    found, out, err = run_command()

    assert (found, out) == (status, "")
    assert err.startswith(text)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("oops"), FeedError("lost, not for good"), BrokenPipeError("not stdout's")],
)
@pytest.mark.parametrize("configured", [True, False])
def test_a_bug_is_70_and_goes_to_the_log(serve, run_command, monkeypatch, error, configured):
    """Every unforeseen error; on stderr too before logs are configured."""
    logged, set_up = [], []
    monkeypatch.setattr(structlog, "is_configured", lambda: configured)

    class Log:
        def critical(self, event, exc_info):
            logged.append(exc_info)

    monkeypatch.setattr(structlog, "get_logger", lambda name: Log())
    serve(error)
    monkeypatch.setattr(setup, "configure_logs", lambda *arguments: set_up.append(arguments))

    assert run_command()[0] == 70
    assert logged == [error]
    assert len(set_up) == (1 if configured else 2)  # one of them at the daemon's start


def test_main_exits_with_the_status(serve, monkeypatch):
    """It is the shell's ``$?``."""
    serve()
    monkeypatch.setattr(sys, "argv", ["hedgehogd", "--port", "9"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    with pytest.raises(SystemExit) as caught:
        main(["sevre"])
    assert caught.value.code == 64


# Secrets


@pytest.mark.parametrize(
    "argv",
    [
        ["config", "--feed", "wss://u:s3cret@a/ws?token=s3cret"],
        ["config", "--feed", "user:s3cret@a/ws"],
        ["--check", "--feed", "wss://u:s3/cret@a"],
        ["--check", "--feed", "wss://u:s3#cret@a/"],
        ["--check", "--feed", "http://u:s3cret@a/?token=s3cret"],
        ["--check", "--feed", "wss:/u:s3cret@a"],
        ["--check", "--feed", "a/ws?token=s3cret"],
        ["--fed", "wss://u:s3cret@a"],
        ["--fed=wss://a/?token=s3cret"],
        ["--port", "wss://u:s3cret@a"],
        ["wss://u:s3cret@a/?token=s3cret"],
        ["u:s3cret@a"],
        ["tail", "http://u:s3cret@a/?token=s3cret"],
        ["tail", "u:s3cret@a/?token=s3cret"],
        ["tail", "wss://u:s3cret@127.0.0.1:1/?token=s3cret"],
        ["status", "--port", "wss://u:s3cret@a"],
        ["simulate", "--port", "wss://u:s3cret@a"],
    ],
)
def test_no_message_of_the_command_line_shows_a_secret(run_command, argv):
    """Operators paste terminals into bug reports, and CI keeps them."""
    _, out, err = run_command(*argv)

    assert out + err
    assert "cret" not in out + err


# The configuration is the same for every command


@pytest.mark.parametrize(
    ("file", "variables", "argv", "stream", "operator"),
    [
        ("", {}, "", "127.0.0.1:8001", "127.0.0.1:9001"),
        ("", {}, "--instance 3", "127.0.0.1:8003", "127.0.0.1:9003"),
        ("instance = 4", {}, "", "127.0.0.1:8004", "127.0.0.1:9004"),
        ("", {"INSTANCE": "5"}, "", "127.0.0.1:8005", "127.0.0.1:9005"),
        ("instance = 4", {"INSTANCE": "5"}, "--instance 6", "127.0.0.1:8006", "127.0.0.1:9006"),
        ("[serve]\nport = 7000", {}, "", "127.0.0.1:7000", None),
        ("[serve]\nport = 7000", {}, "--port 7001", "127.0.0.1:7001", None),
        ("[serve]\nbind = '0.0.0.0'", {}, "", "127.0.0.1:8001", "127.0.0.1:9001"),
        ("[serve]\nbind = '::1'", {}, "", "[::1]:8001", "127.0.0.1:9001"),
        ("", {"SERVE_BIND": "::"}, "", "[::1]:8001", "127.0.0.1:9001"),
        ("", {}, "--bind 127.0.0.9", "127.0.0.9:8001", "127.0.0.1:9001"),
        ("[serve]\noperator_bind = '0.0.0.0:77'", {}, "", "127.0.0.1:8001", "127.0.0.1:77"),
        ("[serve]\noperator_bind = 'none'", {}, "", "127.0.0.1:8001", None),
    ],
)
def test_status_and_tail_find_the_daemon_that_serve_would_start(
    run_command, serve, monkeypatch, tmp_path, file, variables, argv, stream, operator
):
    """The same file, variables and flags name the same place for every command."""
    path = tmp_path / "x.toml"
    path.write_text(file)
    for name, value in variables.items():
        monkeypatch.setenv(f"HEDGEHOGD_{name}", value)
    asked, urls = [], []

    async def print_stream(stream):
        await trio.lowlevel.checkpoint()
        urls.append(stream.url)
        return 0

    monkeypatch.setattr(
        status_command, "status", lambda places, out: asked.append(tuple(places)) or 0
    )
    monkeypatch.setattr(stream_printer, "print_stream", print_stream)
    served, arguments = serve(), (*argv.split(), "--config", str(path))
    assert [run_command(*words)[0] for words in (arguments, ("status", *arguments))] == [0, 0]
    assert run_command("tail", "BTC-USD", *arguments)[0] == 0

    assert urls == [f"ws://{stream}/ws-feed"]
    assert asked == [(operator, stream) if operator else (stream,)]
    assert (served[0].stream_place, served[0].operator_place) == (stream, operator)


@pytest.mark.parametrize("command", [["status"], ["tail", "BTC-USD"]])
def test_a_wrong_configuration_is_wrong_for_every_command(run_command, tmp_path, command):
    """A request to the default port instead would reach another daemon."""
    path = tmp_path / "x.toml"
    path.write_text("[serve]\nprot = 7000")

    status, _, err = run_command(*command, "--config", str(path))
    assert (status, "serve.port" in err) == (78, True)


@pytest.mark.parametrize(
    ("argv", "variables", "modifies"),
    [
        ([], {}, True),
        (["--no-modify-orders"], {}, False),
        ([], {"HEDGEHOGD_DEMO_MODIFY_ORDERS": "false"}, False),
    ],
)
async def test_the_demo_may_omit_modify_order(monkeypatch, argv, variables, modifies):
    """Clients of 2018 lose their order book at the first one."""
    simulations = []

    async def serve_exchange(simulation, *, task_status):
        simulations.append(simulation)
        task_status.started(Address("ws://a", "http://a", 1, None))

    monkeypatch.setattr(upstream, "serve_exchange", serve_exchange)
    flags = {
        key.name: value
        for key in KEYS
        if (value := getattr(serve_parser().parse_args(argv), key.field)) is not None
    }
    settings = load({**flags, "feed.where": "demo"}, variables, None).settings
    async with trio.open_nursery() as nursery:
        await upstream.Upstream(None, settings, None, None)._address(nursery)

    assert [simulation.modifies for simulation in simulations] == [modifies]


# A real process, once


def test_python_m_hedgehogd_is_the_same():
    """Where no script is on the path; stdout has the command's output alone."""
    command = [sys.executable, "-m", "hedgehogd", "--feed", "demo", "--check"]
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "the configuration is valid\n", "")
