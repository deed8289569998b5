"""Segments to files: concurrently, in large pieces, holes left as holes.

One hop to a worker for each buffer, and one for all small segments together: a
seek and a write for each page of a scattered mapping would take seconds. Nor is each
page read by itself: what a buffer holds is gathered with one call. What is written is
summed up at the same time, while it is in the CPU's caches.

What is encrypted is written in order: one hop for each large file, which a cancellation
ends at its next chunk.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import aiofiles

from sandlock_async.completion import shielded, task_group
from sandlock_async.image.age import SUFFIX, Recipients
from sandlock_async.image.file_segment import FileSegment
from sandlock_async.image.holes import Run, without_zeros
from sandlock_async.image.manifest import Entry
from sandlock_async.image.sums import CHUNK_BYTES, Sum, pieces_of
from sandlock_async.model import MemorySegment, SegmentData
from sandlock_async.store.buffers import BUFFER_BYTES, Buffers
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
    :param recipients: those for whom each file is encrypted
    :param on_bytes: told how many bytes have been written since it was last told
    :ivar written_bytes: all of them
    :ivar entries: size and sum of every file that is whole, by name
    """

    def __init__(
        self,
        folder: Path,
        workers: Workers,
        buffers: Buffers,
        *,
        durable: bool,
        recipients: Recipients | None,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._folder = folder
        self._workers = workers
        self._buffers = buffers
        self._durable = durable
        self._recipients = recipients
        self._tell = on_bytes
        self.written_bytes: int = 0
        self.entries: dict[str, Entry] = {}
        self._sums: dict[str, Sum] = {}

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
        taken = self._sum(name)
        self._on_bytes(
            await self._workers.run(_write_runs, self._folder / name, size, runs, taken)
        )

    def _on_bytes(self, count: int) -> None:
        self.written_bytes += count
        self._tell(count)

    async def _seal(self, files: Sequence[File], recipients: Recipients) -> None:
        stop = threading.Event()

        def seal() -> int:
            return sum(self._seal_one(*file, recipients, stop) for file in files)

        future = self._workers.submit(seal)
        self._on_bytes(await self._workers.completed(future, on_cancel=stop.set))

    def _seal_one(
        self,
        name: str,
        segment: MemorySegment,
        recipients: Recipients,
        stop: threading.Event,
    ) -> int:
        size = len(segment.data)
        taken = Sum()
        fd = _open(f"{self._folder}/{name}{SUFFIX}")
        try:
            with _held(segment.data):
                written = recipients.seal_to(fd, _chunks(segment.data, taken, stop))
            self.entries[name] = Entry(name=name, size=size, blake3=taken.digest(size))
            if self._durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        return written

    def _sum(self, name: str) -> Sum:
        return self._sums.setdefault(name, Sum())

    def _conclude(self, name: str, fd: int, size: int) -> None:
        taken = self._sums.pop(name, None) or Sum()
        taken.add_again(fd)
        self.entries[name] = Entry(name=name, size=size, blake3=taken.digest(size))

    async def _write_small(
        self, files: list[File], on_read: Callable[[], object]
    ) -> None:
        def write() -> int:
            total = 0
            for name, segment in files:
                fd = _open(f"{self._folder}/{name}")
                try:
                    size = len(segment.data)
                    os.ftruncate(fd, size)
                    runs = [
                        run
                        for start, stop in pieces_of(segment.data.ranges(), size)
                        for run in without_zeros(
                            start, _bytes_of(segment.data, start, stop)
                        )
                    ]
                    total += _put(fd, runs, self._sum(name))
                    self._conclude(name, fd, size)
                    if self._durable:
                        os.fsync(fd)
                finally:
                    os.close(fd)
            return total

        if self._recipients is None:
            self._on_bytes(await self._workers.run(write))
        else:
            await self._seal(files, self._recipients)
        on_read()

    async def _write_each(
        self, files: Iterator[File], on_read: Callable[[], object]
    ) -> None:
        for name, segment in files:
            if self._recipients is None:
                await self._write_large(name, segment.data, on_read)
            else:
                await self._seal([(name, segment)], self._recipients)
                on_read()

    async def _write_large(
        self, name: str, data: SegmentData, on_read: Callable[[], object]
    ) -> None:
        fd = await self._workers.acquire(os.close, _open, self._folder / name)
        source = ExitStack()
        try:
            if isinstance(data, FileSegment):
                await self._workers.run(source.enter_context, _held(data))
            # Shielded, as all that aiofiles does: a cancelled call returns while
            # its thread goes on, and would have the file closed under its feet.
            file = await shielded(
                aiofiles.open(
                    fd, "r+b", buffering=0, closefd=False, executor=self._workers
                )
            )
            await shielded(file.truncate(len(data)))
            ranges = await self._workers.run(data.ranges)
            for group in _grouped(ranges, len(data)):
                await self._write_group(file, data, group, self._sum(name))
            on_read()
            await self._workers.run(self._finish, name, fd, len(data))
        finally:
            await self._workers.run(_close, source, fd)

    def _finish(self, name: str, fd: int, size: int) -> None:
        self._conclude(name, fd, size)
        if self._durable:
            os.fsync(fd)

    async def _write_group(
        self, file: "AsyncFileIO", data: SegmentData, group: list[Range], taken: Sum
    ) -> None:
        start, stop = group[0]
        view = data.view(start, stop - start) if len(group) == 1 else None
        if view is not None:
            written = 0
            for offset, run in await self._workers.run(
                _summed_runs, start, view, taken
            ):
                await shielded(file.seek(offset))
                written += len(run)
                while run:
                    run = run[await shielded(file.write(run)) :]
        else:
            async with self._buffers.lent() as buffer:
                written = await self._workers.run(
                    _copy_group, file.fileno(), data, group, buffer.view, taken
                )
        self._on_bytes(written)


class _Cancelled(Exception):
    """Nobody wants it any more."""


def _held(data: SegmentData) -> AbstractContextManager[object]:
    """Keep the file of another image open: it is decrypted but once."""
    return data.opened() if isinstance(data, FileSegment) else nullcontext()


def _close(source: ExitStack, fd: int) -> None:
    with source:
        os.close(fd)


def _chunks(
    data: SegmentData, taken: Sum, cancelled: threading.Event
) -> Iterator[memoryview]:
    """Yield all bytes, holes included, and sum them up."""
    rest = iter(data.ranges())
    start, stop = next(rest, (len(data), len(data)))
    for low in range(0, len(data), CHUNK_BYTES):
        if cancelled.is_set():
            raise _Cancelled
        high = min(low + CHUNK_BYTES, len(data))
        chunk = memoryview(bytearray(high - low))
        while stop <= low and stop < len(data):
            start, stop = next(rest, (len(data), len(data)))
        if start < high:
            data.readinto(low, chunk)
            taken.add(without_zeros(low, chunk))
        yield chunk


def _partition(files: Sequence[File]) -> tuple[list[File], list[File]]:
    small = [file for file in files if len(file[1].data) <= SMALL_BYTES]
    large = [file for file in files if len(file[1].data) > SMALL_BYTES]
    # What the disk takes long for is read last: it is waited for without the copy.
    large.sort(key=lambda file: len(file[1].data) > BUFFER_BYTES)
    return small, large


def _copy_group(
    fd: int, data: SegmentData, group: list[Range], buffer: memoryview, taken: Sum
) -> int:
    runs: list[Run] = []
    apart: list[Range] = []
    for start, stop in group:
        view = data.view(start, stop - start)
        if view is None:
            apart.append((start, stop))
        else:
            runs += without_zeros(start, view)
    packed = buffer[: sum(stop - start for start, stop in apart)]
    data.gather(apart, packed)
    runs += _scattered(packed, apart)
    runs.sort(key=lambda run: run[0])
    return _put(fd, runs, taken)


def _scattered(packed: memoryview, ranges: list[Range]) -> Iterator[Run]:
    """Yield what is not zero of packed *ranges*, each run with its own offset."""
    rest = iter(ranges)
    end = shift = 0
    for at, run in without_zeros(0, packed):
        while run:
            while end <= at:
                start, stop = next(rest)
                shift = start - end
                end += stop - start
            yield at + shift, run[: end - at]
            run = run[end - at :]
            at = end


def _summed_runs(start: int, view: memoryview, taken: Sum) -> list[Run]:
    runs = list(without_zeros(start, view))
    taken.add(runs)
    return runs


def _write_runs(path: Path, size: int, runs: list[Run], taken: Sum) -> int:
    fd = _open(path)
    try:
        os.ftruncate(fd, size)
        return _put(fd, [some for run in runs for some in without_zeros(*run)], taken)
    finally:
        os.close(fd)


def _bytes_of(data: SegmentData, start: int, stop: int) -> memoryview:
    view = data.view(start, stop - start)
    return memoryview(data[start:stop]) if view is None else view


def _put(fd: int, runs: Sequence[Run], taken: Sum) -> int:
    """Write runs that are not zero, in order; return how many bytes those are."""
    taken.add(runs)
    written = 0
    for offset, run in runs:
        rest = run
        while rest:
            count = os.pwrite(fd, rest, offset)
            written += count
            offset += count
            rest = rest[count:]
    return written


def _open(path: Path | str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        status = os.fstat(fd)
        if status.st_nlink != 1:
            # Another image's too: nobody ever writes to a committed file.
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        if stat.S_IMODE(status.st_mode) != 0o600:
            os.fchmod(fd, 0o600)  # whatever the umask
    except BaseException:
        os.close(fd)
        raise
    return fd


def _grouped(ranges: Iterable[Range], size: int) -> Iterator[list[Range]]:
    """Bundle ranges to groups of at most a buffer's size, each of whole chunks."""
    group: list[Range] = []
    room = BUFFER_BYTES
    for _, pieces in groupby(
        pieces_of(ranges, size), key=lambda piece: piece[0] // CHUNK_BYTES
    ):
        chunk = list(pieces)
        needed = sum(stop - start for start, stop in chunk)
        if needed > room:
            yield group
            group, room = [], BUFFER_BYTES
        room -= needed
        for start, stop in chunk:
            if group and group[-1][1] == start:
                group[-1] = group[-1][0], stop
            else:
                group.append((start, stop))
    if group:
        yield group
