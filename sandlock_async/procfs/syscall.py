"""``/proc/PID/task/TID/syscall``, ``proc_pid_syscall(5)``."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Syscall:
    """The system call that a thread is blocked in."""

    number: int
    arguments: tuple[int, ...]


def parse_stack_pointer(content: bytes) -> int | None:
    """Return the stack pointer, or None if the thread runs."""
    fields = content.split()
    return int(fields[-2], 16) if len(fields) > 2 else None


def parse_syscall(content: bytes) -> Syscall | None:
    """Return the call, or None if the thread runs or is blocked outside of one."""
    # `61 0x1234 0x0 …` then sp and pc; or `running`; or `-1 sp pc`.
    fields = content.split()
    if not fields or not fields[0].isdigit():
        return None
    return Syscall(int(fields[0]), tuple(int(field, 16) for field in fields[1:7]))
