"""Disks small enough to fill: real ones, a tmpfs each."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A disk of its own.

    Attributes:
        path: its mount point.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, but: int = 0) -> None:
        """Fill the disk except for ``but`` bytes."""
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                file.truncate(max(0, file.tell() - but))

    def clear(self) -> None:
        """Remove the file that fills it."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(path: Path, size_kib: int = 256) -> Iterator[SmallDisk]:
    """Mount a disk of ``size_kib`` at ``path``; skip the test without permission to mount."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", path]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", path], check=True)
