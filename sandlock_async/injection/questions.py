"""What a clone is told: a chain of system calls, laid out in memory. Pure, x86-64.

No code is written for it. Each call is a frame (:mod:`.sigframe`); the clone
"returns" into it, makes the call, and returns into the next::

    return_at       frame: the cloning thread as it was
                    its floating-point state
    chain_at        frame: rt_sigaction(SIGINT, NULL, answer)
                    …
                    frame: clone(2), for a snapshot of the memory
                    frame: exit(0)
                    frame: close_range(2), of the snapshot
                    …
    answers_at      what the kernel has answered, and constants
    stack pointer - 128
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from sandlock_async.arch.x86_64 import RED_ZONE_BYTES, Call, Register
from sandlock_async.injection.gadgets import Gadgets, stores_to
from sandlock_async.injection.sigframe import (
    ALL_SIGNALS,
    FRAME_BYTES,
    XSTATE_ALIGNMENT,
    resumed,
    sigframe,
    xstate_area,
)
from sandlock_async.model import AltStack, IntervalTimer, SignalAction

_EFLAGS = 0x202  # interrupts on, and a bit that is always set
_SIGSET_BYTES = 8
_TIMERS = (0, 1, 2)  # ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF

# struct sigaction of the kernel, stack_t, struct itimerval; what brk(2) returns; a pid
_ACTION = struct.Struct("<4Q")
_STACK = struct.Struct("<Qi4xQ")
_TIMER = struct.Struct("<4q")
_BREAK = struct.Struct("<Q")
_PID = struct.Struct("<q")

SNAPSHOT_NAME = "sandlock-async"
"""What a snapshot calls itself, at most 15 characters."""

_NAP_S = 2
"""How long a snapshot waits for somebody to hold it."""

# struct timespec, and the name
_CONSTANTS = struct.pack("<2Q16s", _NAP_S, 0, SNAPSHOT_NAME.encode())
_NAME_AT = 16

_CLONE_PARENT_SETTID = 0x00100000
_WALL = 0x40000000
_PR_SET_NAME = 15
_LAST_FD = 0xFFFFFFFF

_RETURN_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a clone has said of its process, and of the thread it is a clone of.

    What is None was not asked.

    :ivar brk: the end of the heap; None, too, if that could not be stored
    :ivar snapshot: the pid of a copy of the process, in its own pid namespace; 0 if
        none was asked for or could be made
    """

    handlers: tuple[SignalAction, ...]
    timers: tuple[IntervalTimer, ...] | None = None
    brk: int | None = None
    alt_stack: AltStack | None = None
    snapshot: int = 0


class Wish(NamedTuple):
    """What a clone is to do.

    :ivar signals: whose actions it asks for: bit *n* - 1 for signal *n*
    :ivar zombies: children of the process to be reaped; in its own pid namespace
    :ivar snapshot: whether to make a copy of the process, which closes its descriptors
        and waits a moment to be held; it shares no memory with it
    """

    signals: int = 0
    zombies: tuple[int, ...] = ()
    snapshot: bool = False


