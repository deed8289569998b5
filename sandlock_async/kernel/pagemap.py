"""Which pages of a process exist: ``PAGEMAP_SCAN``, or ``/proc/PID/pagemap`` itself.

https://docs.kernel.org/admin-guide/mm/pagemap.html, ``linux/fs.h``.
"""

import ctypes
import errno
import mmap
import os
from array import array
from collections.abc import Callable, Iterable
from enum import IntFlag
from types import TracebackType
from typing import NamedTuple, Self

from sandlock_async.kernel.files import close_fd, open_fd
from sandlock_async.kernel.libc import check, libc, pylibc

PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)

_VEC_LEN = 512


class PageIs(IntFlag):
    """``PAGE_IS_*`` categories of ``linux/fs.h``."""

    FILE = 4
    PRESENT = 8
    SWAPPED = 16
    GUARD = 256  # Linux 6.15


# Made once: an enumeration takes its time.
_WANTED = int(PageIs.PRESENT | PageIs.SWAPPED)
_TOLD = int(PageIs.FILE | PageIs.GUARD)


class pm_scan_arg(ctypes.Structure):
    """``struct pm_scan_arg`` of ``linux/fs.h``, 96 bytes."""

    _fields_ = [
        ("size", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("walk_end", ctypes.c_uint64),
        ("vec", ctypes.c_uint64),
        ("vec_len", ctypes.c_uint64),
        ("max_pages", ctypes.c_uint64),
        ("category_inverted", ctypes.c_uint64),
        ("category_mask", ctypes.c_uint64),
        ("category_anyof_mask", ctypes.c_uint64),
        ("return_mask", ctypes.c_uint64),
    ]


_ARGTYPES = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
_Ioctl = Callable[[int, int, int], int]

_ioctl = libc["ioctl"]
_ioctl.argtypes = _ARGTYPES
_ioctl.restype = ctypes.c_int

_ioctl_holding_gil = pylibc["ioctl"]
_ioctl_holding_gil.argtypes = _ARGTYPES
_ioctl_holding_gil.restype = ctypes.c_int


class Pagemap:
    """``/proc/PID/pagemap``, open. Finds the pages that hold something.

    Bound to the memory that the process has now: an execve(2) gives it another.

    :param scan: try ``PAGEMAP_SCAN`` (Linux 6.7) first
    :raises OSError: if the file cannot be opened
    """

    def __init__(self, pid: int, *, scan: bool = True) -> None:
        self._fd = open_fd(f"/proc/{pid}/pagemap")
        self._scan = scan
        # Three words a range: start, end, categories (struct page_region). One
        # for all scans: to clear it anew takes longer than a small scan.
        self._vec = array("Q", bytes(24 * _VEC_LEN))
        self._arg = pm_scan_arg(
            size=ctypes.sizeof(pm_scan_arg),
            vec=self._vec.buffer_info()[0],
            vec_len=_VEC_LEN,
            category_anyof_mask=_WANTED,
            return_mask=_TOLD,
        )
        self._arg_address = ctypes.addressof(self._arg)

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close_fd(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def scans(self) -> bool:
        """Whether ``PAGEMAP_SCAN`` works, as far as it has been tried."""
        return self._scan

    def scan(
        self, spans: Iterable[tuple[int, int]], *, hold_gil: bool = False
    ) -> "PageRanges":
        """Return what is present or swapped out of ascending address ranges.

        :param hold_gil: keep the GIL; for up to about 64 MiB of pages that are there
            (0.3 ms), however far apart they lie
        :raises OSError: ``ESRCH`` if the process is gone
        """
        found = PageRanges([], [], [], [])
        for start, end in spans:
            call = _ioctl_holding_gil if hold_gil else _ioctl
            if not self._scan or not self._try_scan(call, start, end, found):
                self._scan_entries(start, end, found, markers=True)
        return found

    def _try_scan(
        self, call: _Ioctl, start: int, end: int, found: "PageRanges"
    ) -> bool:
        while self._scan:
            try:
                self._scan_fast(call, start, end, found)
            except OSError as error:
                # ENOTTY: a kernel before 6.7; EINVAL: one that lacks a category.
                if error.errno not in (errno.ENOTTY, errno.EINVAL):
                    raise
                if self._arg.return_mask & PageIs.GUARD:
                    self._arg.return_mask = PageIs.FILE
                else:
                    self._scan = False
            else:
                return True
        return False

    def scan_without_markers(self, start: int, end: int) -> "PageRanges":
        """Return the same of one range, entry by entry, less what has no page.

        A write-protection marker of a userfaultfd (``UFFD_FEATURE_WP_UNPOPULATED``)
        looks like a swapped page; to read it is a fault that its handler may get.
        """
        found = PageRanges([], [], [], [])
        self._scan_entries(start, end, found, markers=False)
        return found

    def _scan_fast(
        self, call: _Ioctl, start: int, end: int, found: "PageRanges"
    ) -> None:
        arg, vec = self._arg, self._vec
        arg.start, arg.end = start, end
        while start < end:
            count = check(
                call(self._fd, PAGEMAP_SCAN, self._arg_address), "ioctl", "PAGEMAP_SCAN"
            )
            regions = vec[: 3 * count]
            categories = regions[2::3]
            if max(categories, default=0) >= PageIs.GUARD:
                for at, category in enumerate(categories):
                    low, high = regions[3 * at], regions[3 * at + 1]
                    if category & PageIs.GUARD:
                        found.guards.append((low, high))
                    else:
                        found.add(low, high, own=not category & PageIs.FILE)
            else:
                found.starts.extend(regions[0::3])
                found.ends.extend(regions[1::3])
                found.owned.extend([not is_file for is_file in categories])
            start = arg.start = arg.walk_end

    def _scan_entries(
        self, start: int, end: int, found: "PageRanges", *, markers: bool
    ) -> None:
        page = mmap.PAGESIZE
        position = start
        while position < end:
            # One u64 a page; bit 63 present, 62 swapped, 61 of a file, 58 a guard, 57
            # write-protected by a userfaultfd.
            pages = min((end - position) // page, 1 << 16)
            entries = array("Q", os.pread(self._fd, 8 * pages, position // page * 8))
            if not entries:
                break
            for index, entry in enumerate(entries):
                address = position + index * page
                if entry >> 58 & 1:
                    found.guards.append((address, address + page))
                elif entry >> 62 and (markers or entry >> 63 or not entry >> 57 & 1):
                    found.add(address, address + page, own=not entry >> 61 & 1)
            position += len(entries) * page


class PageRanges(NamedTuple):
    """Ranges of pages, ascending: where each begins and ends, and whose it is.

    Plain lists: a fragmented process has a hundred thousand, too many for objects.

    :ivar owned: whether they are the process's own pages; else they are of a file, or
        of shared memory
    :ivar guards: ranges where nothing can be, MADV_GUARD_INSTALL
    """

    starts: list[int]
    ends: list[int]
    owned: list[bool]
    guards: list[tuple[int, int]]

    def add(self, start: int, end: int, *, own: bool) -> None:
        """Add a range behind the others, joined with the last if it can be."""
        if self.ends and self.ends[-1] == start and self.owned[-1] is own:
            self.ends[-1] = end
        else:
            self.starts.append(start)
            self.ends.append(end)
            self.owned.append(own)
