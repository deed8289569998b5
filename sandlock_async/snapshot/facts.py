"""What is read under the freeze besides memory: bytes only, parsed afterwards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sandlock_async.arch import Machine
from sandlock_async.kernel import files, ptrace
from sandlock_async.model import FdInfo
from sandlock_async.procfs.fdinfo import parse_fdinfo
from sandlock_async.snapshot.thread_facts import RawThread, read_threads

_NONE_FOR_IT = b"\nSigPnd:\t0000000000000000\n"
_NONE_FOR_ALL = b"\nShdPnd:\t0000000000000000\n"
"""What status says when no signal waits, of the main thread and of the process."""

_USERFAULTFD = b"anon_inode:[userfaultfd]"


class RawFd(NamedTuple):
    """A descriptor as procfs shows it. Made under the freeze, so no dataclass."""

    fd: int
    link: bytes
    fdinfo: bytes

    @property
    def is_userfaultfd(self) -> bool:
        """Whether it is a userfaultfd(2)."""
        return self.link == _USERFAULTFD


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadFacts:
    """The threads of a frozen process.

    :ivar threads: the main thread first
    :ivar queued: ``siginfo_t`` of signals that wait for any thread
    :ivar status: ``/proc/PID/status``
    """

    threads: list[RawThread]
    queued: list[bytes]
    status: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts(ThreadFacts):
    """The small things of a frozen process."""

    fds: tuple[RawFd, ...]
    cwd: bytes
    exe: bytes

    @property
    def has_userfaultfd(self) -> bool:
        """Whether it holds a userfaultfd(2)."""
        return any(raw.is_userfaultfd for raw in self.fds)


def read_thread_facts(pid: int, tids: list[int], machine: Machine) -> ThreadFacts:
    """Read the threads of a frozen process.

    :raises OSError: ``ESRCH`` or ``ENOENT`` if it was killed meanwhile
    """
    status = files.read_record(f"/proc/{pid}/status")
    return ThreadFacts(
        threads=read_threads(tids, machine, idle=_NONE_FOR_IT in status),
        queued=[]
        if _NONE_FOR_ALL in status
        else ptrace.peeksiginfo(tids[0], shared=True),
        status=status,
    )


def read_facts(
    pid: int,
    threads: ThreadFacts,
    exe: bytes | None,
    known: Sequence[RawFd],
    meanwhile: Callable[[], None] = lambda: None,
) -> Facts:
    """Read the descriptors and links of a frozen process.

    :param threads: what has been read of it already
    :param exe: where ``/proc/PID/exe`` points, if that is known
    :param known: descriptors that there had been a moment ago
    :param meanwhile: called now and then
    :raises OSError: ``ESRCH`` or ``ENOENT`` if it was killed meanwhile
    """
    return Facts(
        threads=threads.threads,
        queued=threads.queued,
        status=threads.status,
        fds=tuple(read_fds(pid, known, meanwhile)),
        cwd=link_or_empty(f"/proc/{pid}/cwd"),
        exe=link_or_empty(f"/proc/{pid}/exe") if exe is None else exe,
    )


def read_fds(
    pid: int,
    known: Sequence[RawFd] = (),
    meanwhile: Callable[[], None] = lambda: None,
) -> list[RawFd]:
    """Read the descriptors as procfs shows them, by number.

    Those of a frozen process cannot change, unless another process that shares the
    table (``CLONE_FILES``) closes one between the two reads: that one is left out.

    :param known: which there had been a moment ago; if there are as many now, and each
        of them is still there, the folder need not be listed
    :param meanwhile: called now and then
    :raises OSError: ``ESRCH`` or ``ENOENT`` if the process is gone
    """
    numbers = [raw.fd for raw in known]
    if numbers and files.count_fds(pid) == len(numbers):
        fds = _read_numbers(pid, numbers, meanwhile)
        if len(fds) == len(numbers):
            return fds
    return _read_numbers(pid, files.list_numbers(f"/proc/{pid}/fd"), meanwhile)


def _read_numbers(
    pid: int, numbers: Sequence[int], meanwhile: Callable[[], None]
) -> list[RawFd]:
    fds: list[RawFd] = []
    for fd in numbers:
        meanwhile()
        try:
            link = files.read_link(f"/proc/{pid}/fd/{fd}")
            fdinfo = files.read_record(f"/proc/{pid}/fdinfo/{fd}")
        except FileNotFoundError:
            continue
        fds.append(RawFd(fd, link, fdinfo))
    return fds


def parse_fds(facts: Facts) -> tuple[FdInfo, ...]:
    """Return the descriptor table, by number."""
    table: list[FdInfo] = []
    for raw in facts.fds:
        flags, offset = parse_fdinfo(raw.fdinfo)
        path = raw.link.decode(errors="replace")
        table.append(FdInfo(fd=raw.fd, path=path, flags=flags, offset=offset))
    return tuple(table)


def link_or_empty(path: str) -> bytes:
    """Return where a link of procfs points, nothing if that cannot be said."""
    try:
        return files.read_link(path)
    except FileNotFoundError:
        return b""  # as sandlock has it for a link that cannot be read
