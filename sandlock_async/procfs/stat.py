"""``/proc/PID/stat`` and ``/proc/PID/task/TID/stat``, ``proc_pid_stat(5)``."""

from dataclasses import dataclass

_PF_KTHREAD = 0x00200000  # linux/sched.h
_PF_LEAVING = 0x4 | 0x400  # PF_EXITING, PF_SIGNALED
_SIGKILL = 1 << 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """The fields a capture needs.

    :ivar comm: the thread's name
    :ivar state: one letter: R, S, D, T (stopped), t (traced), Z, X, I
    :ivar parent: pid of the parent
    :ivar flags: ``PF_*`` of ``linux/sched.h``
    :ivar num_threads: threads of the group
    :ivar start_time: clock ticks after boot; with the pid, an identity
    :ivar pending: signals up to 31 that wait for this very thread, as a set of bits
    """

    comm: str
    state: str
    parent: int
    flags: int
    num_threads: int
    start_time: int
    pending: int

    @property
    def is_dying(self) -> bool:
        """Whether it executes nothing any more, dead or about to be.

        Whatever ends a whole process does so by a SIGKILL for each of its threads.
        """
        return bool(self.is_dead or self.flags & _PF_LEAVING or self.pending & _SIGKILL)

    @property
    def is_dead(self) -> bool:
        """Whether it has ended and only waits to be reaped."""
        return self.state in "ZX"

    @property
    def is_kernel_thread(self) -> bool:
        """Whether it is a thread of the kernel, without a program."""
        return bool(self.flags & _PF_KTHREAD)


_MM_FIELDS = {
    "start_code": 26,
    "end_code": 27,
    "start_stack": 28,
    "start_data": 45,
    "end_data": 46,
    "start_brk": 47,
    "arg_start": 48,
    "arg_end": 49,
    "env_start": 50,
    "env_end": 51,
}
"""Numbers of fields as proc_pid_stat(5) counts them; the second ends with ``)``."""


def parse_mm_addresses(content: bytes) -> dict[str, int]:
    """Return the addresses that the kernel remembers of a process's memory.

    Zero where it does not tell: it asks for the right to trace the process.

    :raises ValueError: if it is no stat file
    """
    fields = content.rpartition(b")")[2].split()
    if len(fields) < 49:
        raise ValueError(f"not a stat file: {content!r}")

    return {name: int(fields[number - 3]) for name, number in _MM_FIELDS.items()}


def parse_stat(content: bytes) -> Stat:
    """Parse one stat file.

    :raises ValueError: if it has another form
    """
    # The name may hold spaces and parentheses: cut at the last one.
    head, _, tail = content.rpartition(b")")
    _, _, comm = head.partition(b"(")
    fields = tail.split()
    if len(fields) < 29:
        raise ValueError(f"not a stat file: {content!r}")

    return Stat(
        comm=comm.decode(errors="replace"),
        state=fields[0].decode(),
        parent=int(fields[1]),
        flags=int(fields[6]),
        num_threads=int(fields[17]),
        start_time=int(fields[19]),
        pending=int(fields[28]),
    )
