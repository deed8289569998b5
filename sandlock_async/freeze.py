"""Freeze and thaw of a thread group.

Rules:

- Everything here runs on the thread that attaches (:mod:`sandlock_async.tracer`).
- First all threads are seized, and run on; then all are interrupted. Threads that
  start meanwhile are found by listing again, until as many stand still as the
  kernel counts: only a running thread can start another.
- That a thread stands still is learnt by asking (``PTRACE_GETSIGINFO`` answers
  ``ESRCH`` while it runs), never by its wait status, which anybody in this process
  may take. Ours is taken at once, so that nobody mistakes it for an exit.
- A thread that is caught on the way to a signal handler is let go on up to the
  handler's first instruction: the signal is in the picture then, as a frame on its
  stack. A signal that would end or stop the program is handed over at the detach. A
  group-stop needs nothing: the kernel puts the thread back into it.
"""

import signal
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
from sandlock_async.kernel import files, libc, ptrace, wait
from sandlock_async.procfs.stat import Stat, parse_stat
from sandlock_async.procfs.status import parse_status
from sandlock_async.threads import start_thread

_EVENT_STOP = 128  # PTRACE_EVENT_STOP, linux/ptrace.h

_SEIZE_FIRST_PASSES = 16
"""Listings before the first interrupt; a program may start threads for ever."""

_DELIVERIES = 8
"""Signals that a thread gets under a freeze; at the next one it is stopped on the way."""

_IGNORED = (signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH)
"""Those that do nothing by default, signal(7)."""

_REAP_S = 0.002
_SPIN_S = 0.00005
_DOZE_S = 0.003
_DOZE_US = 10
_FOREIGN_TRACER_S = 0.5
"""How long another tracer may take to let go (sandlock's own, for one fork)."""

_EXEC_S = 0.1
"""How long a main thread may be dead, or not to be traced, in the midst of execve."""


@dataclass(slots=True)
class _Tracee:
    tid: int
    interrupted: bool = False
    stopped: bool = False
    undisturbed: bool = False  # stopped by us, and by nothing else
    signal: int = 0  # to hand over at the detach
    delivered: int = 0  # signals under the freeze


