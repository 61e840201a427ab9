"""The errors of the archive; nothing else leaves it.

ArchiveError
├── ArchiveFull        the disk is full
├── ArchiveLocked      another process writes
├── ArchiveReplaced    its directory was deleted, moved or replaced while it was open
├── ForeignArchive     it belongs to another deployment
├── NewerFormat        a newer version of hedgehogd wrote it
└── DamagedArchive     bytes that hedgehogd did not write
"""


class ArchiveError(Exception):
    """The archive cannot be used now: no space, read-only, absent. The text says why."""


class ArchiveFull(ArchiveError):
    """The file system has no space, or the quota is used up."""


class ArchiveLocked(ArchiveError):
    """Another process writes this archive."""


class ArchiveReplaced(ArchiveError):
    """The archive was deleted, moved or replaced while it was open; it must be opened again."""


class ForeignArchive(ArchiveError):
    """The archive belongs to another deployment, or the directory holds other files."""


class NewerFormat(ArchiveError):
    """A newer version of hedgehogd wrote the archive."""


class DamagedArchive(ArchiveError):
    """Bytes that hedgehogd did not write. They are never repaired."""
