"""The program from outside: arguments, statuses, signals and ports, without its Python modules.

The tests run the program of ``--command``: they reveal a module that was not packed, or a signal
that does not reach the right process.
"""

import json
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from http.client import HTTPConnection

import pytest

from tests.e2e.harness import free_port
from tests.feeds.test_dial import CERTIFICATE, PRIVATE_KEY

pytestmark = pytest.mark.e2e

PATIENCE_S = 20
START_S = 1.5  # of CPU time
TRADE = (
    '{"type":"match","trade_id":%d,"sequence":%d,"maker_order_id":"a","taker_order_id":"b",'
    '"time":"2026-01-01T00:00:00Z","product_id":"BTC-USD","size":"1","price":"2","side":"buy"}\n'
)


def environment(**variables):
    """Return the environment of a service: almost empty, without a locale."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables}


@pytest.fixture
def run(command):
    """Run the program to its end; return status, stdout and stderr."""

    def run(*arguments, **variables):
        done = subprocess.run(
            [*command, *arguments], env=environment(**variables), capture_output=True, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def start(command, tmp_path):
    """Run the program in the background, in a process group of its own as a shell would."""
    started = []

    @contextmanager
    def start(*arguments, port, **variables):
        log = (tmp_path / f"log{len(started)}").open("w+")
        process = subprocess.Popen(
            [*command, *arguments, "--port", str(port)], env=environment(**variables), stderr=log,
            start_new_session=True,
        )  # fmt: skip
        process.log = log
        started.append(process)
        wait_for_port(port, process)
        yield process

    yield start
    for process in started:
        # The whole group: the launcher of the one-file form cannot pass on a SIGKILL.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.log.close()


def log_of(process):
    """Return the text on stderr so far."""
    process.log.seek(0)
    return process.log.read()


def wait_until(condition):
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def wait_for_port(port, process):
    def is_open():
        assert process.poll() is None, log_of(process)
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    wait_until(is_open)


def get(port, path):
    """Return status and body of a GET."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def next_message(stream):
    """Return the next message of an NDJSON stream, without keep-alive lines."""
    while not (line := stream.readline()).strip():
        assert line, "the stream has ended"
    return json.loads(line)


