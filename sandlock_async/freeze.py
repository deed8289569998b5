"""Freeze and thaw of a thread group.

Rules:

- Everything here runs on the thread that attaches (:mod:`sandlock_async.tracer`).
- First all threads are seized, and run on; then all are interrupted. Threads that
  start meanwhile are found by listing again, until everybody known stands still
  and a listing shows nobody else: only a running thread can start another.
- That a thread stands still is learnt by asking (``PTRACE_GETSIGINFO`` answers
  ``ESRCH`` while it runs), never by its wait status, which anybody in this process
  may take. Ours is taken at once, so that nobody mistakes it for an exit.
- A signal caught in flight is handed over at the detach. A group-stop needs
  nothing: the kernel puts the thread back into it.
"""

import os
import threading
import time
from dataclasses import dataclass

from sandlock_async.clock import Deadline
from sandlock_async.denial import explain_denial
from sandlock_async.errors import (
    FreezeTimeoutError,
    ProcessGoneError,
    UncapturableError,
)
from sandlock_async.kernel import files, ptrace, wait
from sandlock_async.procfs.stat import Stat, parse_stat

_EVENT_STOP = 128  # PTRACE_EVENT_STOP, linux/ptrace.h

_SEIZE_FIRST_PASSES = 16
"""Listings before the first interrupt; a program may start threads for ever."""

_REAP_S = 0.002
_SPIN_S = 0.0003
_YIELD_S = 0.003
_FOREIGN_TRACER_S = 0.5
"""How long another tracer may take to let go (sandlock's own, for one fork)."""


@dataclass(slots=True)
class _Tracee:
    tid: int
    interrupted: bool = False
    stopped: bool = False
    signal: int = 0  # to hand over at the detach


