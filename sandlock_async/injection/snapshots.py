"""Copies of a process that it was made to make: found, held, read and ended.

A snapshot is a child of its process. It has all of its private memory as it was, and
none of its threads but one, which executes nothing of the program's: it closes the
descriptors, waits for us to hold it, and ends if nobody does.
"""

import errno
import os
import signal
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Self

from sandlock_async.arch.x86_64 import NO_CALL, Call, Register
from sandlock_async.injection.questions import SNAPSHOT_NAME
from sandlock_async.kernel import files, ptrace, wait
from sandlock_async.kernel.libc import surely
from sandlock_async.procfs.stat import Stat, parse_stat
from sandlock_async.procfs.status import parse_status

_POLL_S = 0.0001
_PATIENCE_S = 2.0
_NAPPING = f"{int(Call.NANOSLEEP)} ".encode()
_FIRST_TO_DIE = "1000"  # oom_score_adj, proc_pid_oom_score_adj(5)


class Snapshot:
    """A snapshot, which ends by itself until it is held.

    Call :meth:`hold` and :meth:`end` on the same thread, and do call :meth:`end`.

    :ivar of_pid: the pid of its process
    :ivar inner_pid: its own in the pid namespace of that
    :ivar changed: address and content of what we have changed of its memory. It is not
        put back: should we be killed, the snapshot needs its frames to end by itself
    """

    @classmethod
    def of(cls, pid: int, inner_pid: int, changed: tuple[int, bytes]) -> Self:
        """Return a new snapshot of process *pid*.

        :param changed: what its memory held, and where, before it was changed
        :raises OSError: ``ESRCH`` if it is gone
        """
        found = surely(lambda: _find_snapshot(pid, inner_pid))
        return cls(found, pid, inner_pid, changed)

    def __init__(
        self, pid: int, of_pid: int, inner_pid: int, changed: tuple[int, bytes]
    ) -> None:
        self.pid = pid
        self.of_pid = of_pid
        self.inner_pid = inner_pid
        self.changed = changed
        self._is_held = False

    def hold(self, check_aborted: Callable[[], None]) -> None:
        """Keep it from ending, and wait until it holds no descriptor any more.

        Call it right after the thaw: the other end of a pipe sees no end before.

        :raises OSError: ``ESRCH`` if somebody has killed it
        """
        self._seize()
        while not files.read_record(f"/proc/{self.pid}/syscall").startswith(_NAPPING):
            check_aborted()
            self.check_alive()
            time.sleep(_POLL_S)
        self._stop(check_aborted)
        try:
            with open(f"/proc/{self.pid}/oom_score_adj", "w") as file:
                file.write(_FIRST_TO_DIE)
        except PermissionError:
            pass  # not dumpable: it is short-lived all the same

    def end(self, syscall: int) -> None:
        """Have it end; it is a zombie of its process afterwards.

        :param syscall: address of a ``syscall`` in its code
        """
        # By exit_group(2): a child that is killed counts for ever in the max_processes
        # of a sandbox of sandlock 0.9.0.
        try:
            self._seize()
            if ptrace.stop_siginfo(self.pid) is None:
                self._stop(lambda: None)
            content = ptrace.getregset(self.pid, ptrace.Regset.PRSTATUS)
            state = array("Q", content)
            state[Register.RAX] = Call.EXIT_GROUP
            state[Register.RDI] = 0
            state[Register.ORIG_RAX] = NO_CALL
            state[Register.RIP] = syscall
            ptrace.setregset(self.pid, ptrace.Regset.PRSTATUS, state.tobytes())
            ptrace.resume(self.pid)
        except OSError as error:
            if not files.is_gone(error):
                self._kill()  # else it has ended, or is just about to
        patience = time.monotonic() + _PATIENCE_S
        while not self._is_over():
            if time.monotonic() > patience:
                self._kill()
            if time.monotonic() > patience + _PATIENCE_S:
                return  # the kernel has it
            time.sleep(_POLL_S)

    def _kill(self) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
        except OSError:
            pass  # ended since

    def _is_over(self) -> bool:
        """Whether it has ended, and is nobody's tracee any more."""
        try:
            return wait.reap_thread(self.pid) and self._is_dead()
        except OSError:
            return False  # asked again

    def _seize(self) -> None:
        if self._is_held:
            return
        try:
            ptrace.seize(self.pid)
        except PermissionError:
            self.check_alive()  # so it says of a zombie, too
            raise
        self._is_held = True

    def _stop(self, check_aborted: Callable[[], None]) -> None:
        ptrace.interrupt(self.pid)
        while ptrace.stop_siginfo(self.pid) is None:
            check_aborted()
            self.check_alive()
            time.sleep(_POLL_S)
        wait.take_stop_report(self.pid)

    def check_alive(self) -> None:
        """Return if what has been read of it until now was all there.

        :raises OSError: ``ESRCH`` if somebody has killed it
        """
        stat = self._stat()
        if stat is None or stat.is_dying:  # its memory may be given up by then
            raise ProcessLookupError(errno.ESRCH, f"the snapshot {self.pid} was killed")

    def _is_dead(self) -> bool:
        stat = self._stat()
        return stat is None or stat.is_dead

    def _stat(self) -> Stat | None:
        try:
            return parse_stat(files.read_record(f"/proc/{self.pid}/stat"))
        except OSError as error:
            if not files.is_gone(error):
                raise
            return None


def _find_snapshot(pid: int, inner_pid: int) -> int:
    """Return the pid of a snapshot, which process *pid* knows as *inner_pid*."""
    if len(_numbers(pid)) == 1:
        return inner_pid  # of our own namespace
    for child, inner in _snapshots(pid):
        if inner == inner_pid:
            return child
    raise ProcessLookupError(errno.ESRCH, f"process {pid} has no child {inner_pid}")


def find_unheld(pid: int) -> Snapshot | None:
    """Return the latest snapshot that nobody holds, dead or alive, if there is one."""
    found: Snapshot | None = None
    for child, inner in _snapshots(pid):
        try:
            status = parse_status(files.read_record(f"/proc/{child}/status"))
        except OSError as error:
            if not files.is_gone(error):
                raise
            continue
        if status.get("TracerPid", "0") == "0":
            found = Snapshot(child, pid, inner, (0, b""))
    return found


def find_zombies(pid: int) -> tuple[int, ...]:
    """Return snapshots that nobody has reaped, as process *pid* knows them.

    They are left when whoever made them was killed.
    """
    return tuple(
        inner
        for child, inner in _snapshots(pid)
        if parse_stat(files.read_record(f"/proc/{child}/stat")).is_dead
    )


def _snapshots(pid: int) -> Iterator[tuple[int, int]]:
    """Yield the snapshots of a process: pid, and pid in its own namespace."""
    try:
        listed = files.read_record(f"/proc/{pid}/task/{pid}/children")
    except FileNotFoundError:
        return  # without CONFIG_PROC_CHILDREN
    for child in map(int, listed.split()):
        try:
            stat = parse_stat(files.read_record(f"/proc/{child}/stat"))
            if stat.comm == SNAPSHOT_NAME:
                yield child, _numbers(child)[-1]
        except OSError as error:
            if not files.is_gone(error):
                raise


def _numbers(pid: int) -> list[int]:
    """Return a process's pid in each pid namespace, ours first."""
    status = parse_status(files.read_record(f"/proc/{pid}/status"))
    return [int(number) for number in status.get("NSpid", str(pid)).split()]
