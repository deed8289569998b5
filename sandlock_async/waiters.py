"""Who in this very process would take our stop of the target for its exit.

A ptrace-stop is reported to every ``wait4(2)`` and ``waitid(2)`` of the tracer's
process that matches the pid, asked for or not (``do_wait`` looks at the tracees
of all threads). ``subprocess.Popen.wait()`` then stores a bogus return code. Two
remedies: nobody is woken by a stop (``SA_NOCLDSTOP``), and where somebody would
still take the report, the capture is refused before the target is touched.
sandlock's native supervisor loops on its wait and comes to no harm.
"""

import os
import signal
import sys
import threading
from asyncio import AbstractEventLoop
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from sandlock_async.arch import Machine
from sandlock_async.errors import WaitConflictError
from sandlock_async.kernel import files, signals
from sandlock_async.kernel.libc import surely
from sandlock_async.procfs.status import parse_status
from sandlock_async.procfs.syscall import Syscall, parse_syscall
from sandlock_async.target import Target
from sandlock_async.threads import OUR_THREADS

_POLLING_WATCHERS = ("SafeChildWatcher", "FastChildWatcher", "MultiLoopChildWatcher")
"""asyncio's (up to 3.13) that call waitpid() at every SIGCHLD."""

_CURE = (
    "wait by a pidfd instead: asyncio.PidfdChildWatcher (Python 3.11), Python 3.12 or "
    "newer; or give the Popen itself as target and call its poll(); or run the "
    "capture in another process (sandlock-async capture PID DIR)"
)

_POLL_S = 0.5
"""A poll() holds the lock for microseconds, a wait() until the process ends."""

_P_ALL, _P_PID, _P_PGID, _P_PIDFD = range(4)  # linux/wait.h


@dataclass(frozen=True, slots=True)
class LoopFacts:
    """What of the event loop's own child handling a capture must know.

    Looked up on the loop's thread.
    """

    loop: str
    watcher: str | None

    @classmethod
    def of(cls, loop: AbstractEventLoop) -> "LoopFacts":
        """Return the facts of *loop*; changes nothing."""
        asyncio = sys.modules["asyncio"]
        # get_child_watcher() would make one where none is; look, don't touch.
        policy = getattr(asyncio.events, "_event_loop_policy", None)
        watcher = getattr(policy, "_watcher", None)
        return cls(
            loop=type(loop).__module__.partition(".")[0],
            watcher=type(watcher).__name__ if watcher is not None else None,
        )


def check_waiters(target: Target, loop: LoopFacts) -> None:
    """Return if nobody here would mistake a stop of *target* for its exit.

    :raises WaitConflictError: naming who it is, and the cure
    """
    conflict = (
        _blocked_thread(target)
        or _signal_handler()
        or _loop_watcher(target, loop)
        or _multiprocessing(target)
    )
    if conflict is not None:
        reason, cure = conflict
        raise WaitConflictError(
            f"capturing process {target.pid} would report it as ended: {reason}",
            pid=target.pid,
            phase="prepare",
            help=cure,
        )


@contextmanager
def polls_held(target: Target) -> Generator[None]:
    """Keep a ``subprocess.Popen`` given as target from polling inside.

    It takes its lock for every waitpid(), and a poll() that does not get the lock
    says that the process runs; which it does.

    :raises WaitConflictError: if somebody holds the lock: in Popen.wait()
    """
    lock = target.wait_lock
    if lock is None:
        yield
        return
    if not lock.acquire(timeout=_POLL_S):
        raise WaitConflictError(
            f"capturing process {target.pid} would report it as ended: a thread of "
            "this process is in its Popen.wait()",
            pid=target.pid,
            phase="prepare",
            help=_CURE,
        )
    try:
        yield
    finally:
        lock.release()


_silence = threading.Lock()
_silencers = 0
_was_silent = False


@contextmanager
def child_stops_silenced() -> Generator[None]:
    """Keep SIGCHLD from being raised for stops while any capture is inside."""
    global _silencers, _was_silent
    with _silence:
        if _silencers == 0:
            _was_silent = signals.child_stops_silenced()
        # Again each time: somebody may have installed a handler meanwhile.
        signals.silence_child_stops(silent=True)
        _silencers += 1
    try:
        yield
    finally:
        with _silence:
            _silencers -= 1
            if _silencers == 0 and not _was_silent:
                surely(lambda: signals.silence_child_stops(silent=False))


