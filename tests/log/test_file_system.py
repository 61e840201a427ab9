"""Remote file systems are recognised by the kernel's list of mounts."""

import os

import pytest

from hedgehogd.log import file_system
from hedgehogd.log.file_system import remote_file_system

MOUNTS = """\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 21 0:35 / /run/user rw,nosuid shared:20 master:3 - tmpfs tmpfs rw,size=24k
41 21 0:52 /export /srv/x\\040y rw - nfs4 server:/export rw,vers=4.2
42 21 0:53 / /srv/s rw - fuse.sshfs host:/ rw
damaged line
"""


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ((254, 0), None),
        ((0, 35), None),
        ((0, 52), "nfs4"),
        ((0, 53), "fuse.sshfs"),
        ((9, 9), None),
    ],
)
def test_a_remote_file_system_is_recognised(device, expected, tmp_path, monkeypatch):
    """Memory and locks of another machine are not ours."""
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS)
    monkeypatch.setattr(file_system, "MOUNTS", path)

    assert expected == remote_file_system(os.makedev(*device))


def test_without_a_list_of_mounts_every_file_system_is_local(tmp_path, monkeypatch):
    """A container without /proc still starts."""
    monkeypatch.setattr(file_system, "MOUNTS", tmp_path / "none")

    assert remote_file_system(os.makedev(0, 52)) is None


def test_this_machine_is_read(tmp_path):
    """The real list has the form that the table shows."""
    assert remote_file_system(tmp_path.stat().st_dev) is None
