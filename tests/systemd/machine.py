"""A booted machine: systemd as process 1, a network of its own, no files kept afterwards."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from tests.systemd.cgroup import ControlGroup

BOOT_S = 60.0
COMMAND_S = 90.0
CLONE_NEWNET = 0x40000000  # of setns(2); os.setns comes with Python 3.12
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "SYSTEMD_PAGER": "",
}


class CommandFailed(Exception):
    """A command in the machine failed; the text has its output."""


class Machine:
    """One booted machine.

    Attributes:
        leader: process id of its systemd on this side.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", leader: int) -> None:
        self.leader = leader
        self._process = process

    def path(self, inside: str) -> Path:
        """Return the path, on this side, of the machine's file ``inside``."""
        return Path(f"/proc/{self.leader}/root{inside}")

    def call(
        self, *command: str, timeout_s: float = COMMAND_S
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in it to its end, with any exit status; stderr is joined with stdout."""
        entering = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-w", "--"]
        try:
            return subprocess.run(
                [*entering, *command],
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"{' '.join(command)}: not done in {timeout_s:g} s") from None

    async def run(self, *command: str, timeout_s: float = COMMAND_S) -> str:
        """Run a command in it; return its output.

        Raises:
            CommandFailed: its exit status is not 0.
        """
        done = await self.attempt(*command, timeout_s=timeout_s)
        if done.returncode:
            words = f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}"
            raise CommandFailed(words.rstrip())
        return done.stdout

    async def attempt(
        self, *command: str, timeout_s: float = COMMAND_S
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in it that may fail."""
        return await trio.to_thread.run_sync(
            lambda: self.call(*command, timeout_s=timeout_s), abandon_on_cancel=True
        )

    def write(self, inside: str, text: str) -> None:
        """Write a file in it."""
        self.path(inside).parent.mkdir(parents=True, exist_ok=True)
        self.path(inside).write_text(text)

    def enter_network(self) -> None:
        """Move this process into the machine's network for good, its 127.0.0.1 included.

        Only this thread and those that it starts later move; call it before starting threads.

        Raises:
            CommandFailed: it is not permitted, or the network does not work.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            with Path(f"/proc/{self.leader}/ns/net").open() as namespace:
                if libc.setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
                datagrams.connect(("127.0.0.1", 9))  # sends nothing
        except OSError as error:  # in a container with too few capabilities
            needs = "it takes CAP_SYS_ADMIN and CAP_NET_ADMIN"
            raise CommandFailed(f"the machine has no network: {error}; {needs}") from None

    def _halt(self) -> None:
        """End it at once: none of its files are kept."""
        with suppress(ProcessLookupError):
            os.kill(self.leader, signal.SIGKILL)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def booted(root: Path, log: Path) -> Iterator[Machine]:
    """Boot ``root`` with a layer of memory above it, so that it does not change.

    Args:
        root: of a Debian.
        log: receives the machine's console output.

    Raises:
        CommandFailed: it does not boot, or a unit of it failed.
    """
    name = f"hedgehogd-test-{os.getpid()}"
    group = ControlGroup(name)
    try:
        process = _start(root, log, name, group)
        try:
            machine = _wait_until_running(process, log)
        except BaseException:
            for child in _children(process.pid):
                os.kill(child, signal.SIGKILL)
            process.kill()
            process.wait()
            raise
        try:
            yield machine
        finally:
            machine._halt()
    finally:
        group.remove()
        # nspawn does not remove this where /run is on a disk.
        shutil.rmtree(f"/run/systemd/nspawn/propagate/{name}", ignore_errors=True)


def _start(root: Path, log: Path, name: str, group: ControlGroup) -> "subprocess.Popen[bytes]":
    options = [
        "--quiet",
        "--boot",
        "--private-network",
        "--register=no",  # systemd may not run on this side
        "--keep-unit",
        "--volatile=overlay",
        f"--machine={name}",
        f"--directory={root}",
    ]
    with log.open("wb") as console:
        # setpriv: the machine ends with this process, for any reason. The signal follows the
        # thread that starts it, so it is the main one. TERM, because a killed nspawn would leave
        # its machine running. A session of its own: Ctrl-C reaches only this process.
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "systemd-nspawn", *options],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=group.enter,
        )


def _wait_until_running(process: "subprocess.Popen[bytes]", log: Path) -> Machine:
    deadline = time.monotonic() + BOOT_S
    state = "nothing"
    while time.monotonic() < deadline and process.poll() is None:
        for leader in _children(process.pid):
            machine = Machine(process, leader)
            state = machine.call("systemctl", "is-system-running", "--wait").stdout.strip()
            if state == "running":
                return machine
            if state == "degraded":
                failed = machine.call("systemctl", "--failed").stdout
                raise CommandFailed(f"units failed at boot:\n{failed}")
        time.sleep(0.2)
    console = log.read_text(errors="replace")[-4000:]
    raise CommandFailed(f"the machine does not boot ({state}):\n{console}")


def _children(parent: int) -> list[int]:
    found = subprocess.run(
        ["pgrep", "--parent", str(parent)], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]