def open_stream(port, path="/api/v1/subscribe/BTC-USD"):
    """Return an NDJSON stream after its response head."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", path)
    return connection.getresponse()


# Arguments


def test_help_reaches_a_terminal_without_a_locale(run):
    """A service and a container have no locale; the text may contain non-ASCII characters."""
    status, out, err = run("--help", LC_ALL="C")

    assert (status, err) == (0, "")
    assert out.startswith("usage: hedgehogd [serve] [options]\n")
    assert "[feed.pairs]" in out


def test_version_names_the_commit(run):
    """A bug report can state the exact version."""
    status, out, err = run("--version")

    assert (status, err) == (0, "")
    assert re.fullmatch(r"hedgehogd \d+\.\d+\.\d+ \(\w+(-dirty| commit)?\)\n", out)


@pytest.mark.parametrize(
    ("argv", "status", "expected"),
    [
        (["--prot", "1"], 64, "Did you mean '--port'?"),
        (["sevre"], 64, "Did you mean 'serve'?"),
        (["--port", "0"], 64, "Expected a whole number from 1 to 65535."),
        (["--config", "/nonexistent.toml"], 78, "/nonexistent.toml: No such file or directory"),
        (["--credentials", "/nonexistent", "--check"], 78, "/nonexistent/coinbase-key"),
        (["simulate", "--fault", "rest"], 64, "Did you mean 'reset'?"),
        (["replay", "--since=-1h", "--port=0", "--history=none"], 64, "Expected --history DIR"),
        (["tail", "btc"], 64, "neither a URL nor a pair"),
    ],
)
def test_a_wrong_argument_has_its_status_and_a_hint(run, argv, status, expected):
    """systemd restarts or not by the status; an operator reads the line."""
    found, out, err = run(*argv)

    assert (found, out) == (status, "")
    assert expected in err
    assert "Traceback" not in err


def test_an_unknown_variable_is_78(run):
    """A typing error in /etc/hedgehogd/1.env must not be silent."""
    status, _, err = run("--check", HEDGEHOGD_SERVE_PROT="1")

    assert status == 78
    assert "Did you mean 'HEDGEHOGD_SERVE_PORT'?" in err


def test_the_example_is_a_sound_configuration(run, tmp_path):
    """The package installs this file."""
    status, text, _ = run("config", "--example")
    file = tmp_path / "hedgehogd.toml"
    file.write_text(text)

    assert status == 0
    assert run("--config", str(file), "--check") == (0, "the configuration is valid\n", "")
    assert f"file {file}" not in run("config", "--config", str(file))[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[feed]\npears = []\n", "Did you mean 'feed.pairs'?"),
        ("[serve]\nport = true\n", "serve.port: found True"),
        ("[serve\n", "Expected ']'"),
    ],
)
def test_a_bad_file_is_78_and_is_named(run, tmp_path, text, expected):
    """The most frequent mistake of an operator."""
    file = tmp_path / "x.toml"
    file.write_text(text)
    status, out, err = run("--config", str(file), "--check")

    assert (status, out) == (78, "")
    assert str(file) in err
    assert expected in err


# Serving


def test_a_start_takes_little_cpu_time(start):
    """An upgrade starts the instances one by one; CPU time, because machines are busy."""
    took_s = []
    for _ in range(3):
        port, began = free_port(), cpu_of_children_s()
        with start("--feed", "demo", port=port):
            assert get(port, "/healthz") == (200, b'{"status":"alive"}\n')
        took_s.append(cpu_of_children_s() - began)

    assert min(took_s) < START_S


def cpu_of_children_s():
    """Return the CPU time of all processes that have ended and been waited for, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_whole_control_plane_is_packed(start):
    """Builds tend to miss data files and modules that are imported late."""
    port, operator_port = free_port(), free_port()
    public = ("/", "/readyz", "/api/v1/health", "/api/v1/openapi.json", "/products/BTC-USD/book")
    private = ("/metrics", "/api/v1/lines", "/api/v1/instances")
    with start("--feed", "demo", "--operator-bind", f"127.0.0.1:{operator_port}", port=port):
        for path in public + private:
            assert get(operator_port, path)[0] == 200, path
            assert get(port, path)[0] == (404 if path in private else 200), path
        assert get(port, "/api/v1/subscribe/NO-SUCH")[0] == 404


def test_a_daemon_on_two_lines_serves_a_simulators_messages(start, run):
    """The four commands together, over sockets and both streaming planes."""
    feed_port, port = free_port(), free_port()
    feed = ("--feed", f"ws://127.0.0.1:{feed_port}", "--lines", "2")
    with start("simulate", "--seed", "7", port=feed_port), start(*feed, port=port):
        stream = open_stream(port)
        types = {next_message(stream)["type"] for _ in range(4)}
        status, out, _ = run(
            "tail", f"ws://127.0.0.1:{port}/ws", "--pairs", "BTC-USD", "--count", "5"
        )

    assert types & {"match", "last_match"}
    assert status == 0
    assert json.loads(out.splitlines()[0])["type"] == "session"
    assert len(out.splitlines()) == 5


def test_a_recording_can_be_a_feed(start, tmp_path):
    """A thread reads it; a build must be able to start threads."""
    file = tmp_path / "feed.jsonl"
    file.write_text("".join(TRADE % (number, number) for number in range(1, 200)))
    port = free_port()
    with start("--feed", str(file), "--pairs", "BTC-USD", port=port):
        trade = next_message(open_stream(port, "/api/v1/subscribe/BTC-USD?channels=matches"))

    assert trade["product_id"] == "BTC-USD"


