"""``extended/``: what an image knows beyond sandlock's layout.

Additive: sandlock's loaders ignore the folder. It has a version of its own.
docs/format.md says what is in it, field by field.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sandlock_async.errors import ImageVersionError
from sandlock_async.image import layout
from sandlock_async.image.directory import ImageDirectory
from sandlock_async.image.files import extended_name
from sandlock_async.image.process_json import dumps
from sandlock_async.image.records import decode_record, encode_record
from sandlock_async.image.strict_json import U64, Fields, Malformed, loads
from sandlock_async.model import (
    FdDetails,
    MemoryMap,
    MemorySegment,
    Picture,
    PipeContent,
    ProcessDetails,
    Skipped,
    SkippedFd,
    SocketContent,
    ThreadState,
    VmArea,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A memory file of ``extended/memory/``: its first address and its length."""

    start: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended:
    """The content of ``extended/process.json``.

    :ivar memory_maps: every mapping, where *vm_areas* does not tell
    """

    version: int
    threads: tuple[ThreadState, ...]
    arch: str | None = None
    memory_maps: tuple[MemoryMap, ...] = ()
    vm_areas: tuple[VmArea, ...] = ()
    segments: tuple[Extent, ...] = ()
    details: ProcessDetails | None = None
    fds: tuple[FdDetails, ...] = ()
    pipes: tuple[PipeContent, ...] = ()
    sockets: tuple[SocketContent, ...] = ()
    skipped_fds: tuple[SkippedFd, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def all_maps(self) -> tuple[MemoryMap, ...]:
        """Return every mapping of the process."""
        return self.memory_maps or tuple(area.map for area in self.vm_areas)

    def open_segments(self, directory: ImageDirectory) -> tuple[MemorySegment, ...]:
        """Return the memory that is here, to be read when it is asked for.

        :raises ImageCorruptError: if a file is missing, or of another size
        """
        return tuple(
            MemorySegment(
                start=extent.start,
                data=directory.segment(extended_name(extent.start), extent.size),
            )
            for extent in self.segments
        )


def encode_extended(picture: Picture, extended: Sequence[MemorySegment]) -> bytes:
    """Return ``extended/process.json``.

    :param extended: the segments whose memory files are in ``extended/`` too
    """
    state = picture.process_state
    content = Extended(
        version=layout.EXTENDED_VERSION,
        arch=state.arch,
        threads=state.threads,
        memory_maps=() if state.vm_areas else state.memory_maps,
        vm_areas=state.vm_areas,
        segments=tuple(
            Extent(start=segment.start, size=len(segment.data)) for segment in extended
        ),
        details=state.details,
        fds=state.fd_details,
        pipes=state.pipe_contents,
        sockets=state.socket_contents,
        skipped_fds=state.skipped_fds,
        skipped=state.skipped,
    )
    return dumps(encode_record(content))


def decode_extended(directory: ImageDirectory) -> Extended | None:
    """Return what ``extended/`` holds, None where there is no such folder.

    :raises ImageCorruptError: if it is malformed
    :raises ImageVersionError: if it is of a version from the future
    """
    content = directory.read_optional(layout.EXTENDED_PROCESS)
    if content is None:
        return None
    try:
        value = loads(content)
        version = Fields(value, "process").integer("version", U64)
        if version != layout.EXTENDED_VERSION:
            path = directory.path / layout.EXTENDED_PROCESS
            raise ImageVersionError(path, version, str(layout.EXTENDED_VERSION))
        return decode_record(Extended, value, "process")
    except Malformed as error:
        raise directory.corrupt(layout.EXTENDED_PROCESS, str(error)) from error
