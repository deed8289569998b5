"""Shared memory without a name: anonymous, memfd_create(2), SysV, deleted files.

A page table shows which of its pages this process has touched, not which there are:
another process, or write(2), may have filled the rest. So its file is opened, and
asked for its data. Only one that is in memory: a disk could keep us waiting.
"""

import mmap
import os
from collections.abc import Iterable, Sequence

from sandlock_async.kernel import files
from sandlock_async.model import Skipped
from sandlock_async.procfs.maps import Mapping
from sandlock_async.selection import Wanted
from sandlock_async.snapshot.facts import RawFd

_IN_MEMORY = (0x01021994, 0x958458F6)  # TMPFS_MAGIC, HUGETLBFS_MAGIC, linux/magic.h

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY


class SharedMemory:
    """The files of a process's shared memory, open. Close it when they are read.

    :ivar fds: descriptors of ours, by the start address of the mapping
    :ivar data: flat address ranges that hold data, by the start address
    :ivar skipped: pages that no file is behind
    """

    def __init__(self) -> None:
        self.fds: dict[int, int] = {}
        self.data: dict[int, list[int]] = {}
        self.skipped: list[Skipped] = []

    def open(self, pid: int, shared: Iterable[Wanted], fds: Sequence[RawFd]) -> None:
        """Open the file of every shared mapping that has one only in memory.

        Call while the process is frozen. What cannot be opened is left out: it needs
        CAP_CHECKPOINT_RESTORE, or a descriptor of the process for the same file.

        :param fds: the descriptors of the process
        """
        for mapping in (found.mapping for found in shared):
            fd = _open(pid, mapping, fds)
            if fd is None:
                continue
            this = mapping.map
            self.fds[this.start] = fd  # from now on it is closed with the others
            shift = this.start - this.offset
            # The last page of a file is there whole, whatever the file's size.
            size = _page_up(os.fstat(fd).st_size)
            end = min(this.offset + this.size, max(size, this.offset))
            found = files.data_ranges(fd, this.offset, end)
            self.data[this.start] = [_page_up(edge) + shift for edge in found]
            if end + shift < this.end:
                reason = "past the end of the mapped file"
                self.skipped.append(
                    Skipped(
                        start=end + shift, end=this.end, path=this.path, reason=reason
                    )
                )

    def close(self) -> None:
        """Close the files; closing twice does nothing."""
        while self.fds:
            files.let_go(self.fds.popitem()[1])


def _page_up(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _open(pid: int, mapping: Mapping, fds: Sequence[RawFd]) -> int | None:
    this = mapping.map
    # proc(5): /proc/PID/map_files needs CAP_CHECKPOINT_RESTORE, /proc/PID/fd does not.
    places = [f"/proc/{pid}/map_files/{this.start:x}-{this.end:x}"]
    places += [
        f"/proc/{pid}/fd/{raw.fd}"
        for raw in fds
        if raw.link == mapping.raw_path and raw.link.startswith(b"/")
    ]
    for place in places:
        try:
            fd = files.open_fd(place, _FLAGS)
        except OSError:
            continue
        if _is_behind(fd, mapping):
            return fd
        files.let_go(fd)
    return None


def _is_behind(fd: int, mapping: Mapping) -> bool:
    """Whether an open file is what is mapped, and only in memory."""
    try:
        same = os.fstat(fd).st_ino == mapping.inode
        return same and files.file_system(fd) in _IN_MEMORY
    except OSError:
        return False
