"""A Debian 12 root, made once and kept under the hash of its inputs.

Machines boot throw-away copies of it, so it never changes. ``.made`` is written last, beside
the root: a root without it is incomplete, and is made again. The process that makes a root
holds a lock.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

SUITE = "bookworm"
PACKAGES = ("curl", "dbus", "haproxy", "procps", "systemd", "systemd-sysv")
REVISION = 1  # of _finish: increase it with each change there, so that all roots are made again
MAKE_TIMEOUT_S = 600


class CannotMake(Exception):
    """The root could not be made; the text states the reason."""


def debian_root() -> Path:
    """Return the root; make it first if it is missing.

    Raises:
        CannotMake: debootstrap failed.
    """
    identity = f"{SUITE} {' '.join(PACKAGES)} {REVISION}"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(home) / "hedgehogd" / "roots"
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / f"{SUITE}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    made = root.with_suffix(".made")
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(root, ignore_errors=True)
            _make(root)
            made.touch()
    return root


def _make(root: Path) -> None:
    options = ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
    # debootstrap killed alone would leave an orphaned apt, so it gets a process group.
    process = subprocess.Popen(
        ["debootstrap", *options, SUITE, str(root)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        words, _ = process.communicate(timeout=MAKE_TIMEOUT_S)
    except BaseException:
        os.killpg(process.pid, 9)
        process.wait()
        raise
    if process.returncode:
        tail = "\n".join(words.splitlines()[-20:])
        raise CannotMake(f"debootstrap could not make {root}:\n{tail}")
    _finish(root)


def _finish(root: Path) -> None:
    """Make it a machine that boots to "running" without a network.

    With an empty machine-id systemd makes one at every boot. A missing one means a first boot,
    which enables systemd-networkd, and network-online.target then waits two minutes for it.
    """
    (root / "etc/machine-id").write_text("")
    (root / "etc/hostname").write_text("hedgehog\n")
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
