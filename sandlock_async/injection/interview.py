"""Asking a clone of a frozen thread, step by step.

The thread is made to call clone(2) for one more thread of its process, which makes
the calls of :mod:`.questions` and exits. The clone shares all with the process, so
nothing is copied, and as a thread it leaves no zombie. What keeps the program safe:

- The program's own thread makes that one call only. Its registers are put back at a
  stop behind which the kernel looks for signals, so it restarts an interrupted call,
  or ends it with ``EINTR`` for a signal that has come meanwhile, exactly as if nothing
  had been.
- With ``CLONE_VFORK`` it waits in the kernel until the clone is gone: the stack below
  its own, where the clone works, is nobody else's until then.
- Meanwhile it blocks all signals, and so does the clone: no handler runs in it.
- If we are killed in the middle, the kernel lets both run. The clone makes its calls
  and exits; the thread then returns through a frame that restores all of it. (Only
  then a sleep, a poll(2) or a pause(2) may end early, with ``EINTR``.)
- The bytes below the stack that were written over are put back.
- SIGSTOP cannot be blocked. The kernel may hand it to the clone, and the thread could
  not stop as long as that one does: then the clone is made to go on nevertheless.
"""

import errno
import os
import time
from array import array
from collections.abc import Callable, Generator, Sequence
from signal import SIGTRAP
from typing import NamedTuple

from sandlock_async.arch.x86_64 import NO_CALL, Call, Register
from sandlock_async.injection.gadgets import Gadgets
from sandlock_async.injection.questions import (
    Answers,
    Script,
    Wish,
    questions_for,
    write_script,
)
from sandlock_async.injection.sigframe import ALL_SIGNALS
from sandlock_async.kernel import files, libc, process_vm, ptrace, wait
from sandlock_async.kernel.libc import surely
from sandlock_async.procfs.stat import Stat, parse_stat

# CLONE_VM | FS | FILES | SIGHAND | VFORK | THREAD | SYSVSEM, linux/sched.h. VFORK also
# lets the clone keep the alternate stack.
_CLONE_FLAGS = 0x100 | 0x200 | 0x400 | 0x800 | 0x4000 | 0x10000 | 0x40000

_DOZE_US = 10
_DOZE_S = 0.002
_REST_US = 100
_SPIN_S = 0.00005
_PATIENCE_S = 0.1
"""A clone takes 0.1 ms; a seccomp supervisor that is asked first may take longer."""

_ALIVE_S = 0.002
"""How often it is seen whether somebody has killed what is waited for."""

_EVENT_STOP = 128  # PTRACE_EVENT_STOP, linux/ptrace.h


class Refused(Exception):
    """The clone could not be made; the thread is as it was.

    :ivar signal: what it was about to get when it was stopped for that, to be handed
        over at the detach; 0 if nothing
    """

    def __init__(self, reason: str, signal: int = 0) -> None:
        super().__init__(reason)
        self.signal = signal


class Thread(NamedTuple):
    """A frozen thread that may make a clone of itself.

    :ivar registers: the words of ``NT_PRSTATUS``, as bytes
    :ivar stack_start: the lowest address of its stack
    """

    tid: int
    registers: bytes
    mask: int
    xstate: bytes
    stack_start: int


