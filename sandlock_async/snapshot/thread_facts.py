"""What is read of each thread under the freeze, and parsed afterwards."""

import errno
from collections.abc import Sequence
from typing import NamedTuple

from sandlock_async.arch import Machine
from sandlock_async.errors import UnsupportedArchError
from sandlock_async.kernel import files, ptrace
from sandlock_async.model import QueuedSignal, RobustList, Rseq, ThreadState

_UNKNOWN = (errno.EINVAL, errno.EIO, errno.ENODEV, errno.ENOSYS, errno.EPERM)
"""What a kernel says that does not know a request, or does not tell us."""


class RawThread(NamedTuple):
    """A thread as ptrace shows it. Made under the freeze, so no dataclass.

    :ivar queued: ``siginfo_t`` of the signals that wait for it
    :ivar rseq: address, size, signature, flags
    :ivar robust_list: head, size
    """

    tid: int
    registers: bytes
    xstate: bytes
    signal_mask: int
    queued: list[bytes]
    rseq: tuple[int, int, int, int] | None
    robust_list: tuple[int, int] | None


def read_threads(tids: Sequence[int], machine: Machine) -> list[RawThread]:
    """Read every thread of a frozen process.

    :raises OSError: ``ESRCH`` if it was killed meanwhile
    """
    return [
        RawThread(
            tid,
            ptrace.getregset(tid, ptrace.Regset.PRSTATUS),
            _xstate(tid, machine),
            ptrace.getsigmask(tid),
            ptrace.peeksiginfo(tid, shared=False),
            _rseq(tid),
            _robust_list(tid, machine),
        )
        for tid in tids
    ]


def read_names(pid: int, threads: Sequence[RawThread]) -> dict[int, str]:
    """Return the threads' names, without those that have ended since the thaw.

    A name tells nothing of the program's state: it can wait until the thaw.
    """
    names: dict[int, str] = {}
    for thread in threads:
        try:
            name = files.read_record(f"/proc/{pid}/task/{thread.tid}/comm")
        except OSError:
            continue
        names[thread.tid] = name.decode(errors="replace").rstrip("\n")
    return names


def parse_threads(
    raw: Sequence[RawThread], names: dict[int, str], pid: int, machine: Machine
) -> tuple[ThreadState, ...]:
    """Return every thread, its registers as numbers.

    :raises UnsupportedArchError: if a thread runs 32-bit code
    """
    size = 8 * machine.register_count
    threads: list[ThreadState] = []
    for thread in raw:
        if len(thread.registers) != size:
            raise UnsupportedArchError(
                f"unsupported architecture: thread {thread.tid} of process {pid} has "
                f"{len(thread.registers)} bytes of registers, not the {size} of "
                f"{machine.name}",
                pid=pid,
                phase="snapshot",
                help="32-bit programs cannot be captured",
            )
        threads.append(
            ThreadState(
                tid=thread.tid,
                regs=tuple(memoryview(thread.registers).cast("Q")),
                name=names.get(thread.tid),
                xstate=thread.xstate,
                signal_mask=thread.signal_mask,
                queued=parse_queue(thread.queued),
                rseq=_parse_rseq(thread.rseq),
                robust_list=None
                if thread.robust_list is None
                else RobustList(head=thread.robust_list[0], size=thread.robust_list[1]),
            )
        )
    return tuple(threads)


def parse_queue(queued: Sequence[bytes]) -> tuple[QueuedSignal, ...]:
    """Return signals that wait, by their ``siginfo_t``."""
    return tuple(
        QueuedSignal(signal=int.from_bytes(info[:4], "little"), siginfo=info)
        for info in queued
    )


def _parse_rseq(rseq: tuple[int, int, int, int] | None) -> Rseq | None:
    if rseq is None:
        return None
    address, size, signature, flags = rseq
    return Rseq(address=address, size=size, signature=signature, flags=flags)


def _xstate(tid: int, machine: Machine) -> bytes:
    for regset in machine.fp_regsets:
        try:
            return ptrace.getregset(tid, regset)
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
    return b""


def _rseq(tid: int) -> tuple[int, int, int, int] | None:
    try:
        return ptrace.get_rseq(tid)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        return None


def _robust_list(tid: int, machine: Machine) -> tuple[int, int] | None:
    try:
        return ptrace.get_robust_list(tid, machine.get_robust_list)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        return None
