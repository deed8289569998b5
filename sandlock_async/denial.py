"""Why the kernel would not let us trace a thread or read its files, and what helps.

``ptrace(2)``, "Ptrace access mode checking": the kernel only says ``EPERM``.
"""

import os

from sandlock_async.errors import NotPermittedError, UncapturableError
from sandlock_async.kernel import files, process_vm
from sandlock_async.procfs.stat import Stat, parse_stat
from sandlock_async.procfs.status import parse_status

_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_CAP_SYS_PTRACE = 19  # linux/capability.h


def is_over(error: OSError, pid: int) -> bool:
    """Whether *error* says that a process is gone, or that it is about to be.

    Most files of one that has given up its memory already belong to root, proc(5):
    whoever is not root hears ``EACCES``.
    """
    if not isinstance(error, PermissionError):
        return files.is_gone(error)
    try:
        stat = parse_stat(files.read_file(f"/proc/{pid}/stat"))
    except OSError as unread:
        return files.is_gone(unread)
    runs_on = stat.is_dead and stat.num_threads > 1  # without its main thread
    return stat.is_dying and not runs_on


def explain_denial(
    pid: int, tid: int, stat: Stat
) -> NotPermittedError | UncapturableError:
    """Return the error for an ``EPERM`` of PTRACE_SEIZE on thread *tid* of *pid*."""
    if stat.is_kernel_thread:
        return kernel_thread_error(pid, stat, "attach")
    theirs = _status(f"/proc/{tid}/status")
    reason, cure = _traced(theirs) or _denied(pid, theirs)
    return NotPermittedError(pid, "attach", reason, help=cure)


def kernel_thread_error(pid: int, stat: Stat, phase: str) -> UncapturableError:
    """Return the error for a process without a program."""
    return UncapturableError(
        f"process {pid} ({stat.comm}) is a thread of the kernel",
        pid=pid,
        phase=phase,
        help="give a process that runs a program: this one has no memory of its own",
    )


def find_tracer(pid: int) -> NotPermittedError | None:
    """Return the error that a capture would raise for the tracer of a process, if any.

    :raises OSError: ``ENOENT`` or ``ESRCH`` if the process is gone
    """
    for tid in files.list_numbers(f"/proc/{pid}/task"):
        traced = _traced(_status(f"/proc/{pid}/task/{tid}/status"))
        if traced is not None:
            reason, cure = traced
            return NotPermittedError(pid, "prepare", reason, help=cure)
    return None


def find_denial(pid: int) -> NotPermittedError | None:
    """Return the error for a process that we may not trace, None if we may.

    The kernel is asked, and nothing done to the process. That it is traced already is
    another matter.

    :raises OSError: ``ENOENT`` or ``ESRCH`` if the process is gone
    """
    for tid in files.list_numbers(f"/proc/{pid}/task"):
        try:
            if process_vm.may_access(tid):
                continue
        except OSError as error:
            if tid == pid or not files.is_gone(error):
                raise
            continue  # a thread that has ended
        reason, cure = _denied(pid, _status(f"/proc/{pid}/task/{tid}/status"))
        return NotPermittedError(pid, "prepare", reason, help=cure)
    return None


def describe_yama() -> tuple[str, str]:
    """Return what Yama lets us trace, and what helps where that is not all."""
    scope = _yama_scope()
    privileged = _is_privileged(_status("/proc/self/status"))
    forbidden = _forbidden_by_yama(scope, privileged=privileged)
    if forbidden is not None:
        return forbidden
    if scope < 0:
        return "this kernel has no Yama, or it is switched off", ""
    return f"it forbids us nothing (ptrace_scope is {scope})", ""


def _traced(theirs: dict[str, str]) -> tuple[str, str] | None:
    """Return by whom a thread is traced, and what helps; None if by nobody."""
    tracer = int(theirs.get("TracerPid", "0"))
    if not tracer:
        return None
    if os.path.exists(f"/proc/self/task/{tracer}"):  # TracerPid is a thread's
        return (
            "this process traces it already (another capture of it is under way)",
            "await the other capture first",
        )
    return (
        f"it is traced already, by process {tracer} ({_comm(tracer)})",
        "end that debugger or tracer, or wait for it",
    )


def _denied(pid: int, theirs: dict[str, str]) -> tuple[str, str]:
    """Return why we may not trace a thread that nobody traces, and what helps."""
    ours = _status("/proc/self/status")
    privileged = _is_privileged(ours)
    their_uids = set(theirs.get("Uid", "").split()[:3])
    our_uid = str(os.geteuid())
    if not privileged and their_uids and their_uids != {our_uid}:
        return (
            f"it belongs to uid {'/'.join(sorted(their_uids))}, we are uid {our_uid}",
            "run as that user or as root, or with CAP_SYS_PTRACE",
        )
    if not privileged and is_undumpable(pid, our_uid):
        return (
            "it is not dumpable (PR_SET_DUMPABLE 0, a set-user-ID program, or one "
            "that may be executed but not read)",
            "run as root or with CAP_SYS_PTRACE",
        )
    forbidden = _forbidden_by_yama(_yama_scope(), privileged=privileged)
    if forbidden is not None:
        return forbidden
    if ours.get("Seccomp", "0") != "0":
        return (
            "a seccomp filter over this process forbids ptrace",
            "in a container allow it: --cap-add=SYS_PTRACE, or a seccomp profile "
            "with ptrace and process_vm_readv",
        )
    return (
        "a security module, a container or a missing capability forbids it",
        "run as root or with CAP_SYS_PTRACE (in a container --cap-add=SYS_PTRACE)",
    )


def _forbidden_by_yama(scope: int, *, privileged: bool) -> tuple[str, str] | None:
    if scope == 3:
        return (
            "Yama forbids ptrace for good (ptrace_scope is 3)",
            "reboot to change it",
        )
    if scope == 1 and not privileged:
        return (
            "Yama allows only descendants of ours to be traced (ptrace_scope is 1)",
            "capture from the process that started the target, run as root, or set "
            f"{_YAMA} to 0",
        )
    if scope == 2 and not privileged:
        return (
            "Yama allows nobody to trace without CAP_SYS_PTRACE (ptrace_scope is 2)",
            f"run as root or with CAP_SYS_PTRACE, or set {_YAMA} to 0",
        )
    return None


def _is_privileged(ours: dict[str, str]) -> bool:
    return bool(int(ours.get("CapEff", "0"), 16) >> _CAP_SYS_PTRACE & 1)


def _status(path: str) -> dict[str, str]:
    try:
        return parse_status(files.read_file(path))
    except OSError:
        return {}  # gone since: the reasons that need no status remain


def _comm(pid: int) -> str:
    try:
        return parse_stat(files.read_file(f"/proc/{pid}/stat")).comm
    except OSError:
        return "gone since"


def is_undumpable(pid: int, uid: str) -> bool:
    """Whether a process is known not to be dumpable; of root's that is not told.

    :param uid: its effective one
    """
    # The files of a process that is not dumpable belong to root, proc(5).
    try:
        return str(os.stat(f"/proc/{pid}/mem").st_uid) != uid
    except OSError:
        return False


def _yama_scope() -> int:
    try:
        return int(files.read_file(_YAMA))
    except OSError:
        return -1  # no Yama in this kernel
