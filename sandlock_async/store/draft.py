"""An image on its way to its place: a stage, and the stream that fills it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sandlock_async.errors import SandlockAsyncError
from sandlock_async.image import layout
from sandlock_async.image.age import Recipients
from sandlock_async.image.file_segment import FileSegment
from sandlock_async.image.files import ImageFiles
from sandlock_async.image.holes import Run
from sandlock_async.image.manifest import Entry, entry_of, manifest_of
from sandlock_async.model import MemorySegment
from sandlock_async.store.buffers import Buffers
from sandlock_async.store.links import share_segments
from sandlock_async.store.refusals import store_error
from sandlock_async.store.stage import Stage
from sandlock_async.store.stream import SegmentStream
from sandlock_async.workers import Workers


@dataclass(frozen=True, slots=True)
class Draft:
    """An image that is not there yet."""

    stage: Stage
    stream: SegmentStream
    buffers: Buffers
    _workers: Workers

    async def share(self, files: ImageFiles) -> tuple[int, ImageFiles]:
        """Take over memory files of another image without copying, where it works.

        :return: their length together, and the files that are left to write
        :raises StoreError: if they cannot be written
        """
        if self.stage.recipients is not None:
            return 0, files
        async with self._translated(lambda: self._size_of(files)):
            shared = await self._workers.run(
                lambda: share_segments(
                    files, self.stage.path, durable=self.stage.durable
                )
            )
            self.stream.entries.update(shared.entries)
        return shared.linked_bytes, shared.files

    async def write_memory(
        self, files: ImageFiles, on_read: Callable[[], object] = lambda: None
    ) -> None:
        """Write the memory files.

        :param on_read: called when all bytes have been read; some still go to the disk
        :raises NoSpaceError: if the disk is full
        :raises StoreError: if they cannot be written
        """
        async with self._translated(lambda: self._size_of(files)):
            await self.stream.write_all(files.segments, on_read)

    async def commit(
        self, files: ImageFiles, keep: Callable[[int], bool] | None = None
    ) -> int:
        """Write the small files, and put the image at its place, whole.

        The memory files have been written, or shared.

        :param keep: whether a checkpoint that is there, an open directory, stays
        :return: bytes written to the disk
        :raises CheckpointExistsError: if one is there that may not be replaced
        :raises NoSpaceError: if the disk is full
        :raises StoreError: if it cannot be written
        :raises ImageCorruptError: if memory is from another image that is damaged
        """
        stage = self.stage
        small = dict(files.small)
        meta = small.pop(layout.META)
        entries = self.stream.entries

        def write(name: str, content: bytes) -> None:
            stage.write(name, content)
            entries[name] = entry_of(name, content)

        def write_metadata() -> None:
            for name, segment in files.segments:
                _check_unchanged(entries[name], segment)
            for name, content in small.items():
                write(name, content)
            entries[layout.META] = entry_of(layout.META, meta)
            for folder in layout.folders_of_children(entries):
                write(folder + layout.MANIFEST, manifest_of(entries, folder))
            stage.write(layout.MANIFEST, manifest_of(entries))

        async with self._translated(lambda: self._size_of(files)):
            await self._workers.run(write_metadata)
            await self._workers.run(stage.commit, meta, keep)
        return self.written_bytes

    @property
    def written_bytes(self) -> int:
        """Bytes written to the disk so far."""
        return self.stage.written_bytes + self.stream.written_bytes

    async def add_child(self, pid: int) -> None:
        """Make the folders of a descendant; doing so twice does nothing.

        :raises StoreError: if they cannot be made
        """
        async with self._translated():
            await self._workers.run(self.stage.add_child, pid)

    async def write_runs(self, name: str, size: int, runs: list[Run]) -> None:
        """Write some bytes of the memory file *name*, of *size* bytes in all.

        :raises NoSpaceError: if the disk is full
        :raises StoreError: if it cannot be written
        """
        async with self._translated():
            await self.stream.write_runs(name, size, runs)

    def _size_of(self, files: ImageFiles) -> int:
        """Return what all files take at most, on the disk."""
        if self.stage.recipients is None:
            return files.disk_bytes
        return self.stage.recipients.sealed_bytes(
            sum(map(len, files.small.values())) + files.memory_bytes,
            len(files.small) + len(files.segments),
        )

    @asynccontextmanager
    async def _translated(
        self, needed: Callable[[], int] = lambda: 0
    ) -> AsyncGenerator[None]:
        try:
            yield
        except SandlockAsyncError:
            raise
        except OSError as error:
            size = max(await self._workers.run(needed), self.stage.needed_bytes)
            raise await self._workers.run(
                store_error, error, self.stage.destination, size
            ) from error


def _check_unchanged(written: Entry, segment: MemorySegment) -> None:
    """Return if the bytes are those that another image is said to hold.

    :raises ImageCorruptError: if that one is damaged
    """
    if isinstance(segment.data, FileSegment):
        known = segment.data.known_sum()
        if known is not None and known != written.blake3:
            raise segment.data.corrupt("damaged: its checksum is another one")


@asynccontextmanager
async def drafted(
    destination: Path,
    workers: Workers,
    *,
    replace: bool,
    durable: bool,
    recipients: Recipients | None = None,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> AsyncGenerator[Draft]:
    """Open a draft for *destination*; unless it is committed inside, it is removed.

    :param recipients: those for whom every file is encrypted
    :param on_bytes: told how many bytes of memory have been written since last time
    :raises CheckpointExistsError: if something is there, without *replace*
    :raises StoreError: if the place will not do
    """
    stage = await workers.acquire(
        Stage.discard,
        Stage,
        destination,
        replace=replace,
        durable=durable,
        recipients=recipients,
    )
    buffers = Buffers(workers)
    try:
        stream = SegmentStream(
            stage.path,
            workers,
            buffers,
            durable=durable,
            recipients=recipients,
            on_bytes=on_bytes,
        )
        yield Draft(stage, stream, buffers, workers)
    finally:
        try:
            await workers.drained()  # nobody writes to it any more
        finally:
            buffers.close()
            await workers.run(stage.discard)
