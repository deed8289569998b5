"""Copying ranges of another process's memory, and finding what cannot be read."""

import errno
import mmap
from array import array
from collections.abc import Iterator

from sandlock_async.clock import Deadline
from sandlock_async.errors import FreezeTimeoutError, ProcessGoneError
from sandlock_async.kernel import files, process_vm

GIL_HELD_BYTES = 1 << 20
"""A call of this size is over before anybody misses the GIL (about 0.1 ms)."""

_BRIEF_BYTES = 64 << 10
"""So little is read before the GIL could have been given up and had back."""

_CALL_BYTES = 128 << 20
"""A larger one lets it go; between two calls it is seen whether to give up."""


class Copier:
    """Reads the memory of one process, frozen or not.

    process_vm_readv(2) pins the pages. To pin one that the process shares with its parent
    or child since a fork(2), the kernel copies it first (gup_must_unshare(), mm/gup.c):
    that takes as much memory again, and more than twice the time. ``/proc/PID/mem`` does
    not, but is half as fast otherwise.

    :param shares_pages: whether much of it is shared in that way
    """

    def __init__(
        self, pid: int, deadline: Deadline, *, shares_pages: bool = False
    ) -> None:
        self._pid = pid
        self._deadline = deadline
        self._shares_pages = shares_pages

    def copy(
        self, ranges: list[int], address: int, *, hold_gil: bool
    ) -> list[tuple[int, int]]:
        """Copy flat *ranges*, packed, to our memory at *address*.

        :return: the ranges that could not be read; our memory there is as it was
        :raises ProcessGoneError: if the process ends
        """
        if self._shares_pages:
            return self.copy_forced(ranges, address, hold_gil=hold_gil)
        unreadable: list[tuple[int, int]] = []
        for batch, size in _batches(
            ranges, GIL_HELD_BYTES if hold_gil else _CALL_BYTES
        ):
            self._check_time()
            self._copy_batch(batch, size, address, unreadable, hold_gil=hold_gil)
            address += size
        return unreadable

    def copy_forced(
        self, ranges: list[int], address: int, *, hold_gil: bool = True
    ) -> list[tuple[int, int]]:
        """Copy flat *ranges*, packed, to *address*, whatever their permissions.

        :return: the ranges that could not be read
        """
        unreadable: list[tuple[int, int]] = []
        fd = files.open_fd(f"/proc/{self._pid}/mem")
        try:
            for start, end in zip(ranges[0::2], ranges[1::2], strict=True):
                self._copy_forced(
                    fd, start, end, address, unreadable, hold_gil=hold_gil
                )
                address += end - start
        finally:
            files.close_fd(fd)
        return unreadable

    def copy_shared(
        self, fd: int, shift: int, ranges: list[int], address: int
    ) -> list[tuple[int, int]]:
        """Copy flat *ranges*, packed, to *address*, from the file of shared memory.

        What is behind its end in its last page is had from the process's memory;
        what has been cut off meanwhile cannot be had any more.

        :param shift: offset in the file less the address
        :return: the ranges that could not be read
        """
        unreadable: list[tuple[int, int]] = []
        page = mmap.PAGESIZE
        for start, end in zip(ranges[0::2], ranges[1::2], strict=True):
            position = start
            while position < end:
                self._check_time()
                size = min(end - position, GIL_HELD_BYTES)
                at = address + position - start
                count = files.pread(fd, at, size, position + shift, hold_gil=True)
                if not count and position % page:
                    position -= position % page
                    ranges_of_page = [position, position + page]
                    at = address + position - start
                    unreadable += self.copy_forced(ranges_of_page, at)
                    count = page
                elif not count:
                    unreadable.append((position, end))
                    break
                position += count
            address += end - start
        return unreadable

    def _copy_forced(
        self,
        fd: int,
        start: int,
        end: int,
        address: int,
        unreadable: list[tuple[int, int]],
        *,
        hold_gil: bool,
    ) -> None:
        while start < end:
            self._check_time()
            size = min(end - start, GIL_HELD_BYTES)
            hold = hold_gil or size <= _BRIEF_BYTES
            try:
                count = files.pread(fd, address, size, start, hold_gil=hold)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                count = mmap.PAGESIZE
                unreadable.append((start, start + count))
            if not count:
                # The memory of a process that ended reads as empty.
                raise ProcessGoneError(self._pid, "snapshot")
            start += count
            address += count

    def _copy_batch(
        self,
        batch: "array[int]",
        size: int,
        address: int,
        unreadable: list[tuple[int, int]],
        *,
        hold_gil: bool,
    ) -> None:
        while size:
            try:
                count = process_vm.readv(self._pid, batch, address, hold_gil=hold_gil)
            except OSError as error:
                if error.errno == errno.ESRCH:
                    raise ProcessGoneError(self._pid, "snapshot") from None
                if error.errno != errno.EFAULT:
                    raise
                count = 0
            if count < size:
                # It stopped at a page that cannot be read: step over that one.
                bad = _advance(batch, count)
                unreadable.append((bad, bad + mmap.PAGESIZE))
                count += mmap.PAGESIZE
                _advance(batch, mmap.PAGESIZE)
            size -= count
            address += count

    def _check_time(self) -> None:
        self._deadline.check_aborted()
        if self._deadline.expired:
            raise copy_overdue(self._pid, self._deadline)


def copy_overdue(pid: int, deadline: Deadline) -> FreezeTimeoutError:
    """Return the error for a copy that would freeze the target for too long."""
    return FreezeTimeoutError(
        pid,
        "snapshot",
        f"the memory of process {pid} could not be read in {deadline.seconds:g} s",
        help="raise memory_limit, so that the copy goes to memory and not to the "
        "disk, or the timeout",
    )


def _batches(ranges: list[int], most: int) -> Iterator[tuple["array[int]", int]]:
    """Yield ``(iovecs, bytes)``, each within what one call should do."""
    batch = array("Q")
    size = 0
    for start, end in zip(ranges[0::2], ranges[1::2], strict=True):
        while start < end:
            length = min(end - start, most - size)
            batch.append(start)
            batch.append(length)
            size += length
            start += length
            if size == most or len(batch) == 2 * process_vm.IOV_MAX:
                yield batch, size
                batch = array("Q")
                size = 0
    if size:
        yield batch, size


def _advance(batch: "array[int]", count: int) -> int:
    """Drop the first *count* bytes of the iovecs; the address that is next."""
    index = 0
    while index < len(batch) and batch[index + 1] <= count:
        count -= batch[index + 1]
        index += 2
    del batch[:index]
    if not batch:
        return 0
    batch[0] += count
    batch[1] -= count
    return batch[0]