def _forget_captures() -> None:
    global _silence, _silencers
    _silence = threading.Lock()
    if _silencers and not _was_silent:
        signals.silence_child_stops(silent=False)
    _silencers = 0


# A child of fork(2) has none of the captures that are counted here.
os.register_at_fork(after_in_child=_forget_captures)


def _blocked_thread(target: Target) -> tuple[str, str] | None:
    machine = target.machine
    waiting = (b"%d " % machine.wait4, b"%d " % machine.waitid)
    for thread in threading.enumerate():
        tid = thread.native_id
        # Ours never wait for a process, and there may be dozens.
        if tid is None or thread.name.startswith(OUR_THREADS):
            continue
        try:
            content = files.read_record(f"/proc/self/task/{tid}/syscall")
        except OSError:
            continue  # ended since, or a kernel that does not tell
        if not content.startswith(waiting):
            continue  # most often
        call = parse_syscall(content)
        if call is not None and _waits_for(call, target.pid, machine):
            return (
                f"the thread {thread.name!r} of this process waits for it, in "
                "os.waitpid() or Popen.wait()",
                _CURE,
            )
    return None


def _waits_for(call: Syscall, pid: int, machine: Machine) -> bool:
    if call.number == machine.wait4 and call.arguments:
        return _matches(_signed(call.arguments[0]), pid)
    if call.number == machine.waitid and len(call.arguments) > 1:
        kind, number = call.arguments[0], _signed(call.arguments[1])
        if kind == _P_PIDFD:
            return _pid_of_pidfd(number) == pid
        if kind == _P_PGID:
            return _matches(-number, pid)
        return kind == _P_ALL or number == pid
    return False


def _matches(wanted: int, pid: int) -> bool:
    """Whether waitpid(*wanted*) would report *pid*, ``wait(2)``."""
    if wanted > 0:
        return wanted == pid
    if wanted == -1:
        return True
    try:
        return os.getpgid(pid) == (-wanted or os.getpgrp())
    except ProcessLookupError:
        return False


def _signed(word: int) -> int:
    low = word & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low


def _pid_of_pidfd(fd: int) -> int | None:
    try:
        fields = parse_status(files.read_file(f"/proc/self/fdinfo/{fd}"))
    except OSError:
        return None
    return int(fields.get("Pid", "-1"))


def _signal_handler() -> tuple[str, str] | None:
    handler = signal.getsignal(signal.SIGCHLD)
    if not callable(handler):
        return None
    if getattr(handler, "__module__", "").startswith("asyncio."):
        return None
    name = getattr(handler, "__qualname__", repr(handler))
    return (
        f"the SIGCHLD handler {name!r} of this process may call waitpid()",
        "take the handler off during the capture (signal.signal(SIGCHLD, SIG_DFL)), "
        "or run the capture in another process (sandlock-async capture PID DIR)",
    )


def _multiprocessing(target: Target) -> tuple[str, str] | None:
    # is_alive(), join() and active_children() of any thread poll with waitpid().
    module = sys.modules.get("multiprocessing.process")
    children = getattr(module, "_children", ())
    if not any(child.pid == target.pid for child in tuple(children)):
        return None
    return (
        "it is a child of multiprocessing, which polls its children",
        "capture it from another process (sandlock-async capture PID DIR)",
    )


def _loop_watcher(target: Target, loop: LoopFacts) -> tuple[str, str] | None:
    if not target.is_child or target.sandboxed:
        return None
    if loop.loop == "uvloop":
        return (
            "it is a child of this process, and uvloop polls its children",
            "run the capture on asyncio's own loop, or in another process "
            "(sandlock-async capture PID DIR); a sandlock.Sandbox can be given as it is",
        )
    if loop.watcher in _POLLING_WATCHERS:
        return (
            f"it is a child of this process, and asyncio.{loop.watcher} polls children",
            "use asyncio.PidfdChildWatcher, or Python 3.12 or newer",
        )
    return None
