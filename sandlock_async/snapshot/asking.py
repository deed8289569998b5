"""Facts that only the process itself can ask for: when a clone of it may be asked.

Where none may, or none can be made, the image goes without, and says so. And a clone
takes about as long as all else under the freeze: of a process that handles no signal
the sets of ``/proc/PID/status`` tell the actions, so it is spared.
"""

import errno
import re
import signal
import threading
from array import array
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from sandlock_async.arch import x86_64
from sandlock_async.arch.machine import Machine
from sandlock_async.injection.gadgets import Gadgets
from sandlock_async.injection.interview import Interview, Refused, Thread
from sandlock_async.injection.interview import rehearse as rehearse_interview
from sandlock_async.injection.permission import filters_let_clone, is_unfiltered
from sandlock_async.injection.questions import (
    Answers,
    Wish,
    chain_for,
    questions_for,
)
from sandlock_async.injection.search import are_there, search_gadgets
from sandlock_async.injection.snapshots import find_zombies
from sandlock_async.kernel import files, process_vm, ptrace
from sandlock_async.kernel.scratch import SCRATCH, SCRATCH_BYTES
from sandlock_async.model import MemoryMap, SignalAction
from sandlock_async.procfs.maps import Mapping
from sandlock_async.procfs.syscall import parse_stack_pointer
from sandlock_async.snapshot.thread_facts import RawThread

_SIGNALS = re.compile(rb"\nSigIgn:\t([0-9a-f]+)\nSigCgt:\t([0-9a-f]+)\n")
_SIG_IGN = 1
_CHILD_ENDED = 1 << 16  # SIGCHLD: ignored, its flags matter (SA_NOCLDWAIT)
_SHADOW_STACK = b"shstk"  # in the line x86_Thread_features
_CRITICAL_SECTION_AT = 8  # rseq_cs of struct rseq, linux/rseq.h
_XSTATE_BYTES = 832  # of a machine with AVX; any will do
_SIGSYS = 1 << signal.SIGSYS - 1  # what a dispatched call ends in: it has a handler
_USERFAULTFD_FLAGS = frozenset(("um", "uw", "ui"))


@dataclass(frozen=True, slots=True)
class Unasked:
    """Nobody was asked.

    :ivar reason: why, as the end of a sentence
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a clone can be made with, found before the freeze.

    :ivar gadgets: code to borrow
    :ivar obstacle: why not to; empty if nothing is in the way
    :ivar zombies: snapshots that were left, to be reaped; in its own pid namespace
    """

    gadgets: Gadgets
    obstacle: str = ""
    zombies: tuple[int, ...] = ()


def find_means(
    pid: int,
    machine: Machine,
    mappings: Iterable[Mapping],
    vm_flags: "Iterable[frozenset[str]]",
    *,
    sandboxed: bool,
) -> Means:
    """Look at a running process.

    :param sandboxed: whether it is known to be in a sandbox of sandlock
    :raises OSError: ``ESRCH`` or ``ENOENT`` if it is gone
    """
    if machine.name != x86_64.MACHINE.name:
        return Means(
            gadgets=Gadgets(), obstacle=f"clones are not made on {machine.name}"
        )
    if any(flags & _USERFAULTFD_FLAGS for flags in vm_flags):
        # To write below its stack could wait for the very program that stands still.
        return Means(gadgets=Gadgets(), obstacle="a userfaultfd handles its faults")
    status = files.read_record(f"/proc/{pid}/status")
    if not filters_let_clone(pid, status, sandboxed=sandboxed):
        return Means(
            gadgets=Gadgets(),
            obstacle="a seccomp filter that is not sandlock's might kill it for a clone",
        )
    if _SHADOW_STACK in status:
        return Means(gadgets=Gadgets(), obstacle="it has a shadow stack")
    gadgets = search_gadgets(pid, mappings)
    if not gadgets.usable:
        return Means(
            gadgets=gadgets,
            obstacle="its code has no system call and signal return to borrow",
        )
    return Means(gadgets=gadgets, zombies=find_zombies(pid))


