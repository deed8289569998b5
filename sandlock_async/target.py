"""The process that is to be captured: who it is, held from the first moment."""

import errno
import os
import platform
import signal
import sys
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from sandlock_async.arch import MACHINES, Machine
from sandlock_async.denial import kernel_thread_error
from sandlock_async.errors import (
    CURES,
    NotPermittedError,
    ProcessGoneError,
    UncapturableError,
    UnsupportedArchError,
)
from sandlock_async.freeze import dead_leader_error
from sandlock_async.kernel import files
from sandlock_async.procfs.elf import parse_elf_machine
from sandlock_async.procfs.stat import Stat, parse_stat
from sandlock_async.procfs.status import parse_status

_PHASE = "prepare"

_ENDED = -1
"""The ``Pid`` of a pidfd whose process has been reaped."""

MAX_PID = (1 << 31) - 1
"""That of ``pid_t``."""

_HELP = CURES | {
    errno.ENOMEM: "free some memory",
    errno.ENOSYS: "run Linux 5.3 or newer, and let seccomp pass pidfd_open",
    errno.EPERM: "let seccomp pass pidfd_open",
}


def resolve_pid(target: object) -> int:
    """Return the pid that *target* is or has.

    :param target: a pid, or anything with a ``pid``
    :raises ValueError: if it has none (not started, ended), it is none that can be,
        or that of this process
    :raises TypeError: if it is something else
    """
    pid = target if isinstance(target, int) else getattr(target, "pid", target)
    if pid is None:
        raise ValueError(f"{target!r} has no pid: not started yet, or ended")
    if isinstance(pid, bool) or not isinstance(pid, int):
        raise TypeError(f"expected a pid or an object with a pid, not {target!r}")
    if not 0 < pid <= MAX_PID:
        raise ValueError(f"{pid} is not a pid")
    if pid == os.getpid():
        raise ValueError("a process cannot capture itself")

    return pid


def has_no_pid(target: object) -> bool:
    """Whether *target* is something that has a pid only while it runs, and now none."""
    return target is not None and getattr(target, "pid", target) is None


