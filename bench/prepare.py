"""Building the parts of the benchmarks: C helpers, a venv of peers, Node's ws, nginx with Nchan.

Everything goes to ``bench/build/``, which git ignores. nginx is unpacked there from Debian's
packages, not installed: no service starts, and the system does not change. An unavailable peer
is remembered with the reason, and named in the tables.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rig import BENCH, BUILD, BenchError, needs

if TYPE_CHECKING:
    from collections.abc import Callable

PYTHON_PEERS = ("picows", "websockets", "uvloop", "socketify", "sortedcontainers")
PEER_PYTHON = BUILD / "venv" / "bin" / "python"
NODE = BUILD / "node"
NGINX = BUILD / "nginx"

_missing: dict[str, str] = {}


def _run(*command: str | Path, cwd: Path = BUILD, timeout_s: float = 300) -> str:
    """Run a command; raise BenchError with the end of its output if it fails."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{Path(command[0]).name}: {error}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise BenchError(f"{Path(command[0]).name} failed: {said[-300:]}")
    return done.stdout


def build_c(name: str, *sources: str) -> Path:
    """Compile a C helper if it is older than its sources; return its path."""
    program = BUILD / name
    paths = [BENCH / source for source in sources]
    newest = max(path.stat().st_mtime for path in [*paths, *BENCH.glob("*.h")])
    if not program.exists() or program.stat().st_mtime < newest:
        needs("gcc")
        BUILD.mkdir(exist_ok=True)
        code = [path for path in paths if path.suffix == ".c"]
        _run("gcc", "-O2", "-Wall", "-Wextra", "-o", program, *code)
    return program


def python_peers() -> None:
    """Make the venv that holds the Python peers, if a package of it is missing."""
    folder = BUILD / "venv" / "lib"
    found = {path.name for path in folder.glob("python*/site-packages/*")}
    if set(PYTHON_PEERS) <= found:
        return
    _run(sys.executable, "-m", "venv", BUILD / "venv")
    _run(PEER_PYTHON, "-m", "pip", "install", "-q", *PYTHON_PEERS)


def node_ws() -> None:
    """Install Node's ws, if it is missing."""
    if (NODE / "node_modules" / "ws").is_dir():
        return
    needs("node", "npm")
    NODE.mkdir(parents=True, exist_ok=True)
    _run("npm", "install", "--silent", "--no-audit", "--no-fund", "--no-save", "ws", cwd=NODE)


def nginx_nchan() -> None:
    """Unpack nginx and its Nchan module from Debian's packages, if they are missing."""
    if (NGINX / "usr/sbin/nginx").exists() and nchan_module().exists():
        return
    needs("apt-get", "dpkg")
    folder = BUILD / "deb"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = ("nginx", "libnginx-mod-nchan")
    try:
        _run("apt-get", "download", *wanted, cwd=folder)
    except BenchError:
        _run("apt-get", "update")
        _run("apt-get", "download", *wanted, cwd=folder)
    for package in folder.glob("*.deb"):
        _run("dpkg", "-x", package, NGINX)


def nchan_module() -> Path:
    """Return where the Nchan module is unpacked."""
    return NGINX / "usr/lib/nginx/modules/ngx_nchan_module.so"


def everything() -> None:
    """Prepare all of it. C helpers must build; a missing peer is remembered."""
    BUILD.mkdir(exist_ok=True)
    build_c("receiver", "receiver.c", "receiver_frames.c", "receiver_acks.c")
    build_c("c_send_loop", "peers/c_send_loop.c")
    steps: dict[str, Callable[[], None]] = {
        "python": python_peers,
        "ws": node_ws,
        "nchan": nginx_nchan,
    }
    for what, step in steps.items():
        try:
            step()
        except BenchError as error:
            _missing[what] = str(error)


def why_missing(what: str) -> str | None:
    """Return why a group of peers (python, ws, nchan) is missing, or None."""
    return _missing.get(what)


def versions() -> dict[str, str]:
    """Return the versions of the available peers."""
    found = {}
    for path in sorted((BUILD / "venv" / "lib").glob("python*/site-packages/*.dist-info")):
        name, _, version = path.name.removesuffix(".dist-info").partition("-")
        if name in PYTHON_PEERS:
            found[name] = version
    package = NODE / "node_modules" / "ws" / "package.json"
    if package.exists():
        found["ws"] = json.loads(package.read_text())["version"]
    if shutil.which("node"):
        found["node"] = _run("node", "--version").strip()
    for path in sorted((BUILD / "deb").glob("*.deb")):
        name, version = path.name.split("_")[:2]
        found[name] = version.replace("%3a", ":")
    return found