class Asking:
    """A clone is asked while other things of the frozen process are read.

    :param undisturbed: whether the main thread was stopped by us, and by nothing else
    :param changed: whether the mappings are others than the means were found in
    :param snapshot: make a copy of the process, too
    :ivar signal: what it is to be handed at the detach, if that has changed
    """

    def __init__(
        self,
        main: RawThread,
        status: bytes,
        means: Means,
        mappings: Collection[Mapping],
        *,
        undisturbed: bool,
        changed: bool,
        snapshot: bool,
    ) -> None:
        self.signal: int = 0
        self._interview: Interview | None = None
        self._known: Answers | None = None
        self._obstacle: str = ""
        ignored, caught = _signals(status)
        if not _is_needed(ignored, caught, means, snapshot=snapshot):
            self._known = Answers(handlers=_ignored_actions(ignored))
            return
        stack = next(
            (this.map for this in mappings if this.map.path == "[stack]"), None
        )
        self._obstacle = means.obstacle or (
            _obstacle(main, status, stack)
            if undisturbed
            else "a signal was about to stop it or to be handled"
        )
        if self._obstacle:
            return
        assert stack is not None
        if not are_there(main.tid, means.gadgets, mappings if changed else None):
            self._obstacle = "its code has changed just now"
            return
        thread = Thread(
            main.tid, main.registers, main.signal_mask, main.xstate, stack.start
        )
        wish = Wish(ignored | caught, means.zombies, snapshot)
        self._interview = Interview(thread, wish, means.gadgets)

    def advance(self) -> None:
        """Go on, if the clone is ready to."""
        if self._interview is not None:
            self._interview.advance()

    @property
    def changed(self) -> tuple[int, bytes]:
        """Where the stack was written over for a while, and what was there."""
        return (0, b"") if self._interview is None else self._interview.changed

    def finish(self, check_aborted: Callable[[], None]) -> Answers | Unasked:
        """Wait for the clone's end; the main thread is then as it was.

        :param check_aborted: raises if nobody wants to wait any longer
        :raises OSError: ``ESRCH`` if the process was killed
        """
        if self._known is not None:
            return self._known
        if self._interview is None:
            return Unasked(self._obstacle)
        try:
            return self._interview.finish(check_aborted)
        except Refused as error:
            self.signal = error.signal
            return Unasked(str(error))


def rehearse(pid: int, status: bytes, means: Means, *, snapshot: bool) -> None:
    """Make ready what a blocked process would be asked, for the place it would be.

    :param snapshot: whether a copy of the process is to be made, too
    :raises OSError: ``ESRCH`` or ``ENOENT`` if it is gone
    """
    ignored, caught = _signals(status)
    if not _is_needed(ignored, caught, means, snapshot=snapshot):
        _ignored_actions(ignored)
        return
    if means.obstacle:
        return
    are_there(pid, means.gadgets)
    wish = Wish(ignored | caught, means.zombies, snapshot)
    registers = array("Q", bytes(8 * len(x86_64.Register)))
    registers[x86_64.Register.CS] = x86_64.USER_CS
    registers[x86_64.Register.SS] = x86_64.USER_SS
    registers[x86_64.Register.RSP] = SCRATCH.address + SCRATCH_BYTES
    this = threading.get_native_id()
    main = Thread(this, registers.tobytes(), 0, bytes(_XSTATE_BYTES), 0)
    rehearse_interview(main, wish, means.gadgets)
    stack_pointer = parse_stack_pointer(files.read_record(f"/proc/{pid}/syscall"))
    if stack_pointer:
        questions = questions_for(wish, means.gadgets)
        place = questions.place_below(stack_pointer)
        chain_for(questions, place, (x86_64.USER_CS, x86_64.USER_SS))


def _is_needed(ignored: int, caught: int, means: Means, *, snapshot: bool) -> bool:
    """Whether there is anything that only a clone can tell or do."""
    return bool(caught or ignored & _CHILD_ENDED or means.zombies or snapshot)


def _obstacle(main: RawThread, status: bytes, stack: MemoryMap | None) -> str:
    """Return why no clone may be made, nothing if one may."""
    if len(main.registers) != 8 * len(x86_64.Register):
        return "it runs 32-bit code"
    registers = memoryview(main.registers).cast("Q")
    if registers[x86_64.Register.CS] != x86_64.USER_CS:
        return "it runs 32-bit code"
    if registers[x86_64.Register.EFLAGS] & x86_64.TRAP_FLAG:
        return "it steps through its own code"
    if not is_unfiltered(status) and b"\nSeccomp_filters:\t1\n" not in status:
        return "it has installed a seccomp filter"
    if _signals(status)[1] & _SIGSYS and ptrace.may_dispatch_calls(main.tid):
        return "it may dispatch its system calls to itself"
    if _SHADOW_STACK in status:
        return "it has a shadow stack"
    if main.rseq is None:
        return "the kernel does not tell whether it is in a restartable sequence"
    if not main.xstate:
        return "its floating-point state is not known"
    if stack is None or not stack.start <= registers[x86_64.Register.RSP] < stack.end:
        return "its main thread does not run on its ordinary stack"
    if main.rseq[0] and _in_critical_section(main.tid, main.rseq[0]):
        return "it is in a restartable sequence"
    return ""


def _in_critical_section(pid: int, rseq: int) -> bool:
    try:
        return any(process_vm.read(pid, rseq + _CRITICAL_SECTION_AT, 8))
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return True


def _signals(status: bytes) -> tuple[int, int]:
    """Return which signals are ignored, and which have a handler."""
    found = _SIGNALS.search(status)
    return (int(found[1], 16), int(found[2], 16)) if found is not None else (0, 0)


@lru_cache(maxsize=64)
def _ignored_actions(ignored: int) -> tuple[SignalAction, ...]:
    """Return the actions of signals that are ignored; all but the handler is moot."""
    return tuple(
        SignalAction(signal=number, handler=_SIG_IGN, flags=0, restorer=0, mask=0)
        for number in range(1, 65)
        if ignored >> (number - 1) & 1
    )
