"""Pages that the target had mapped from a file but never touched.

They are the file's content, so they are read from the file, after the thaw. Only
from a regular file that is still the mapped one.
"""

import os
import stat

from sandlock_async.procfs.maps import Mapping

# Private mappings of these are anonymous memory with a name.
_ZEROS = (b"/dev/zero", b"/anon_hugepage")

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def open_mapped_file(pid: int, root_fd: int, mapping: Mapping) -> int | str | None:
    """Return a descriptor of the mapping's file; why there is none; None for zeros.

    :param root_fd: ``/proc/PID/root``; the paths of maps are below it
    """
    if mapping.raw_path.startswith(_ZEROS):
        return None
    this = mapping.map
    exact = True
    try:
        # The very file, deleted ones too; needs CAP_CHECKPOINT_RESTORE, proc(5).
        fd = os.open(f"/proc/{pid}/map_files/{this.start:x}-{this.end:x}", _FLAGS)
    except OSError:
        exact = False
        try:
            fd = os.open(mapping.raw_path.lstrip(b"/"), _FLAGS, dir_fd=root_fd)
        except OSError as error:
            return f"untouched pages of a file that cannot be opened: {error.strerror}"
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        return "untouched pages of something that is not a regular file"
    if not exact and not _is_same(found, mapping):
        os.close(fd)
        return "untouched pages of a file that has been replaced since"
    return fd


def _is_same(found: os.stat_result, mapping: Mapping) -> bool:
    # btrfs and overlayfs show another device in maps than in stat(2). Root insists
    # on it all the same: inode numbers alone can be forged, by a FUSE server.
    same_device = found.st_dev == os.makedev(*mapping.device)
    return found.st_ino == mapping.inode and (same_device or os.geteuid() != 0)
