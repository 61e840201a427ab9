"""A control group for one machine.

systemd-nspawn puts a machine's processes into the group ``payload`` below its own. Two
machines started from the same group would share it, and each one's systemd would kill the
processes that it does not know: those of the other machine.
"""

import os
import time
from pathlib import Path

REMOVE_S = 5.0


class ControlGroup:
    """A group of its own in each hierarchy that systemd uses.

    Attributes:
        folders: its folder, or two where systemd has the hybrid layout.
    """

    def __init__(self, name: str) -> None:
        self.folders = [parent / name for parent in _own_groups()]
        for folder in self.folders:
            folder.mkdir()

    def enter(self) -> None:
        """Put this process into it; a child calls it before exec."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        """Remove it with all groups below, once their processes are gone.

        Raises:
            OSError: a process is still in it after ``REMOVE_S``.
        """
        deadline = time.monotonic() + REMOVE_S
        for folder in self.folders:
            while folder.exists():
                try:
                    for inner, _, _ in os.walk(folder, topdown=False):
                        Path(inner).rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)


def _own_groups() -> list[Path]:
    """Return the folders of this process' groups."""
    mounts = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split()[:3]
        inside, point = before.split()[3:5]
        if kind == "cgroup2":
            mounts[""] = (inside, point)
        elif kind == "cgroup" and "name=systemd" in options.split(","):
            mounts["name=systemd"] = (inside, point)
    groups = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, hierarchy, path = line.split(":", 2)
        if hierarchy in mounts:
            inside, point = mounts[hierarchy]
            groups.append(Path(point) / os.path.relpath(path, inside))
    return groups
