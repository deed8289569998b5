"""Memory of our own that a capture copies into, without stalling other threads."""

import ctypes
import errno
import mmap

from sandlock_async.kernel.libc import check, libc

MADV_DONTNEED = 4
MADV_HUGEPAGE = 14
MADV_POPULATE_WRITE = 23  # Linux 5.14

_HUGE_PAGE_BYTES = 2 << 20
_ORDINARY_BYTES = 256 << 10
"""So much is faulted in sooner page by page; more of it in whole huge pages."""

_madvise = libc["madvise"]
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_madvise.restype = ctypes.c_int


def address_of(view: memoryview) -> int:
    """Return where the bytes of a writable view lie; they stay there as long as it."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view)) if len(view) else 0


class Arena:
    """Anonymous memory, faulted in beforehand, so that no copy waits for a page fault.

    Faulting in and giving back let the GIL go: 256 MiB take 100 ms.

    :param size: bytes; rounded up to pages
    :param ready: how many of them to fault in; what is behind them is when it is used
    :raises OSError: ``ENOMEM``
    """

    def __init__(self, size: int, ready: int) -> None:
        self.size: int = max(-(-size // mmap.PAGESIZE), 1) * mmap.PAGESIZE
        self._map = mmap.mmap(-1, self.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(self._map)
        self.address: int = ctypes.addressof(self._anchor)
        page = mmap.PAGESIZE
        if ready > _ORDINARY_BYTES:
            page = _HUGE_PAGE_BYTES
            self._advise(MADV_HUGEPAGE, self.size)
        self._advise(MADV_POPULATE_WRITE, min(-(-ready // page) * page, self.size))

    @property
    def view(self) -> memoryview:
        """The arena's bytes. Release every view before :meth:`close`."""
        return memoryview(self._map)

    def trim(self, used: int) -> None:
        """Give the pages behind the first *used* bytes back."""
        start = -(-used // mmap.PAGESIZE) * mmap.PAGESIZE
        if start < self.size:
            _madvise(self.address + start, self.size - start, MADV_DONTNEED)

    def close(self) -> None:
        """Give the memory back; closing twice does nothing."""
        if self._anchor is not None:
            # First the pages, with the GIL let go; then munmap is cheap.
            _madvise(self.address, self.size, MADV_DONTNEED)
            self._anchor = None
            try:
                self._map.close()
            except BufferError:
                # Somebody still looks at a slice; the last one to go unmaps it.
                pass

    def _advise(self, advice: int, size: int) -> None:
        result = _madvise(self.address, size, advice)
        # EINVAL: the kernel does not know the advice; then the copy faults in.
        if result == -1 and ctypes.get_errno() != errno.EINVAL:
            check(result, "madvise", size)