class ThreadGroup:
    """The threads of one process while they are traced.

    :ivar frozen_at: monotonic seconds of the first interrupt
    :ivar thawed_at: monotonic seconds of the last detach
    """

    def __init__(self, pid: int, deadline: Deadline) -> None:
        self.pid = pid
        self.frozen_at = 0.0
        self.thawed_at = 0.0
        self._deadline = deadline
        self._tracees: dict[int, _Tracee] = {}
        self._dead: set[int] = set()
        self._reaper: threading.Thread | None = None
        self._reaper_done = threading.Event()

    @property
    def tids(self) -> list[int]:
        """Every thread, the main thread first, the others by number."""
        others = sorted(tid for tid in self._tracees if tid != self.pid)
        return [self.pid, *others] if self.pid in self._tracees else others

    def freeze(self) -> None:
        """Attach to every thread and stop it, those included that start meanwhile.

        :raises NotPermittedError: saying who or what forbids it
        :raises ProcessGoneError: if there is no such process, or it ends
        :raises UncapturableError: if the main thread has ended, and others not
        :raises FreezeTimeoutError: naming the threads that would not stop
        """
        for _ in range(_SEIZE_FIRST_PASSES):
            if not self._seize_new():
                break
        time.sleep(0)  # a fresh turn of the GIL: nobody asks for it for 5 ms
        self.frozen_at = time.monotonic()
        while True:
            self._interrupt_new()
            self._wait_for_stops()
            if not self._seize_new() and self._all_stopped():
                self._reaper_done.set()
                return

    def check_frozen(self) -> None:
        """Return if everybody still stands still.

        :raises ProcessGoneError: if the process was killed meanwhile
        """
        if not self._all_stopped():
            raise ProcessGoneError(self.pid, "snapshot", "it was killed")

    def thaw(self) -> None:
        """Let every stopped thread run on, with the signal it was about to get.

        Never fails: a thread that is gone needs nothing, and one that would not
        stop cannot be detached by request; the end of this thread lets it go.
        """
        if not self._tracees:
            return  # thawed already
        for tracee in self._tracees.values():
            if tracee.stopped:
                try:
                    ptrace.detach(tracee.tid, tracee.signal)
                except ProcessLookupError:
                    pass  # killed while it stood still
        self.thawed_at = time.monotonic()
        self._reaper_done.set()
        if self._reaper is not None:
            self._reaper.join()
        self._tracees.clear()

    # -- attach ----------------------------------------------------------------

    def _seize_new(self) -> bool:
        """Seize every thread not known yet; whether there was one."""
        try:
            listed = files.list_numbers(f"/proc/{self.pid}/task")
        except OSError as error:
            if files.is_gone(error):
                raise ProcessGoneError(self.pid, "attach") from None
            raise
        # A tid that is no longer listed may come back as another thread.
        present = set(listed)
        self._dead &= present
        for tid in self._tracees.keys() - present:
            del self._tracees[tid]

        found = False
        for tid in listed:
            if tid not in self._tracees and tid not in self._dead:
                found |= self._seize(tid)
        return found

    def _seize(self, tid: int) -> bool:
        give_up = time.monotonic() + _FOREIGN_TRACER_S
        while True:
            self._check_time([tid])
            if self._tracees and self._reaper is None:
                self._start_reaper()
            try:
                ptrace.seize(tid)
            except ProcessLookupError:
                return False  # ended since it was listed
            except PermissionError as error:
                stat = self._stat_of(tid)
                if stat is None:
                    return False
                if stat.is_dead:
                    self._check_leader(tid, stat)
                    self._dead.add(tid)
                    return False
                if not _traced_by(tid) or time.monotonic() > give_up:
                    raise explain_denial(self.pid, tid, stat) from error
                time.sleep(0.002)
            else:
                self._tracees[tid] = _Tracee(tid)
                return True

    def _start_reaper(self) -> None:
        """Reap dead tracees from another thread while this one may block.

        A thread that calls execve(2) waits, holding the lock that PTRACE_SEIZE
        wants, until its dead siblings are reaped, which is the tracer's to do:
        without help both would wait for ever. Any thread of ours can reap.
        """

        def reap() -> None:
            while not self._reaper_done.wait(_REAP_S):
                for tid in tuple(self._tracees):
                    if tid != self.pid:
                        wait.reap_thread(tid)

        name = f"sandlock-async-reaper-{self.pid}"
        self._reaper = threading.Thread(target=reap, name=name, daemon=True)
        self._reaper.start()

    # -- freeze ----------------------------------------------------------------

    def _interrupt_new(self) -> None:
        for tracee in tuple(self._tracees.values()):
            if not tracee.interrupted:
                self._interrupt(tracee)

    def _interrupt(self, tracee: _Tracee) -> None:
        try:
            ptrace.interrupt(tracee.tid)
        except ProcessLookupError:
            # Gone, or its number now belongs to the thread that called execve(2):
            # the next listing tells.
            del self._tracees[tracee.tid]
        else:
            tracee.interrupted = True

    def _wait_for_stops(self) -> None:
        began = time.monotonic()
        turn = 0
        while running := [
            tracee for tracee in self._tracees.values() if not self._stopped(tracee)
        ]:
            turn += 1
            waited = time.monotonic() - began
            if waited < _SPIN_S:
                continue
            self._check_time([tracee.tid for tracee in running])
            if waited < _YIELD_S:
                os.sched_yield()
                continue
            # Slow now: let the GIL go, see who died, and ask again.
            time.sleep(0.0005)
            if turn % 8 == 0:
                self._seize_new()
                for tracee in running:
                    self._recover(tracee)

    def _stopped(self, tracee: _Tracee) -> bool:
        """Whether the tracee stands still; remembers the signal it was to get."""
        if tracee.stopped:
            return True
        stop = ptrace.stop_siginfo(tracee.tid)
        if stop is None:
            return False
        wait.take_stop_report(tracee.tid)
        signo, code = stop
        # Our interrupt and a group-stop are events; all else is a signal that the
        # thread was about to get (ptrace(2), "Stopped states").
        tracee.signal = 0 if code >> 8 == _EVENT_STOP else signo
        tracee.stopped = True
        return True

    def _recover(self, tracee: _Tracee) -> None:
        """Find out why a tracee does not stop: dead, or another one by now?"""
        if tracee.tid not in self._tracees:
            return
        if tracee.tid != self.pid and wait.reap_thread(tracee.tid):
            del self._tracees[tracee.tid]
            return
        stat = self._stat_of(tracee.tid)
        if stat is not None and stat.is_dead:
            self._check_leader(tracee.tid, stat)
        elif not self._stopped(tracee):
            self._interrupt(tracee)  # an execve(2) may have swallowed the first

    def _all_stopped(self) -> bool:
        """Whether everybody still stands: execve(2) or SIGKILL may have undone it."""
        for tracee in tuple(self._tracees.values()):
            if ptrace.stop_siginfo(tracee.tid) is None:
                tracee.stopped = tracee.interrupted = False
        if not self._tracees:
            raise ProcessGoneError(self.pid, "freeze")
        return all(tracee.stopped for tracee in self._tracees.values())

    # -- what went wrong -------------------------------------------------------

    def _stat_of(self, tid: int) -> Stat | None:
        try:
            return parse_stat(files.read_file(f"/proc/{self.pid}/task/{tid}/stat"))
        except OSError as error:
            if files.is_gone(error):
                return None
            raise

    def _check_leader(self, tid: int, stat: Stat) -> None:
        if tid == self.pid:
            raise dead_leader_error(self.pid, stat, "freeze")

    def _check_time(self, tids: list[int]) -> None:
        self._deadline.check_aborted()
        if not self._deadline.expired:
            return
        stats = [(tid, self._stat_of(tid)) for tid in tids]
        states = ", ".join(
            f"{tid} ({stat.comm}) in state {stat.state}" for tid, stat in stats if stat
        )
        raise FreezeTimeoutError(
            self.pid,
            "freeze",
            f"process {self.pid} did not come to a stop in {self._deadline.seconds:g} "
            f"s: thread {states or tids}",
            help="a thread in state D waits inside the kernel (disk, network file "
            "system, vfork) and cannot be stopped before that ends: try again later, "
            "or with a longer timeout",
        )


def dead_leader_error(
    pid: int, stat: Stat, phase: str
) -> ProcessGoneError | UncapturableError:
    """Return the error for a process whose main thread has ended."""
    try:
        others = [
            tid
            for tid in files.list_numbers(f"/proc/{pid}/task")
            if tid != pid
            and not parse_stat(files.read_file(f"/proc/{pid}/task/{tid}/stat")).is_dead
        ]
    except OSError as error:
        if not files.is_gone(error):
            raise
        others = []
    if not others:
        return ProcessGoneError(pid, phase, f"it has ended (state {stat.state})")
    return UncapturableError(
        f"the main thread of process {pid} has ended while {len(others)} other "
        "threads run on",
        pid=pid,
        phase=phase,
        help="a checkpoint holds the registers of the main thread: let it wait for "
        "the others instead of ending first",
    )


def _traced_by(tid: int) -> bool:
    """Whether somebody traces the thread at this moment."""
    try:
        status = files.read_file(f"/proc/{tid}/status")
    except OSError:
        return False
    return b"TracerPid:\t0\n" not in status