def is_sandbox(target: object) -> bool:
    """Whether *target* is a ``sandlock.Sandbox``, or a process started by one."""
    return type(target).__module__.partition(".")[0] == "sandlock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A process, pinned: its number cannot come to mean another one unseen.

    :ivar pidfd: refers to it, however long it takes
    :ivar root_fd: its root directory (``O_PATH``); -1 if we may not look
    :ivar is_child: whether this process is its parent
    :ivar sandboxed: whether it was given as a ``sandlock.Sandbox``
    :ivar wait_lock: what a ``subprocess.Popen`` given as target holds while it waits
    """

    pid: int
    pidfd: int
    root_fd: int
    machine: Machine
    is_child: bool
    sandboxed: bool
    wait_lock: "threading.Lock | None"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the process go; once."""
        files.let_go(self.pidfd)
        if self.root_fd >= 0:
            files.let_go(self.root_fd)

    def check_same(self, phase: str) -> None:
        """Return if the pid still means this very process.

        It does as long as the process is there, dead or alive: only then is its
        number free for another one.

        :raises ProcessGoneError: if the number may have gone to another one
        """
        if not self.is_there():
            raise ProcessGoneError(self.pid, phase, "its number has been given anew")

    def is_there(self) -> bool:
        """Whether the process has not been reaped yet. Keeps the GIL."""
        try:
            signal.pidfd_send_signal(self.pidfd, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def open_target(target: object) -> Target:
    """Pin the process that *target* is, after all that forbids a capture of it.

    Nothing is done to it. Close the target when the capture is over.

    :raises ValueError: if it is not a process, or this one
    :raises ProcessGoneError: if there is none, or it has ended
    :raises UncapturableError: if it is a kernel thread, a single thread of another
        process, its main thread has ended, sandlock traces it, or we lack descriptors
    :raises UnsupportedArchError: on an unknown machine, or for a foreign program
    """
    pid = resolve_pid(target)
    machine = current_machine(pid)
    _check_sandbox(target, pid)
    _check_not_reaped(target, pid)
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise ProcessGoneError(pid, _PHASE) from None
    except OSError as error:
        raise _no_pidfd(pid, error) from error
    try:
        _check_not_reaped(target, pid)
        _check_procfs(pid, pidfd)
        stat = read_stat(pid, _PHASE)
        if stat.is_dead and not _executing(pid):
            raise dead_leader_error(pid, stat, _PHASE)
        if stat.is_kernel_thread:
            raise kernel_thread_error(pid, stat, _PHASE)
        _check_program(pid, machine)
    except BaseException:
        files.let_go(pidfd)
        raise
    return Target(
        pid=pid,
        pidfd=pidfd,
        root_fd=_open_root(pid),
        machine=machine,
        is_child=stat.parent == os.getpid(),
        sandboxed=is_sandbox(target),
        wait_lock=getattr(target, "_waitpid_lock", None),
    )


def _check_not_reaped(target: object, pid: int) -> None:
    """Raise if *target* knows that its process has ended: the number is another's."""
    code = getattr(target, "returncode", None)  # of a subprocess, asyncio's too
    if isinstance(code, int) and not isinstance(code, bool):
        raise ProcessGoneError(pid, _PHASE, f"it has ended, with {code}")


def _check_procfs(pid: int, pidfd: int) -> None:
    """Raise if /proc means another process by *pid*: it can be another namespace's."""
    # pidfd_open(2): as the number that the process has where that /proc is from.
    fields = parse_status(files.read_record(f"/proc/self/fdinfo/{pidfd}"))
    if int(fields.get("Pid", pid)) not in (pid, _ENDED):
        raise UncapturableError(
            f"/proc is that of another pid namespace: process {pid} has another number "
            "there, or none",
            pid=pid,
            phase=_PHASE,
            help="mount it anew in that namespace (mount -t proc proc /proc)",
        )


def _no_pidfd(pid: int, error: OSError) -> UncapturableError:
    # EINVAL, in newer kernels ENOENT: the number of a thread, pidfd_open(2).
    if error.errno in (errno.EINVAL, errno.ENOENT):
        return UncapturableError(
            f"{pid} is the number of a thread, not of a process",
            pid=pid,
            phase=_PHASE,
            help="give the number of the process (Tgid in /proc/PID/status)",
        )
    return _unreadable(pid, _PHASE, error)


def _unreadable(pid: int, phase: str, error: OSError) -> UncapturableError:
    return UncapturableError(
        f"process {pid} cannot be looked at: {error.strerror or error}",
        pid=pid,
        phase=phase,
        help=_HELP.get(error.errno or 0, ""),
    )


def _check_sandbox(target: object, pid: int) -> None:
    # With a policy_fn sandlock traces the program itself at every fork and exec, and
    # denies the call (EPERM) if somebody else traces it just then.
    sandbox = getattr(target, "_sandbox", target)  # of a sandlock.Process
    if is_sandbox(target) and getattr(sandbox, "policy_fn", None) is not None:
        raise UncapturableError(
            f"capturing process {pid} could make its forks fail: sandlock traces the "
            "programs of a sandbox with a policy_fn itself",
            pid=pid,
            phase=_PHASE,
            help="run the sandbox without policy_fn, or use its own checkpoint()",
        )


def current_machine(pid: int) -> Machine:
    """Return this machine's register layout.

    :raises UnsupportedArchError: if it is not one that can be captured
    """
    name = platform.machine()
    machine = MACHINES.get(name)
    if machine is None or sys.maxsize < 1 << 32:
        bits = "" if sys.maxsize > 1 << 32 else " (32-bit Python)"
        raise UnsupportedArchError(
            f"unsupported architecture: {name}{bits}",
            pid=pid,
            phase=_PHASE,
            help=f"captures work on {', '.join(MACHINES)}, with a 64-bit Python",
        )
    return machine


def read_stat(pid: int, phase: str) -> Stat:
    """Return ``/proc/PID/stat``.

    :raises ProcessGoneError: if the process is gone
    :raises NotPermittedError: if it is there, but not in our ``/proc``
    :raises UncapturableError: if it cannot be read, for want of descriptors
    """
    try:
        return parse_stat(files.read_file(f"/proc/{pid}/stat"))
    except OSError as error:
        if files.is_gone(error):
            raise _hidden(pid, phase) or ProcessGoneError(pid, phase) from None
        raise _unreadable(pid, phase, error) from error


def _hidden(pid: int, phase: str) -> NotPermittedError | None:
    """Return the error for a process that is there, but not in our ``/proc``."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    if os.path.exists(f"/proc/{pid}/stat"):  # its number has just been given anew
        return None
    return NotPermittedError(
        pid,
        phase,
        "/proc hides it (hidepid), or is that of another pid namespace",
        help="run as its user or as root, or mount /proc without hidepid, and in this "
        "pid namespace",
    )


def _executing(pid: int) -> bool:
    """Whether a dead main thread comes back: another one had called execve(2)."""
    for _ in range(50):
        if not read_stat(pid, _PHASE).is_dead:
            return True
        time.sleep(0.001)
    return False


def _open_root(pid: int) -> int:
    try:
        return os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return -1  # no rights, or gone: the attach will say so, with its reason


def _check_program(pid: int, machine: Machine) -> None:
    try:
        fd = os.open(f"/proc/{pid}/exe", os.O_RDONLY | os.O_CLOEXEC)
        try:
            header = os.read(fd, 20)
        finally:
            files.let_go(fd)
    except OSError:
        return  # no rights: the attach will say so, with its reason
    elf = parse_elf_machine(header)
    if elf is not None and elf != (True, machine.elf_machine):
        bits = 64 if elf[0] else 32
        raise UnsupportedArchError(
            f"unsupported architecture: process {pid} runs a {bits}-bit program for "
            f"ELF machine {elf[1]} on {machine.name}",
            pid=pid,
            phase=_PHASE,
            help=f"only 64-bit {machine.name} programs can be captured here",
        )
