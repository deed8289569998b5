"""Memory: mappings, the captured bytes of them, and what could not be had."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast, overload

_COMPARE_BYTES = 1 << 20


class SegmentData(ABC):
    """The bytes of a segment, read-only, wherever they are.

    Has a length, indexes, slices and ``bytes()``; only what is asked for is read.
    Compares equal to any bytes-like object, or other segment, of the same content.
    """

    __slots__ = ()
    __hash__: ClassVar[None]  # type: ignore[assignment]

    @abstractmethod
    def __len__(self) -> int:
        """Return the logical size in bytes, holes included."""

    @abstractmethod
    def ranges(self) -> Sequence[tuple[int, int]]:
        """Return the half-open offset ranges that may hold something but zeros."""

    @abstractmethod
    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill *buffer* with the bytes from *offset* on; they must all exist."""

    def gather(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        """Fill *buffer* with the bytes of *ranges* of offsets, packed."""
        position = 0
        for start, stop in ranges:
            self.readinto(start, buffer[position : position + stop - start])
            position += stop - start

    def view(self, offset: int, size: int) -> memoryview | None:
        """Return the bytes without a copy if they lie together in memory."""
        return None

    @overload
    def __getitem__(self, key: int) -> int: ...

    @overload
    def __getitem__(self, key: slice) -> bytes: ...

    def __getitem__(self, key: int | slice) -> int | bytes:
        size = len(self)
        if isinstance(key, int):
            index = key + size if key < 0 else key
            if not 0 <= index < size:
                raise IndexError(f"byte {key} of a segment of {size}")

            return self._read(index, index + 1)[0]

        start, stop, step = key.indices(size)
        if step == 1:
            return self._read(start, max(start, stop))

        picked = range(start, stop, step)
        if not picked:
            return b""

        low, high = min(picked[0], picked[-1]), max(picked[0], picked[-1])
        return self._read(low, high + 1)[:: abs(step)][:: 1 if step > 0 else -1]

    def __iter__(self) -> Iterator[int]:
        for start in range(0, len(self), _COMPARE_BYTES):
            yield from self[start : start + _COMPARE_BYTES]

    def __bytes__(self) -> bytes:
        return self._read(0, len(self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SegmentData | bytes | bytearray | memoryview):
            return NotImplemented
        other = cast("SegmentData | bytes", other)
        if len(self) != len(other):
            return False
        return all(
            self[start : start + _COMPARE_BYTES]
            == other[start : start + _COMPARE_BYTES]
            for start in range(0, len(self), _COMPARE_BYTES)
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} bytes>"

    def _read(self, start: int, stop: int) -> bytes:
        buffer = bytearray(stop - start)
        if buffer:
            self.readinto(start, memoryview(buffer))
        return bytes(buffer)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMap:
    """One mapping: a line of ``/proc/PID/maps``, ``proc_pid_maps(5)``.

    :ivar start: first address
    :ivar end: address behind the last byte
    :ivar perms: four characters, ``rwxp`` or ``s`` at the end
    :ivar offset: bytes into the file
    :ivar path: the path column as the kernel prints it, None if empty
    """

    start: int
    end: int
    perms: str
    offset: int
    path: str | None

    def __repr__(self) -> str:
        path = self.path or "(anonymous)"
        return f"<MemoryMap {self.start:#x}-{self.end:#x} {self.perms} {path}>"

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    @property
    def readable(self) -> bool:
        """Whether the program may read it."""
        return self.perms[0:1] == "r"

    @property
    def writable(self) -> bool:
        """Whether the program may write to it."""
        return self.perms[1:2] == "w"

    @property
    def executable(self) -> bool:
        """Whether the program may run code in it."""
        return self.perms[2:3] == "x"

    @property
    def private(self) -> bool:
        """Whether writes stay in this process (``MAP_PRIVATE``)."""
        return self.perms[3:4] == "p"

    @property
    def has_file(self) -> bool:
        """Whether the path is one of the file system, as far as its name tells."""
        return self.path is not None and self.path.startswith("/")

    @property
    def is_unreopenable(self) -> bool:
        """Whether nobody can map it again by its path: deleted, or a memfd."""
        return self.path is not None and (
            self.path.startswith("/memfd:") or self.path.endswith(" (deleted)")
        )

    @property
    def is_special(self) -> bool:
        """Whether the kernel provides it: ``[vdso]``, ``[vvar]``, ``[vsyscall]``."""
        return self.path is not None and self.path.startswith(
            ("[vdso]", "[vvar", "[vsyscall]")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySegment:
    """The captured bytes of one mapping.

    :ivar start: address of the first byte
    :ivar data: the bytes; zeros where the program never wrote, and in the parts
        that the checkpoint lists as skipped
    """

    start: int
    data: SegmentData

    @property
    def end(self) -> int:
        """Address behind the last byte."""
        return self.start + len(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """Which file it was, so that another one in its place is noticed, ``stat(2)``.

    :ivar device: major and minor number together, as ``st_dev``
    :ivar size: bytes
    :ivar mtime_ns: last modification, nanoseconds since 1970
    """

    device: int
    inode: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VmArea:
    """A mapping with all that procfs says of it, ``proc_pid_smaps(5)``.

    :ivar map: the mapping
    :ivar vm_flags: ``VmFlags`` of smaps, two letters each
    :ivar device: ``st_dev`` of the mapped file, 0 if there is none
    :ivar inode: its inode, 0 if there is none
    :ivar file: what the file was, None if there is none or it could not be looked at
    :ivar changed: flat address ranges of pages that the process has made its own in a
        private mapping of a file it may not write to (relocations, patched code)
    """

    map: MemoryMap
    vm_flags: tuple[str, ...]
    device: int
    inode: int
    file: FileIdentity | None = None
    changed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A range of memory that is not in the image, ``[start, end)``, and why."""

    start: int
    end: int
    path: str | None
    reason: str