@pytest.fixture
def encrypted(tmp_path):
    """Run a TLS server that closes each connection; return its port and all first lines."""
    (tmp_path / "both.pem").write_text(CERTIFICATE + PRIVATE_KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    first_lines = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with suppress(OSError):
                while True:
                    plain, _ = listener.accept()
                    with plain, suppress(OSError), context.wrap_socket(plain, True) as peer:
                        first_lines.append(peer.recv(1000).partition(b"\r\n")[0])

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        yield listener.getsockname()[1], first_lines
        listener.shutdown(socket.SHUT_RDWR)
        server.join(PATIENCE_S)


@pytest.mark.parametrize("trusted", [True, False])
def test_an_encrypted_feed_is_dialled_when_its_certificate_is_known(
    start, tmp_path, encrypted, trusted
):
    """OpenSSL, the codec of host names and the path to the certificates are packed too."""
    (tmp_path / "cert.pem").write_text(CERTIFICATE)
    variables = {"SSL_CERT_FILE": str(tmp_path / "cert.pem")} if trusted else {}
    feed_port, first_lines = encrypted
    port = free_port()
    feed = ("--feed", f"wss://localhost:{feed_port}/ws-feed", "--pairs", "BTC-USD")
    with start(*feed, port=port, **variables) as process:
        expected = "during the WebSocket handshake" if trusted else "CERTIFICATE_VERIFY_FAILED"
        wait_until(lambda: expected in log_of(process))

    assert (b"GET /ws-feed HTTP/1.1" in first_lines) is trusted
    assert (b"GET /products HTTP/1.1" in first_lines) is trusted


@pytest.mark.parametrize("arguments", [["config"], ["--help"], ["haproxy-config"]])
def test_a_reader_of_stdout_that_has_read_enough_is_no_error(command, arguments):
    """``hedgehogd config | head -3`` must print no traceback."""
    process = subprocess.Popen(
        [*command, *arguments], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()

    assert process.stderr.read() == b""
    assert process.wait(PATIENCE_S) == 0
    process.stderr.close()


def test_a_port_in_use_is_78(start, run):
    """systemd does not restart it: an operator must choose a port."""
    port = free_port()
    with start("--feed", "demo", port=port):
        status, _, err = run("--feed", "demo", "--port", str(port))

    assert status == 78
    assert err == f"hedgehogd: cannot listen on 127.0.0.1 port {port}: Address already in use\n"


# Signals


def test_sigterm_ends_the_stream_in_order_and_exits_0(start):
    """systemd sends SIGTERM to the main process."""
    port = free_port()
    with start("--feed", "demo", "--drain-spread-s", "0.1", port=port) as process:
        stream = open_stream(port)
        stream.readline()
        process.send_signal(signal.SIGTERM)
        while stream.readline():  # raises if the connection breaks instead
            pass

        assert process.wait(PATIENCE_S) == 0
        assert '"drained"' in log_of(process)


def test_ctrl_c_is_one_signal_although_it_may_arrive_twice(start):
    """A terminal signals the whole group, and the launcher of the one-file form forwards it."""
    port = free_port()
    with start(
        "--feed", "demo", "--drain-spread-s", "0.1", "--drain-notice-s", "0.5", port=port
    ) as process:
        stream = open_stream(port)
        stream.readline()
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGINT)
        while stream.readline():
            pass

        assert process.wait(PATIENCE_S) == 0
        assert '"drained"' in log_of(process)


def test_a_second_signal_later_exits_at_once_with_130(start):
    """A second Ctrl-C means that the operator does not want to wait."""
    port = free_port()
    with start("--feed", "demo", "--drain-notice-s", "10", port=port) as process:
        stream = open_stream(port)
        stream.readline()
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(1.2)  # more than domain.limits.SECOND_SIGNAL_S
        os.killpg(process.pid, signal.SIGINT)

        assert process.wait(2) == 130
        assert not stream.isclosed()  # the drain had a stream to wait for


def test_sighup_is_a_reload(start):
    """`systemctl reload` must never end a daemon."""
    port = free_port()
    with start("--feed", "demo", port=port) as process:
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reload" in log_of(process))

        assert get(port, "/healthz")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