class Questions:
    """The calls, and where they and their answers lie."""

    def __init__(self, wish: Wish, gadgets: Gadgets) -> None:
        assert gadgets.syscall is not None
        assert gadgets.sigreturn is not None
        self._gadgets = gadgets
        self._syscall = gadgets.syscall.address
        self.sigreturn: int = gadgets.sigreturn.address
        self._store = gadgets.store if gadgets.can_store else None
        self._wish = wish
        self._signals = [n for n in range(1, 65) if wish.signals >> (n - 1) & 1]
        self._stack_at = _ACTION.size * len(self._signals)
        self._timers_at = self._stack_at + _STACK.size
        self._brk_at = self._timers_at + _TIMER.size * len(_TIMERS)
        self._snapshot_at = self._brk_at + _BREAK.size
        self.answer_bytes: int = self._snapshot_at + _PID.size
        calls = len(wish.zombies) + len(self._signals) + 1 + len(_TIMERS) + 1
        self._snapshot_chain_at = FRAME_BYTES * (calls + wish.snapshot)
        if self._store is not None:
            self._snapshot_chain_at += FRAME_BYTES + _RETURN_BYTES
        self.chain_bytes: int = self._snapshot_chain_at
        if wish.snapshot:
            self.chain_bytes += FRAME_BYTES * len(("name", "close", "nap", "exit"))

    def place_below(self, stack_pointer: int) -> int:
        """Return an address for :meth:`chain`, with room for the answers behind it."""
        top = stack_pointer - RED_ZONE_BYTES
        size = self.chain_bytes + self.answer_bytes + len(_CONSTANTS)
        return (top - size) & -XSTATE_ALIGNMENT

    def chain(self, at: int, segments: tuple[int, int]) -> bytes:
        """Return the frames, for address *at*.

        :param segments: ``cs`` and ``ss`` of the cloning thread
        """
        chain = _Chain(at, segments, self._syscall, self.sigreturn)
        answers_at = at + self.chain_bytes
        for pid in self._wish.zombies:
            chain.call(Call.WAIT4, {Register.RDI: pid, Register.RDX: _WALL})
        if self._store is not None:
            base, displacement = stores_to(self._store.code)
            place = answers_at + self._brk_at - displacement
            chain.call(Call.BRK, {base: place}, self._store.address)
        for number, signal in enumerate(self._signals):
            chain.call(
                Call.RT_SIGACTION,
                {
                    Register.RDI: signal,
                    Register.RDX: answers_at + _ACTION.size * number,
                    Register.R10: _SIGSET_BYTES,
                },
            )
        chain.call(Call.SIGALTSTACK, {Register.RSI: answers_at + self._stack_at})
        for which in _TIMERS:
            place = answers_at + self._timers_at + _TIMER.size * which
            chain.call(Call.GETITIMER, {Register.RDI: which, Register.RSI: place})
        snapshot_at = at + self._snapshot_chain_at
        if self._wish.snapshot:
            chain.call(
                Call.CLONE,
                {
                    Register.RDI: _CLONE_PARENT_SETTID,
                    Register.RSI: snapshot_at,
                    Register.RDX: answers_at + self._snapshot_at,
                },
            )
        chain.call(Call.EXIT, {})
        if not self._wish.snapshot:
            return b"".join(chain.frames)
        constants_at = answers_at + self.answer_bytes
        copy = _Chain(snapshot_at, segments, self._syscall, self.sigreturn)
        copy.call(
            Call.PRCTL,
            {Register.RDI: _PR_SET_NAME, Register.RSI: constants_at + _NAME_AT},
        )
        copy.call(Call.CLOSE_RANGE, {Register.RSI: _LAST_FD})
        copy.call(Call.NANOSLEEP, {Register.RDI: constants_at})
        copy.call(Call.EXIT_GROUP, {})
        return b"".join((*chain.frames, *copy.frames))

    def parse(self, content: bytes) -> Answers:
        """Return the answers."""
        handlers: list[SignalAction] = []
        for signal, action in zip(
            self._signals, _ACTION.iter_unpack(content[: self._stack_at]), strict=True
        ):
            handler, flags, restorer, mask = action
            handlers.append(
                SignalAction(
                    signal=signal,
                    handler=handler,
                    flags=flags,
                    restorer=restorer,
                    mask=mask,
                )
            )
        address, stack_flags, size = _STACK.unpack_from(content, self._stack_at)
        timers: list[IntervalTimer] = []
        for which in _TIMERS:
            interval_s, interval_us, value_s, value_us = _TIMER.unpack_from(
                content, self._timers_at + _TIMER.size * which
            )
            timers.append(
                IntervalTimer(
                    which=which,
                    value=value_s * 1_000_000 + value_us,
                    interval=interval_s * 1_000_000 + interval_us,
                )
            )
        (snapshot,) = _PID.unpack_from(content, self._snapshot_at)
        (brk,) = _BREAK.unpack_from(content, self._brk_at)
        return Answers(
            handlers=tuple(handlers),
            timers=tuple(timers),
            brk=brk if self._store is not None else None,
            alt_stack=AltStack(address=address, flags=stack_flags, size=size),
            snapshot=snapshot,
        )


@lru_cache(maxsize=64)
def questions_for(wish: Wish, gadgets: Gadgets) -> Questions:
    """Return questions as :class:`Questions`, made once."""
    return Questions(wish, gadgets)


class _Chain:
    """Frames, one behind the other."""

    def __init__(
        self, at: int, segments: tuple[int, int], syscall: int, sigreturn: int
    ) -> None:
        self.frames: list[bytes] = []
        self._at = at
        self._sigreturn = sigreturn
        self._blank = [0] * len(Register)
        self._blank[Register.CS], self._blank[Register.SS] = segments
        self._blank[Register.EFLAGS] = _EFLAGS
        self._blank[Register.RIP] = syscall

    def call(
        self, number: int, arguments: dict[Register, int], then: int | None = None
    ) -> None:
        """Add a call.

        :param then: address of code to go to behind it, before the next
        """
        state = self._blank.copy()
        state[Register.RAX] = number
        for register, value in arguments.items():
            state[register] = value
        self._at += FRAME_BYTES
        state[Register.RSP] = self._at
        self.frames.append(sigframe(state, ALL_SIGNALS, 0, self._sigreturn))
        if then is not None:
            self.frames.append(then.to_bytes(_RETURN_BYTES, "little"))
            self._at += _RETURN_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Bytes for the stack of a cloning thread, and the addresses of their parts.

    :ivar return_at: where the bytes begin; the cloning thread's stack pointer during
        its call
    :ivar chain_at: the clone's
    """

    chain_at: int
    answers_at: int
    return_at: int
    content: bytes


def write_script(
    questions: Questions,
    registers: Sequence[int],
    mask: int,
    xstate: bytes,
) -> Script:
    """Lay everything out below the stack of a thread.

    :param registers: its words of ``NT_PRSTATUS``
    :param mask: the signals it blocks
    """
    area = xstate_area(xstate)
    chain_at = questions.place_below(registers[Register.RSP])
    answers_at = chain_at + questions.chain_bytes
    # Not below the frame: the next capture, should we be killed, may find the thread
    # here, and use what is below its stack pointer.
    xstate_at = (chain_at - len(area)) & -XSTATE_ALIGNMENT
    return_at = xstate_at - FRAME_BYTES
    segments = (registers[Register.CS], registers[Register.SS])
    content = b"".join(
        (
            sigframe(resumed(registers), mask, xstate_at, questions.sigreturn),
            area.ljust(chain_at - xstate_at, b"\0"),
            chain_for(questions, chain_at, segments),
            bytes(questions.answer_bytes),
            _CONSTANTS,
        )
    )
    return Script(
        chain_at=chain_at,
        answers_at=answers_at,
        return_at=return_at,
        content=content,
    )


@lru_cache(maxsize=64)
def chain_for(questions: Questions, at: int, segments: tuple[int, int]) -> bytes:
    """Return :meth:`Questions.chain`; for the same place it is the same."""
    return questions.chain(at, segments)
