"""Threads: registers, and what the kernel keeps for each."""

from dataclasses import dataclass
from typing import Annotated

I32 = range(-(1 << 31), 1 << 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rseq:
    """A registered restartable-sequences area, ``PTRACE_GET_RSEQ_CONFIGURATION``.

    :ivar address: of ``struct rseq``; 0 if none is registered
    :ivar size: its length in bytes
    :ivar signature: the word in front of abort handlers
    :ivar flags: of the registration
    """

    address: int
    size: int
    signature: int
    flags: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustList:
    """The list of robust futexes, ``get_robust_list(2)``.

    :ivar head: address; 0 if there is none
    :ivar size: of the head in bytes
    """

    head: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AltStack:
    """The alternate signal stack, ``sigaltstack(2)``."""

    address: int
    flags: Annotated[int, I32]
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedSignal:
    """A signal that was sent and not yet delivered, ``PTRACE_PEEKSIGINFO``.

    :ivar signal: its number
    :ivar siginfo: the 128 bytes of its ``siginfo_t``
    """

    signal: int
    siginfo: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadState:
    """One thread. What is None is not known: sandlock's images lack it.

    :ivar tid: thread ID
    :ivar regs: its general registers, as in :class:`ProcessState`
    :ivar name: at most 15 characters, ``PR_SET_NAME``
    :ivar xstate: floating-point and vector registers: ``NT_X86_XSTATE`` (the XSAVE
        standard form) on x86-64, else ``NT_PRFPREG``; empty if not known
    :ivar signal_mask: blocked signals, bit *n* - 1 for signal *n*
    :ivar queued: signals sent to this thread that wait
    :ivar alt_stack: where handlers run that ask for it; known for the main thread
    """

    tid: int
    regs: tuple[int, ...]
    name: str | None = None
    xstate: bytes = b""
    signal_mask: int | None = None
    queued: tuple[QueuedSignal, ...] = ()
    alt_stack: AltStack | None = None
    rseq: Rseq | None = None
    robust_list: RobustList | None = None
