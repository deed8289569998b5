"""``renameat2(2)``: rename that never replaces, and rename that swaps."""

import ctypes
import os
from enum import IntFlag
from pathlib import Path

from sandlock_async.kernel.libc import check, libc

AT_FDCWD = -100


class Rename(IntFlag):
    """``RENAME_*`` of ``linux/fs.h``."""

    NOREPLACE = 1
    EXCHANGE = 2


_renameat2 = libc["renameat2"]
_renameat2.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
)
_renameat2.restype = ctypes.c_int


def renameat2(old: Path, new: Path, flags: Rename) -> None:
    """Rename *old* to *new* in one atomic step.

    :raises OSError: ``EEXIST`` (NOREPLACE), ``ENOENT`` (EXCHANGE), ``EINVAL`` or
        ``EXDEV`` where the file system cannot
    """
    check(
        _renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags),
        "renameat2",
        old,
        new,
    )
