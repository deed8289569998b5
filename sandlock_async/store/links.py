"""Memory files shared by two images: nothing is copied that need not be.

Only files that are ours alone (0600, our own): nobody ever writes to a committed file,
and nobody else can. Where a hard link will not do, a reflink may.
"""

import errno
import fcntl
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from sandlock_async.image.file_segment import FileSegment
from sandlock_async.image.files import ImageFiles
from sandlock_async.image.manifest import Entry
from sandlock_async.image.sums import sum_of_file
from sandlock_async.model import MemorySegment

FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h

_UNABLE = (
    errno.EXDEV,
    errno.EPERM,
    errno.EMLINK,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.ENOTTY,
    errno.ENOENT,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What has been shared, and what is left.

    :ivar files: without the memory files that are there already
    :ivar linked_bytes: length of those
    :ivar entries: size and sum of those, by name
    """

    files: ImageFiles
    entries: dict[str, Entry]
    linked_bytes: int


def share_segments(files: ImageFiles, stage: Path, *, durable: bool) -> Shared:
    """Put memory files of another image into *stage* without copying. Blocks.

    :param durable: fsync them: whoever wrote them may not have
    """
    left: list[tuple[str, MemorySegment]] = []
    linked_bytes = 0
    entries: dict[str, Entry] = {}
    for name, segment in files.segments:
        data = segment.data
        if isinstance(data, FileSegment) and not data.is_encrypted:
            with data.opened() as fd:
                data.check_length(fd)
                if _share(fd, stage / name, durable=durable):
                    linked_bytes += len(data)
                    entries[name] = Entry(
                        name=name,
                        size=len(data),
                        blake3=data.known_sum()
                        or sum_of_file(fd, len(data), data.ranges()),
                    )
                    continue
        left.append((name, segment))
    return Shared(
        files=replace(files, segments=tuple(left)),
        linked_bytes=linked_bytes,
        entries=entries,
    )


def _share(fd: int, path: Path, *, durable: bool) -> bool:
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o600:
        return _clone(fd, path, durable=durable)
    try:
        # The file that is open, whatever its name means by now: linkat(2). Python
        # follows the link of procfs only if given a directory, which is not used.
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        return _clone(fd, path, durable=durable)
    if durable:
        os.fsync(fd)
    return True


def _clone(fd: int, path: Path, *, durable: bool) -> bool:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    copy = os.open(path, flags, 0o600)
    try:
        fcntl.ioctl(copy, FICLONE, fd)
        os.fchmod(copy, 0o600)  # whatever the umask
        if durable:
            os.fsync(copy)
    except OSError as error:
        path.unlink()
        if error.errno not in _UNABLE:
            raise
        return False
    finally:
        os.close(copy)
    return True
