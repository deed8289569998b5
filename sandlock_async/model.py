"""The data model: what a picture of a process consists of. No I/O.

Names and fields are those of sandlock's own ``Checkpoint``; what is known beyond
them is on further attributes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
class FdInfo:
    """One open file descriptor, ``proc_pid_fdinfo(5)``.

    :ivar fd: its number
    :ivar path: where ``/proc/PID/fd/N`` points
    :ivar flags: open flags, ``O_CLOEXEC`` included
    :ivar offset: file position in bytes
    """

    fd: int
    path: str
    flags: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadState:
    """One thread.

    :ivar tid: thread ID
    :ivar regs: its general registers, as in :class:`ProcessState`
    """

    tid: int
    regs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A range of memory that is not in the image, ``[start, end)``, and why."""

    start: int
    end: int
    path: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """The process itself.

    :ivar pid: process ID
    :ivar cwd: its working directory
    :ivar exe: its program
    :ivar regs: general registers of the main thread: the words of ``NT_PRSTATUS``
        (27 on x86-64, 34 on aarch64, 32 on riscv64)
    :ivar memory_maps: every mapping in address order; only the captured ones in an
        image that sandlock 0.8.2 wrote
    :ivar memory_data: the captured segments in address order
    :ivar threads: every thread, the main thread first; only that one in an image
        that sandlock wrote
    :ivar arch: the machine as ``uname -m`` names it; None if the image does not say
    :ivar skipped: what could not be captured, with reasons
    """

    pid: int
    cwd: str
    exe: str
    regs: tuple[int, ...]
    memory_maps: tuple[MemoryMap, ...]
    memory_data: tuple[MemorySegment, ...]
    threads: tuple[ThreadState, ...] = ()
    arch: str | None = None
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A process at one instant, and what belongs to it.

    :ivar name: the checkpoint's name; empty until it is saved under one
    :ivar policy: sandlock's ``policy.dat``, byte for byte
    :ivar process_state: registers, mappings and memory
    :ivar fd_table: open descriptors, by number
    :ivar cow_snapshot: sandlock's copy-on-write snapshot, None if there is none
    :ivar app_state: bytes of the application's own, None if there are none
    """

    name: str
    policy: bytes
    process_state: ProcessState
    fd_table: tuple[FdInfo, ...]
    cow_snapshot: str | None = None
    app_state: bytes | None = None

    def named(self, default: str) -> "Picture":
        """Return the picture under its own name, or *default* if it has none."""
        return self if self.name else replace(self, name=default)
