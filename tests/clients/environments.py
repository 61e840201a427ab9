"""Separate environments for third-party clients, made on first use.

A client's pins list every package of its environment with version and hashes. The environment
is kept outside the checkout, under the hash of its pins and of its interpreter, so that all
checkouts share it and a changed pin makes a new one. ``.made`` is written last: an environment
without it is incomplete, and is made again. A process that makes one holds a lock.

``python -m tests.clients.environments`` makes them all, and prints their locations.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
STEP_TIMEOUT_S = 100  # for venv, pip and npm each


class CannotMake(Exception):
    """An environment could not be made; the text names it, the reason, and a remedy."""


@dataclass(frozen=True)
class Environment:
    """One client, and the interpreter of its driver.

    Attributes:
        client: its name, for example ``"copra"``.
        pins: every package of the environment with its version.
        driver: the program that uses the client.
        identity: of the interpreter, ``"/usr 3.11"``: each has an environment of its own.
        make: fills an empty folder.
        interpreter: the command that runs the driver, for a folder.
    """

    client: str
    pins: Path
    driver: Path
    identity: Callable[[], str]
    make: Callable[[Path, Path], None]
    interpreter: Callable[[Path], list[str]]

    def folder(self) -> Path:
        """Return the location of the environment, which may not exist yet."""
        identity = self.pins.read_bytes() + self.identity().encode()
        return cache() / f"{self.client}-{hashlib.sha256(identity).hexdigest()[:16]}"

    def command(self) -> list[str]:
        """Return the command that runs the driver; make the environment first if necessary.

        Raises:
            CannotMake: a program or the network is missing.
        """
        folder = self.folder()
        if not (folder / ".made").exists():
            with _lock(folder.with_suffix(".lock")):
                if not (folder / ".made").exists():
                    self._make(folder)
        return [*self.interpreter(folder), str(self.driver)]

    def _make(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            self.make(folder, self.pins)
        except CannotMake as error:
            raise CannotMake(f"no environment for {self.client}: {error}") from None
        (folder / ".made").touch()


def cache() -> Path:
    """Return the folder of all environments."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "hedgehogd" / "clients"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock ``path``; the kernel releases it with the file, also after a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(folder: Path, *command: str) -> str:
    """Run one step in ``folder``; return its output."""
    step = " ".join(Path(word).name for word in command[:4])
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise CannotMake(f"there is no {command[0]} here; install it") from None
    except subprocess.TimeoutExpired:
        raise CannotMake(f"`{step}` took over {STEP_TIMEOUT_S} s; is there a network?") from None
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-5:])
        raise CannotMake(f"`{step}` failed; is there a network? Its output:\n{last}")
    return done.stdout


def _python_identity() -> str:
    return f"{sys.base_prefix} {sys.version_info[0]}.{sys.version_info[1]}"


def _make_venv(folder: Path, pins: Path) -> None:
    """Make a venv. The pins are complete, so pip does not resolve dependencies:

    cbpro requires versions of 2017 that no current Python can build.
    """
    _run(folder, sys.executable, "-m", "venv", str(folder))
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    only = ("--no-deps", "--only-binary", ":all:", "--require-hashes")  # no package is built
    pip = (str(folder / "bin/python"), "-m", "pip", "install")
    _run(folder, *pip, *quiet, *only, "-r", str(pins))


def _venv_python(folder: Path) -> list[str]:
    return [str(folder / "bin/python"), "-I"]


def _node_lock() -> Path:
    return HERE / "pins/coinbase-pro-lock.json"


def _node_identity() -> str:
    # No package is compiled, so any version can run it.
    return f"node {hashlib.sha256(_node_lock().read_bytes()).hexdigest()}"


def _make_node_folder(folder: Path, pins: Path) -> None:
    shutil.copy(pins, folder / "package.json")
    shutil.copy(_node_lock(), folder / "package-lock.json")  # with the hash of each package
    _run(folder, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")


def _node(folder: Path) -> list[str]:
    # The driver is outside the folder: NODE_PATH names the location of its client.
    return ["env", f"NODE_PATH={folder / 'node_modules'}", "node"]


def _of_python(client: str) -> Environment:
    pins, driver = HERE / f"pins/{client}.txt", HERE / f"drivers/drive_{client}.py"
    return Environment(client, pins, driver, _python_identity, _make_venv, _venv_python)


CBPRO = _of_python("cbpro")
COPRA = _of_python("copra")
COINBASE_PRO = Environment(
    "coinbase-pro",
    HERE / "pins/coinbase-pro.json",
    HERE / "drivers/drive_coinbase_pro.js",
    _node_identity,
    _make_node_folder,
    _node,
)
ENVIRONMENTS = (CBPRO, COPRA, COINBASE_PRO)


def main() -> None:
    """Make all environments."""
    for environment in ENVIRONMENTS:
        try:
            environment.command()
        except CannotMake as error:
            sys.exit(str(error))
        sys.stdout.write(f"{environment.client}: {environment.folder()}\n")


if __name__ == "__main__":
    main()
