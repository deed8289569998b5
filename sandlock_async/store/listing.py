"""Which checkpoints a folder holds."""

import os
from dataclasses import dataclass
from pathlib import Path

from sandlock_async.errors import CheckpointNotFoundError
from sandlock_async.image import layout


def find_checkpoints(store: Path) -> list[str]:
    """Return the names of the directories in *store* that hold a ``meta.json``.

    Stages and other names that begin with a dot are none. Sorted.

    :raises CheckpointNotFoundError: if *store* is no directory
    """
    try:
        with os.scandir(store) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and entry.is_dir()
                and os.path.lexists(os.path.join(entry.path, layout.META))
            )
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointNotFoundError(store) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the files of a checkpoint take.

    :ivar total_bytes: their lengths together
    :ivar disk_bytes: what they occupy; less, where there are holes
    """

    total_bytes: int
    disk_bytes: int


def measure(path: Path) -> Sizes:
    """Return the sizes of the checkpoint at *path*; follows no symbolic link."""
    total = disk = 0
    for folder, _, names, fd in os.fwalk(path, follow_symlinks=False):
        del folder
        for name in names:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            total += found.st_size
            disk += 512 * found.st_blocks
    return Sizes(total_bytes=total, disk_bytes=disk)
