"""Directories of the log, and the file systems that a window cannot be on: remote ones."""

import os
from pathlib import Path

DIRECTORY_MODE = 0o750  # only user and group may know the recorded topics
MOUNTS = Path("/proc/self/mountinfo")
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "ncpfs", "gfs2",
    "ocfs2", "lustre", "beegfs", "glusterfs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs",
    "fuse.ceph", "fuse.rclone"})  # fmt: skip


def remote_file_system(device: int) -> str | None:
    """Return the type of the file system on ``device`` if it is remote, for example ``nfs4``.

    None for a local one, and if the kernel's list of mounts cannot be read.
    """
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        mount, _, file_system = line.partition(" - ")
        fields = mount.split()
        if len(fields) > 2 and fields[2] == wanted and file_system.split(" ")[0] in _REMOTE:
            return file_system.split(" ")[0]
    return None


def make_directory(path: Path) -> None:
    """Create a directory, and those above it, for user and group under any umask.

    A directory that exists keeps its mode.

    Raises:
        OSError: it cannot be created.
    """
    for each in reversed((path, *path.parents)):
        if not each.is_dir():
            each.mkdir(exist_ok=True)
            each.chmod(DIRECTORY_MODE)  # mkdir applies the umask
