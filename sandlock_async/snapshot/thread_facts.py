"""What is read of each thread under the freeze, and parsed afterwards."""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sandlock_async.arch import Machine
from sandlock_async.errors import UnsupportedArchError
from sandlock_async.kernel import files, ptrace
from sandlock_async.model import AltStack, QueuedSignal, RobustList, Rseq, ThreadState
from sandlock_async.target import Target

_UNKNOWN = (errno.EINVAL, errno.EIO, errno.ENODEV, errno.ENOSYS, errno.EPERM)
"""What a kernel says that does not know a request, or does not tell us."""


class RawThread(NamedTuple):
    """A thread as ptrace shows it. Made under the freeze, so no dataclass.

    :ivar queued: ``siginfo_t`` of the signals that wait for it
    :ivar rseq: address, size, signature, flags
    """

    tid: int
    registers: bytes
    xstate: bytes
    signal_mask: int
    queued: list[bytes]
    rseq: tuple[int, int, int, int] | None


def read_threads(
    tids: Sequence[int], machine: Machine, *, idle: bool
) -> list[RawThread]:
    """Read every thread of a frozen process.

    :param idle: whether no signal is known to wait for the first
    :raises OSError: ``ESRCH`` if it was killed meanwhile
    """
    return [
        RawThread(
            tid,
            ptrace.getregset(tid, ptrace.Regset.PRSTATUS),
            _xstate(tid, machine),
            ptrace.getsigmask(tid),
            [] if idle and tid == tids[0] else ptrace.peeksiginfo(tid, shared=False),
            _rseq(tid),
        )
        for tid in tids
    ]


@dataclass(frozen=True, slots=True)
class Lasting:
    """What a thread has from its start on: it need not be read under the freeze.

    :ivar robust_list: head, size
    """

    name: str | None = None
    robust_list: RobustList | None = None


def read_lasting(target: Target, threads: Sequence[RawThread]) -> dict[int, Lasting]:
    """Return what lasts of the threads, without those that have ended since."""
    found: dict[int, Lasting] = {}
    for thread in threads:
        robust_list = _robust_list(thread.tid, target.machine)
        # Read last: while it is a thread of this process, its number is nobody else's.
        name = _name(target.pid, thread.tid)
        found[thread.tid] = Lasting() if name is None else Lasting(name, robust_list)
    if not target.is_there():  # it may all be about another one, which has the number
        return {thread.tid: Lasting() for thread in threads}
    return found


def parse_threads(
    raw: Sequence[RawThread],
    lasting: Mapping[int, Lasting],
    pid: int,
    machine: Machine,
    *,
    alt_stack: AltStack | None,
) -> tuple[ThreadState, ...]:
    """Return every thread, its registers as numbers.

    :param alt_stack: of the main thread, if it is known
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
                name=lasting[thread.tid].name,
                xstate=thread.xstate,
                signal_mask=thread.signal_mask,
                queued=parse_queue(thread.queued),
                rseq=_parse_rseq(thread.rseq),
                robust_list=lasting[thread.tid].robust_list,
                alt_stack=None if threads else alt_stack,
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


def _robust_list(tid: int, machine: Machine) -> RobustList | None:
    try:
        head, size = ptrace.get_robust_list(tid, machine.get_robust_list)
    except OSError as error:
        if error.errno not in (*_UNKNOWN, errno.ESRCH):
            raise
        return None
    return RobustList(head=head, size=size)


def _name(pid: int, tid: int) -> str | None:
    try:
        name = files.read_record(f"/proc/{pid}/task/{tid}/comm")
    except OSError as error:
        if not files.is_gone(error):
            raise
        return None
    return name.decode(errors="replace").rstrip("\n")
