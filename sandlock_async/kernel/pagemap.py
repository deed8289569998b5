"""Which pages of a process exist: ``PAGEMAP_SCAN``, or ``/proc/PID/pagemap`` itself.

https://docs.kernel.org/admin-guide/mm/pagemap.html, ``linux/fs.h``.
"""

import ctypes
import errno
import mmap
import os
from array import array
from enum import IntFlag
from types import TracebackType
from typing import Self

from sandlock_async.kernel.files import open_fd
from sandlock_async.kernel.libc import check, libc, pylibc

PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)

_VEC_LEN = 512
_SMALL_BYTES = 64 << 20  # about 0.3 ms of page-table walk


class PageIs(IntFlag):
    """``PAGE_IS_*`` categories of ``linux/fs.h``."""

    FILE = 4
    PRESENT = 8
    SWAPPED = 16


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
            category_anyof_mask=PageIs.PRESENT | PageIs.SWAPPED,
        )
        self._arg_address = ctypes.addressof(self._arg)

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def populated(self, start: int, end: int) -> list[int]:
        """Return the ranges of ``[start, end)`` that are present or swapped out.

        Flat, ``[start, end, start, end, …]``, ascending, adjacent ones joined: a
        fragmented mapping has a hundred thousand, too many for objects.
        """
        if self._scan:
            try:
                return self._populated_by_scan(start, end)
            except OSError as error:
                # ENOTTY: a kernel before 6.7; EINVAL: one that lacks a category.
                if error.errno not in (errno.ENOTTY, errno.EINVAL):
                    raise
                self._scan = False
        return self._populated_by_entries(start, end)

    def _populated_by_scan(self, start: int, end: int) -> list[int]:
        call = _ioctl_holding_gil if end - start <= _SMALL_BYTES else _ioctl
        arg, vec = self._arg, self._vec
        arg.start, arg.end = start, end
        ranges: list[int] = []
        while start < end:
            count = check(
                call(self._fd, PAGEMAP_SCAN, self._arg_address), "ioctl(PAGEMAP_SCAN)"
            )
            if count == 1 and not ranges and arg.walk_end == end:
                return [vec[0], vec[1]]  # most often
            found = vec[: 3 * count]
            pairs = [0] * (2 * count)
            pairs[0::2] = found[0::3]
            pairs[1::2] = found[1::3]
            if ranges and pairs and ranges[-1] == pairs[0]:
                ranges[-1] = pairs[1]
                del pairs[:2]
            ranges += pairs
            start = arg.start = arg.walk_end
        return ranges

    def _populated_by_entries(self, start: int, end: int) -> list[int]:
        page = mmap.PAGESIZE
        ranges: list[int] = []
        position = start
        while position < end:
            # One u64 a page; bit 63 present, bit 62 swapped.
            pages = min((end - position) // page, 1 << 16)
            entries = array("Q", os.pread(self._fd, 8 * pages, position // page * 8))
            if not entries:
                break
            for index, entry in enumerate(entries):
                if entry >> 62:
                    address = position + index * page
                    if ranges and ranges[-1] == address:
                        ranges[-1] = address + page
                    else:
                        ranges += (address, address + page)
            position += len(entries) * page
        return ranges