class Interview:
    """A clone's life. Call every method on the tracer's thread.

    It begins with the constructor, :meth:`advance` moves it on as far as that goes
    without waiting, and :meth:`finish` must be called in the end.

    :ivar changed: where the stack was written over for a while, and what was there
    """

    def __init__(self, thread: Thread, wish: Wish, gadgets: Gadgets) -> None:
        self.changed: tuple[int, bytes] = 0, b""
        self._tid = thread.tid
        self._steps = self._take_steps(thread, wish, gadgets)
        self._answers: Answers | None = None
        self._refusal: Refused | None = None
        self._over = False
        self._is_impatient = False
        self._clone: int | None = None  # traced, if it stopped
        self.advance()

    def advance(self) -> None:
        """Take the steps that can be taken now.

        :raises OSError: ``ESRCH`` if the process was killed
        """
        if self._over:
            return
        try:
            next(self._steps)
        except StopIteration as end:
            self._over, self._answers = True, end.value
        except Refused as error:
            self._over, self._refusal = True, error
        except BaseException:
            self._over = True
            raise

    def finish(self, check_aborted: Callable[[], None]) -> Answers:
        """Wait for the end.

        :param check_aborted: raises if nobody wants to wait any longer
        :raises Refused: saying why there are no answers
        :raises OSError: ``ESRCH`` if the process was killed
        """
        began = looked = time.monotonic()
        while not self._over:
            self.advance()
            now = time.monotonic()
            if now - began < _SPIN_S:
                continue
            if now - began < _DOZE_S:
                libc.doze(_DOZE_US)
            else:
                libc.rest(_REST_US)  # the copy of a large process's page tables
            if now - looked > _ALIVE_S:
                looked = now
                self._look_after()
            if now - began > _PATIENCE_S and not self._is_impatient:
                # It ends a call that waits for a supervisor, and is harmless else.
                self._is_impatient = True
                ptrace.interrupt(self._tid)
            if now - began > 2 * _PATIENCE_S:
                check_aborted()
                time.sleep(0.001)
        if self._clone is not None:
            wait.reap_thread(self._clone)  # too early? The end of this thread does it.
        if self._answers is None:
            raise self._refusal or Refused("it was given up")
        return self._answers

    def _take_steps(
        self, thread: Thread, wish: Wish, gadgets: Gadgets
    ) -> Generator[None, None, Answers]:
        """Do it all; yields while the thread is waited for."""
        assert gadgets.syscall is not None
        tid = thread.tid
        registers = memoryview(thread.registers).cast("Q")
        questions = questions_for(wish, gadgets)
        script = write_script(questions, registers, thread.mask, thread.xstate)
        if script.return_at < thread.stack_start:
            raise Refused("its stack has no room for one")
        try:
            before = process_vm.read(tid, script.return_at, len(script.content))
            self.changed = script.return_at, before
            process_vm.write(tid, script.return_at, script.content)
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            raise Refused("its stack has no room for one") from None
        # In this order: whenever we die, the thread finds its way back.
        # (Without TRACESYSGOOD a thread at a system call would be sent SIGTRAP then.)
        ptrace.setoptions(tid, ptrace.Option.TRACESYSGOOD)
        prstatus = ptrace.Regset.PRSTATUS
        calling = _calling(registers, script, gadgets.syscall.address)
        ptrace.setregset(tid, prstatus, calling)
        # Given up from here on it would find back by itself, but a sleep ends early.
        surely(lambda: ptrace.setsigmask(tid, ALL_SIGNALS))
        refusal: Refused | None = None
        for _ in ("entry", "exit"):
            signal, code = yield from self._next_stop(tid)
            while code == ptrace.StopCode.INTERRUPTED and signal == SIGTRAP:
                # Interrupted twice, for the freeze; unless it is for our impatience.
                if self._is_impatient:
                    break
                signal, code = yield from self._next_stop(tid)
            if code != ptrace.StopCode.SYSCALL:  # SIGSTOP alone can come through
                event = code >> 8 == _EVENT_STOP
                refusal = Refused("it was stopped just then", 0 if event else signal)
                break
        else:
            clone = surely(lambda: _result(tid))
            if clone < 0:
                refusal = Refused(f"clone(2) says {_strerror(-clone)}")
            # The thread is about to leave its call. This makes the kernel look for signals
            # and restarts first, by the registers that it finds by then.
            surely(lambda: ptrace.interrupt(tid))
        surely(lambda: ptrace.setsigmask(tid, thread.mask))
        surely(lambda: ptrace.setregset(tid, prstatus, thread.registers))
        content = surely(
            lambda: process_vm.read(tid, script.answers_at, questions.answer_bytes)
        )
        surely(lambda: process_vm.write(tid, script.return_at, before))
        if refusal is not None:
            raise refusal
        return questions.parse(content)

    def _next_stop(self, tid: int) -> Generator[None, None, tuple[int, int]]:
        """Resume the thread up to the edge of a system call, or what comes before."""
        surely(lambda: ptrace.resume(tid, to_system_call=True))
        while (stop := surely(lambda: ptrace.stop_siginfo(tid))) is None:
            yield
        wait.take_stop_report(tid)
        return stop

    def _look_after(self) -> None:
        """See why it takes so long, and help."""
        try:
            is_dead = _stat(self._tid).is_dead
            if not is_dead:
                self._help_clone()
        except OSError:
            return  # what lasts, the next look will tell; it must not be left half-way
        # Neither a running tracee nor a dead one says anything to ptrace(2).
        if is_dead:
            raise ProcessLookupError(
                errno.ESRCH, f"process {self._tid} was killed while it was asked"
            )

    def _help_clone(self) -> None:
        """Let the clone go on if it has been stopped."""
        if self._clone is None:
            self._clone = self._seize_stopped()
        if self._clone is not None:
            stop = ptrace.stop_siginfo(self._clone)
            if stop is not None:
                wait.take_stop_report(self._clone)
                signal, code = stop
                event = code >> 8 == _EVENT_STOP
                ptrace.resume(self._clone, 0 if event else signal)

    def _seize_stopped(self) -> int | None:
        """Trace the clone if it has stopped; all others are traced, and not "T"."""
        for tid in files.list_numbers(f"/proc/{self._tid}/task"):
            try:
                if _stat(tid).state == "T":
                    ptrace.seize(tid)
                    return tid
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                pass  # ended since
        return None


def rehearse(thread: Thread, wish: Wish, gadgets: Gadgets) -> None:
    """Go through the steps up to where a tracee is needed, to have them in the caches.

    :param thread: this very one, which nobody traces, with a stack pointer above some
        memory of ours
    """
    try:
        Interview(thread, wish, gadgets)
    except ProcessLookupError:  # what the kernel says of a thread that is not traced
        pass


def _calling(registers: Sequence[int], script: Script, syscall: int) -> bytes:
    """Return the registers of a thread about to call clone(2)."""
    state = array("Q", registers)
    state[Register.RAX] = Call.CLONE
    state[Register.ORIG_RAX] = NO_CALL
    state[Register.RDI] = _CLONE_FLAGS
    state[Register.RSI] = script.chain_at
    state[Register.RDX] = state[Register.R10] = state[Register.R8] = 0
    state[Register.RIP] = syscall
    state[Register.RSP] = script.return_at
    return state.tobytes()


def _stat(tid: int) -> Stat:
    return parse_stat(files.read_record(f"/proc/{tid}/stat"))


def _result(tid: int) -> int:
    registers = ptrace.getregset(tid, ptrace.Regset.PRSTATUS)
    return memoryview(registers).cast("q")[Register.RAX]


def _strerror(number: int) -> str:
    if number in errno.errorcode:
        return f"{errno.errorcode[number]} ({os.strerror(number)})"
    return "that it was interrupted"  # ERESTARTNOINTR and its like
