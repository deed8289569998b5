"""The process as a whole."""

from dataclasses import dataclass

from sandlock_async.model.descriptors import (
    FdDetails,
    PipeContent,
    SkippedFd,
    SocketContent,
)
from sandlock_async.model.memory import (
    FileIdentity,
    MemoryMap,
    MemorySegment,
    Skipped,
    VmArea,
)
from sandlock_async.model.signals import IntervalTimer, SignalState
from sandlock_async.model.threads import ThreadState


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who it runs as, ``credentials(7)``, ``capabilities(7)``.

    :ivar uids: real, effective, saved, file system
    :ivar gids: likewise
    :ivar groups: supplementary ones
    :ivar capabilities: inheritable, permitted, effective, bounding, ambient sets
    :ivar no_new_privs: whether execve(2) can no longer raise privileges
    :ivar seccomp: 0 no filter, 1 strict, 2 filtered
    """

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    capabilities: tuple[int, ...]
    no_new_privs: bool
    seccomp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A resource limit, ``getrlimit(2)``; None is unlimited.

    :ivar name: as ``/proc/PID/limits`` has it
    """

    name: str
    soft: int | None
    hard: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLayout:
    """Addresses the kernel remembers, ``proc_pid_stat(5)``, ``PR_SET_MM_MAP``.

    :ivar brk: end of the heap, None if it could not be asked for
    """

    start_code: int
    end_code: int
    start_data: int
    end_data: int
    start_brk: int
    start_stack: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int
    brk: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessDetails:
    """What sandlock's layouts have no place for.

    :ivar start_time: clock ticks after boot
    :ivar cmdline: the arguments, NUL-terminated
    :ivar auxv: the auxiliary vector, pairs of u64, ``getauxval(3)``
    :ivar root: its root directory
    :ivar umask: its file mode creation mask
    :ivar exe_file: which file it was started from, None if it cannot be looked at
    :ivar exe_build_id: the program's build-id, ``ld(1)``; empty if it has none
    :ivar signals: handlers, ignored and pending signals of the whole process
    :ivar timers: ``getitimer(2)``, None if they could not be asked for
    """

    start_time: int
    cmdline: bytes
    auxv: bytes
    root: str
    umask: int
    exe_file: FileIdentity | None
    exe_build_id: bytes
    layout: MemoryLayout
    credentials: Credentials
    limits: tuple[Limit, ...]
    signals: SignalState
    timers: tuple[IntervalTimer, ...] | None = None


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
    :ivar memory_data: the captured segments that the base layout holds, in address
        order
    :ivar extended_segments: those that it has no place for: changed pages of read-only
        mappings, shared memory, …
    :ivar threads: every thread, the main thread first; only that one in an image
        that sandlock wrote
    :ivar arch: the machine as ``uname -m`` names it; None if the image does not say
    :ivar vm_areas: every mapping, with flags and files; empty in an image that
        sandlock wrote
    :ivar details: all else; None in an image that sandlock wrote
    :ivar fd_details: what each open descriptor is, by number; empty in an image that
        sandlock wrote
    :ivar pipe_contents: what waits in pipes whose ends the process holds
    :ivar socket_contents: what waits in its unix sockets
    :ivar skipped_fds: what could not be had of that, with reasons
    :ivar skipped: memory that could not be captured, with reasons
    """

    pid: int
    cwd: str
    exe: str
    regs: tuple[int, ...]
    memory_maps: tuple[MemoryMap, ...]
    memory_data: tuple[MemorySegment, ...]
    extended_segments: tuple[MemorySegment, ...] = ()
    threads: tuple[ThreadState, ...] = ()
    arch: str | None = None
    vm_areas: tuple[VmArea, ...] = ()
    details: ProcessDetails | None = None
    fd_details: tuple[FdDetails, ...] = ()
    pipe_contents: tuple[PipeContent, ...] = ()
    socket_contents: tuple[SocketContent, ...] = ()
    skipped_fds: tuple[SkippedFd, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def all_segments(self) -> tuple[MemorySegment, ...]:
        """Return every captured segment, in address order."""
        both = (*self.memory_data, *self.extended_segments)
        return tuple(sorted(both, key=lambda segment: segment.start))
