"""Segments to files: concurrently, in large pieces, holes left as holes.

One hop to a worker for each buffer, and one for all small segments together: a
seek and a write for each page of a scattered mapping would take seconds. Nor is each
page read by itself: what a buffer holds is gathered with one call.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import aiofiles

from sandlock_async.completion import shielded, task_group
from sandlock_async.model import MemorySegment, SegmentData
from sandlock_async.store.buffers import BUFFER_BYTES, Buffers
from sandlock_async.store.holes import Run, without_zeros
from sandlock_async.workers import THREADS, Workers

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncFileIO

SMALL_BYTES = 256 << 10
"""Segments up to this size are written together."""

File = tuple[str, MemorySegment]
Range = tuple[int, int]


class SegmentStream:
    """Writes the memory files of one stage.

    :param folder: the stage
    :param durable: fsync each file
    :param on_bytes: told how many bytes have been written since it was last told
    :ivar written_bytes: all of them
    """

    def __init__(
        self,
        folder: Path,
        workers: Workers,
        buffers: Buffers,
        *,
        durable: bool,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._folder = folder
        self._workers = workers
        self._buffers = buffers
        self._durable = durable
        self._tell = on_bytes
        self.written_bytes: int = 0

    async def write_all(
        self, files: Sequence[File], on_read: Callable[[], object] = lambda: None
    ) -> None:
        """Write every segment to its file; a file may hold a part of it already.

        :param on_read: called when all bytes have been read; some still go to the disk
        :raises OSError: as the file system says
        """
        # A process may have 65,530 mappings (vm.max_map_count), or more.
        small, large = await self._workers.run(_partition, files)
        if not large:
            await self._write_small(small, on_read)
            return
        await self._workers.to_loop()
        left = len(large) + bool(small)

        def done() -> None:
            nonlocal left
            left -= 1
            if not left:
                on_read()

        async with task_group() as group:
            if small:
                group.start_soon(self._write_small, small, done)
            # A task for each would keep the event loop busy where they are many.
            rest = iter(large)
            for _ in range(min(THREADS, len(large))):
                group.start_soon(self._write_each, rest, done)

    async def write_runs(self, name: str, size: int, runs: list[Run]) -> None:
        """Write some bytes of the segment in file *name*, of *size* bytes in all."""
        self._on_bytes(
            await self._workers.run(_write_runs, self._folder / name, size, runs)
        )

    def _on_bytes(self, count: int) -> None:
        self.written_bytes += count
        self._tell(count)

    async def _write_small(
        self, files: list[File], on_read: Callable[[], object]
    ) -> None:
        def write() -> int:
            total = 0
            for name, segment in files:
                fd = _open(f"{self._folder}/{name}")
                try:
                    os.ftruncate(fd, len(segment.data))
                    for start, stop in segment.data.ranges():
                        view = _bytes_of(segment.data, start, stop)
                        total += _pwrite(fd, view, start)
                    if self._durable:
                        os.fsync(fd)
                finally:
                    os.close(fd)
            return total

        self._on_bytes(await self._workers.run(write))
        on_read()

    async def _write_each(
        self, files: Iterator[File], on_read: Callable[[], object]
    ) -> None:
        for name, segment in files:
            await self._write_large(name, segment.data, on_read)

    async def _write_large(
        self, name: str, data: SegmentData, on_read: Callable[[], object]
    ) -> None:
        fd = await self._workers.acquire(os.close, _open, self._folder / name)
        try:
            # Shielded, as all that aiofiles does: a cancelled call returns while
            # its thread goes on, and would have the file closed under its feet.
            file = await shielded(
                aiofiles.open(
                    fd, "r+b", buffering=0, closefd=False, executor=self._workers
                )
            )
            await shielded(file.truncate(len(data)))
            ranges = await self._workers.run(data.ranges)
            for group in _grouped(ranges):
                await self._write_group(file, data, group)
            on_read()
            if self._durable:
                await self._workers.run(os.fsync, fd)
        finally:
            await self._workers.run(os.close, fd)

    async def _write_group(
        self, file: "AsyncFileIO", data: SegmentData, group: list[Range]
    ) -> None:
        start, stop = group[0]
        view = data.view(start, stop - start) if len(group) == 1 else None
        if view is not None:
            written = 0
            for offset, run in await self._workers.run(_runs, start, view):
                await shielded(file.seek(offset))
                written += len(run)
                while run:
                    run = run[await shielded(file.write(run)) :]
        else:
            async with self._buffers.lent() as buffer:
                written = await self._workers.run(
                    _copy_group, file.fileno(), data, group, buffer.view
                )
        self._on_bytes(written)


def _partition(files: Sequence[File]) -> tuple[list[File], list[File]]:
    small = [file for file in files if len(file[1].data) <= SMALL_BYTES]
    large = [file for file in files if len(file[1].data) > SMALL_BYTES]
    # What the disk takes long for is read last: it is waited for without the copy.
    large.sort(key=lambda file: len(file[1].data) > BUFFER_BYTES)
    return small, large


def _copy_group(
    fd: int, data: SegmentData, group: list[Range], buffer: memoryview
) -> int:
    written = 0
    apart: list[Range] = []
    for start, stop in group:
        view = data.view(start, stop - start)
        if view is None:
            apart.append((start, stop))
        else:
            written += _pwrite(fd, view, start)
    packed = buffer[: sum(stop - start for start, stop in apart)]
    data.gather(apart, packed)
    return written + _scatter(fd, packed, apart)


def _scatter(fd: int, packed: memoryview, ranges: list[Range]) -> int:
    """Write what is not zero of packed *ranges*; return how many bytes that were."""
    written = 0
    rest = iter(ranges)
    end = shift = 0
    for at, run in without_zeros(0, packed):
        while run:
            while end <= at:
                start, stop = next(rest)
                shift = start - end
                end += stop - start
            count = os.pwrite(fd, run[: end - at], at + shift)
            written += count
            at += count
            run = run[count:]
    return written


def _runs(start: int, view: memoryview) -> list[Run]:
    return list(without_zeros(start, view))


def _write_runs(path: Path, size: int, runs: list[Run]) -> int:
    fd = _open(path)
    try:
        os.ftruncate(fd, size)
        return sum(_pwrite(fd, run, offset) for offset, run in runs)
    finally:
        os.close(fd)


def _bytes_of(data: SegmentData, start: int, stop: int) -> memoryview:
    view = data.view(start, stop - start)
    return memoryview(data[start:stop]) if view is None else view


def _pwrite(fd: int, view: memoryview, offset: int) -> int:
    """Write what is not zero; return how many bytes that were."""
    written = 0
    for at, run in without_zeros(offset, view):
        while run:
            count = os.pwrite(fd, run, at)
            written += count
            at += count
            run = run[count:]
    return written


def _open(path: Path | str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    status = os.fstat(fd)
    if status.st_nlink != 1:
        # Another image's too: nobody ever writes to a committed file.
        os.close(fd)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    if stat.S_IMODE(status.st_mode) != 0o600:
        os.fchmod(fd, 0o600)  # whatever the umask
    return fd


def _grouped(ranges: Iterable[Range]) -> Iterator[list[Range]]:
    """Bundle ranges to groups of at most a buffer's size."""
    group: list[Range] = []
    room = BUFFER_BYTES
    for start, stop in ranges:
        low = start
        while low < stop:
            high = min(stop, low + room)
            group.append((low, high))
            room -= high - low
            low = high
            if not room:
                yield group
                group, room = [], BUFFER_BYTES
    if group:
        yield group
