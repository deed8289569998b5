"""What is read under the freeze besides memory: bytes only, parsed afterwards."""

from dataclasses import dataclass

from sandlock_async.arch import Machine
from sandlock_async.kernel import files, ptrace
from sandlock_async.model import FdInfo
from sandlock_async.procfs.fdinfo import parse_fdinfo
from sandlock_async.snapshot.thread_facts import RawThread, read_threads

_USERFAULTFD = b"anon_inode:[userfaultfd]"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFd:
    """A descriptor as procfs shows it."""

    fd: int
    link: bytes
    fdinfo: bytes

    @property
    def is_userfaultfd(self) -> bool:
        """Whether it is a userfaultfd(2)."""
        return self.link == _USERFAULTFD


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The small things of a frozen process.

    :ivar threads: the main thread first
    :ivar queued: ``siginfo_t`` of signals that wait for any thread
    :ivar status: ``/proc/PID/status``
    """

    threads: list[RawThread]
    queued: list[bytes]
    status: bytes
    fds: tuple[RawFd, ...]
    cwd: bytes
    exe: bytes

    @property
    def has_userfaultfd(self) -> bool:
        """Whether it holds a userfaultfd(2)."""
        return any(raw.is_userfaultfd for raw in self.fds)


def read_facts(pid: int, tids: list[int], machine: Machine) -> Facts:
    """Read the threads, descriptors and links of a frozen process.

    :raises OSError: ``ESRCH`` or ``ENOENT`` if it was killed meanwhile
    """
    return Facts(
        threads=read_threads(tids, machine),
        queued=ptrace.peeksiginfo(tids[0], shared=True),
        status=files.read_record(f"/proc/{pid}/status"),
        fds=tuple(read_fds(pid)),
        cwd=_link_or_empty(f"/proc/{pid}/cwd"),
        exe=_link_or_empty(f"/proc/{pid}/exe"),
    )


def read_fds(pid: int) -> list[RawFd]:
    """Read the descriptors as procfs shows them, by number.

    Those of a frozen process cannot change, unless another process that shares the
    table (``CLONE_FILES``) closes one between the two reads: that one is left out.

    :raises OSError: ``ESRCH`` or ``ENOENT`` if the process is gone
    """
    fds: list[RawFd] = []
    for fd in files.list_numbers(f"/proc/{pid}/fd"):
        try:
            link = files.read_link(f"/proc/{pid}/fd/{fd}")
            fdinfo = files.read_record(f"/proc/{pid}/fdinfo/{fd}")
        except FileNotFoundError:
            continue
        fds.append(RawFd(fd=fd, link=link, fdinfo=fdinfo))
    return fds


def parse_fds(facts: Facts) -> tuple[FdInfo, ...]:
    """Return the descriptor table, by number."""
    table: list[FdInfo] = []
    for raw in facts.fds:
        flags, offset = parse_fdinfo(raw.fdinfo)
        path = raw.link.decode(errors="replace")
        table.append(FdInfo(fd=raw.fd, path=path, flags=flags, offset=offset))
    return tuple(table)


def _link_or_empty(path: str) -> bytes:
    try:
        return files.read_link(path)
    except FileNotFoundError:
        return b""  # as sandlock has it for a link that cannot be read