class ThreadGroup:
    """The threads of one process while they are traced.

    :ivar frozen_at: monotonic seconds of the first interrupt
    :ivar thawed_at: monotonic seconds of the last detach
    """

    def __init__(self, pid: int, deadline: Deadline) -> None:
        self.pid = pid
        self.frozen_at: float = 0.0
        self.thawed_at: float = 0.0
        self._deadline = deadline
        self._tracees: dict[int, _Tracee] = {}
        self._leader_died: float | None = None
        self._reaper: threading.Thread | None = None
        self._reaper_done = threading.Event()

    @property
    def tids(self) -> list[int]:
        """Every thread, the main thread first, the others by number."""
        others = sorted(tid for tid in self._tracees if tid != self.pid)
        return [self.pid, *others] if self.pid in self._tracees else others

    def attach(self) -> None:
        """Attach to every thread, without stopping any.

        :raises NotPermittedError: saying who or what forbids it
        :raises ProcessGoneError: if there is no such process, or it ends
        :raises UncapturableError: if the main thread has ended, and others not
        :raises FreezeTimeoutError: naming the threads that would not be attached to
        """
        for _ in range(_SEIZE_FIRST_PASSES):
            if not self._seize_new():
                break

    def freeze(self) -> None:
        """Stop every thread, those included that have started meanwhile.

        :raises CaptureError: as :meth:`attach`
        """
        libc.sleep_precisely()
        time.sleep(0)  # a fresh turn of the GIL: nobody asks for it for 5 ms
        self.frozen_at = time.monotonic()
        while True:
            self._interrupt_new()
            self._wait_for_stops()
            if self._everybody_stopped():
                self._reaper_done.set()
                return
            self._seize_new()
            self._check_time([self.pid])

    def is_undisturbed(self, tid: int) -> bool:
        """Whether a thread would run on now if it were not for us."""
        return self._tracees[tid].undisturbed

    def hand_over(self, tid: int, signal: int) -> None:
        """Take note of a signal that a thread has been stopped for; 0 is none."""
        if signal:
            self._tracees[tid].signal = signal

    def check_aborted(self) -> None:
        """Return if there is still time.

        :raises FreezeTimeoutError: if not
        :raises CaptureAborted: if nobody waits any longer
        """
        self._check_time([self.pid])

    def thaw(self) -> bool:
        """Let every stopped thread run on, with the signal it was about to get.

        Never fails: a thread that is gone needs nothing, and one that would not
        stop cannot be detached by request; the end of this thread lets it go.

        :return: whether the process had stood still until now
        """
        whole = True
        detached = 0
        for tracee in self._tracees.values():
            if tracee.stopped:
                try:
                    ptrace.detach(tracee.tid, tracee.signal)
                except ProcessLookupError:
                    # SIGKILL undoes every stop, so the first tells. Later ones may
                    # have been ended by one that runs again: execve(2), exit(2).
                    whole = whole and detached > 0
                except OSError:
                    pass  # the end of this thread lets it go
                detached += 1
        if self._tracees:
            self.thawed_at = time.monotonic()
        self._reaper_done.set()
        if self._reaper is not None:
            self._reaper.join()
        self._tracees.clear()
        return whole

    # -- attach ----------------------------------------------------------------

    def _seize_new(self) -> bool:
        """Seize every thread not known yet; whether there was one."""
        try:
            listed = files.list_numbers(f"/proc/{self.pid}/task")
        except OSError as error:
            if files.is_gone(error):
                raise ProcessGoneError(self.pid, "attach") from None
            raise
        # A listing can miss a thread while another one ends: it proves presence,
        # not absence. A tracee forgotten would stay a zombie for ever.
        for tid in self._tracees.keys() - set(listed):
            self._ended(self._tracees[tid])

        found = False
        for tid in listed:
            if tid not in self._tracees:
                found |= self._seize(tid)
        return found

    def _seize(self, tid: int) -> bool:
        denied: float | None = None  # since when; the first request may have blocked
        while True:
            self._check_time([tid])
            if self._tracees and self._reaper is None:
                self._start_reaper()
            try:
                ptrace.seize(tid)
            except ProcessLookupError:
                return False  # ended since it was listed
            except PermissionError as error:
                now = time.monotonic()
                stat = self._stat_of(tid)
                if stat is None:
                    return False
                if stat.is_dead:
                    if tid != self.pid:
                        wait.reap_thread(tid)
                        return False
                    self._check_leader(stat)
                    denied = now
                tracer = _tracer_of(tid)
                if tracer == threading.get_native_id():
                    break  # a tracee that called execve(2) and took this number
                patience = _FOREIGN_TRACER_S if tracer else _EXEC_S
                denied = now if denied is None else denied
                if now - denied > patience:
                    raise explain_denial(self.pid, tid, stat) from error
                time.sleep(0.001)
            else:
                break
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
                        try:
                            wait.reap_thread(tid)
                        except OSError:
                            continue  # the next time

        name = f"sandlock-async-reaper-{self.pid}"
        reaper = threading.Thread(target=reap, name=name, daemon=True)
        start_thread(reaper)
        self._reaper = reaper

    # -- freeze ----------------------------------------------------------------

    def _interrupt_new(self) -> None:
        for tracee in tuple(self._tracees.values()):
            if not tracee.interrupted:
                self._interrupt(tracee)

    def _interrupt(self, tracee: _Tracee) -> None:
        try:
            ptrace.interrupt(tracee.tid)
        except ProcessLookupError:
            # Dead: to be reaped. But the main thread's number may have gone to a
            # thread that called execve(2) and is no tracee: seize it anew.
            if tracee.tid == self.pid:
                del self._tracees[tracee.tid]
                return
        tracee.interrupted = True

    def _wait_for_stops(self) -> None:
        began = time.monotonic()
        turn = 0
        while running := [
            tracee
            for tracee in tuple(self._tracees.values())
            if not self._stopped(tracee) and not self._ended(tracee)
        ]:
            waited = time.monotonic() - began
            if waited < _SPIN_S:
                continue
            self._check_time([tracee.tid for tracee in running])
            if waited < _DOZE_S:
                # A tracee may share our CPU: a spinning or yielding thread keeps it
                # from running for milliseconds, one that sleeps does not.
                libc.doze(_DOZE_US)
                continue
            # Slow now: let the GIL go, see what became of them, and ask again.
            time.sleep(0.0005)
            turn += 1
            if turn % 8 == 0:
                self._seize_new()
                self._interrupt_again(running)

    def _stopped(self, tracee: _Tracee) -> bool:
        """Whether the tracee stands still; remembers the signal it was to get."""
        if tracee.stopped:
            return True
        stop = ptrace.stop_siginfo(tracee.tid)
        if stop is None:
            return False
        signo, code = stop
        # Our interrupt and a group-stop are events; all else is a signal that the
        # thread was about to get (ptrace(2), "Stopped states").
        tracee.signal = 0 if code >> 8 == _EVENT_STOP else signo
        # With the report the signal is gone if we are killed (wait_task_stopped() in
        # kernel/exit.c clears exit_code): not before it has been handed over.
        if tracee.signal and self._deliver(tracee):
            return False
        wait.take_stop_report(tracee.tid)
        tracee.undisturbed = code >> 8 == _EVENT_STOP and signo == signal.SIGTRAP
        tracee.stopped = True
        return True

    def _deliver(self, tracee: _Tracee) -> bool:
        """Let a thread have the signal it was about to get, if it lives on with it."""
        if tracee.delivered >= _DELIVERIES or not self._is_harmless(tracee.signal):
            return False
        tracee.delivered += 1
        try:
            # It makes its frame, and is stopped again before it executes anything.
            ptrace.interrupt(tracee.tid)
            ptrace.resume(tracee.tid, tracee.signal)
        except ProcessLookupError:
            pass  # killed
        return True

    def _is_harmless(self, signo: int) -> bool:
        """Whether a signal is handled or ignored."""
        try:
            status = parse_status(files.read_record(f"/proc/{self.pid}/status"))
        except OSError as error:
            if files.is_gone(error):
                return False
            raise
        sets = (int(status.get(name, "0"), 16) for name in ("SigCgt", "SigIgn"))
        return signo in _IGNORED or any(mask >> (signo - 1) & 1 for mask in sets)

    def _ended(self, tracee: _Tracee) -> bool:
        """Whether the tracee, not the leader, is dead or has become the leader."""
        if tracee.tid == self.pid or not wait.reap_thread(tracee.tid):
            return False
        self._tracees.pop(tracee.tid, None)
        return True

    def _interrupt_again(self, running: list[_Tracee]) -> None:
        for tracee in running:
            if tracee.tid == self.pid:
                stat = self._stat_of(tracee.tid)
                if stat is None:
                    raise ProcessGoneError(self.pid, "freeze")
                self._check_leader(stat)
            tracee.interrupted = False  # an execve(2) may have swallowed the first
        self._interrupt_new()

    def _everybody_stopped(self) -> bool:
        """Whether all stand still whom the kernel counts; a listing can miss some."""
        if not self._still_stopped():
            return False
        try:
            return files.count_threads(self.pid) == len(self._tracees)
        except OSError as error:
            if files.is_gone(error):
                raise ProcessGoneError(self.pid, "freeze") from None
            raise

    def _still_stopped(self) -> bool:
        """Whether every tracee stands: execve(2) or SIGKILL may have undone it."""
        for tracee in tuple(self._tracees.values()):
            if ptrace.stop_siginfo(tracee.tid) is None:
                tracee.stopped = tracee.interrupted = False
        return self.pid in self._tracees and all(
            tracee.stopped for tracee in self._tracees.values()
        )

    # -- what went wrong -------------------------------------------------------

    def _stat_of(self, tid: int) -> Stat | None:
        try:
            return parse_stat(files.read_file(f"/proc/{self.pid}/task/{tid}/stat"))
        except OSError as error:
            if files.is_gone(error):
                return None
            raise

    def _check_leader(self, stat: Stat) -> None:
        """Raise if the main thread is dead for good.

        When another thread calls execve(2) the main thread is dead for a moment,
        until that one takes its place.
        """
        if not stat.is_dead:
            self._leader_died = None
            return
        now = time.monotonic()
        if self._leader_died is None:
            self._leader_died = now
        if now - self._leader_died > _EXEC_S:
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
            and not parse_stat(files.read_file(f"/proc/{pid}/task/{tid}/stat")).is_dying
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


def _tracer_of(tid: int) -> int:
    """Return the *thread* that traces thread *tid*, 0 if nobody does."""
    try:
        status = parse_status(files.read_file(f"/proc/{tid}/status"))
    except OSError:
        return 0  # gone since
    return int(status.get("TracerPid", "0"))
