"""Why the kernel would not let us trace a thread, and what helps.

``ptrace(2)``, "Ptrace access mode checking": the kernel only says ``EPERM``.
"""

import os

from sandlock_async.errors import NotPermittedError, UncapturableError
from sandlock_async.kernel import files
from sandlock_async.procfs.stat import Stat, parse_stat
from sandlock_async.procfs.status import parse_status

_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_CAP_SYS_PTRACE = 19  # linux/capability.h


def explain_denial(
    pid: int, tid: int, stat: Stat
) -> NotPermittedError | UncapturableError:
    """Return the error for an ``EPERM`` of PTRACE_SEIZE on thread *tid* of *pid*."""
    if stat.is_kernel_thread:
        return UncapturableError(
            f"process {pid} ({stat.comm}) is a thread of the kernel",
            pid=pid,
            phase="attach",
        )
    reason, cure = _reason(pid, tid)
    return NotPermittedError(pid, "attach", reason, help=cure)


def _reason(pid: int, tid: int) -> tuple[str, str]:
    theirs = _status(f"/proc/{tid}/status")
    ours = _status("/proc/self/status")
    privileged = bool(int(ours.get("CapEff", "0"), 16) >> _CAP_SYS_PTRACE & 1)

    tracer = int(theirs.get("TracerPid", "0"))
    if os.path.exists(f"/proc/self/task/{tracer}"):  # TracerPid is a thread's
        return (
            "this process traces it already (another capture of it is under way)",
            "await the other capture first",
        )
    if tracer:
        return (
            f"it is traced already, by process {tracer} ({_comm(tracer)})",
            "end that debugger or tracer, or wait for it",
        )
    their_uids = set(theirs.get("Uid", "").split()[:3])
    our_uid = str(os.geteuid())
    if not privileged and their_uids and their_uids != {our_uid}:
        return (
            f"it belongs to uid {'/'.join(sorted(their_uids))}, we are uid {our_uid}",
            "run as that user or as root, or with CAP_SYS_PTRACE",
        )
    if not privileged and _is_undumpable(pid, our_uid):
        return (
            "it is not dumpable (PR_SET_DUMPABLE 0, a set-user-ID program, or one "
            "that may be executed but not read)",
            "run as root or with CAP_SYS_PTRACE",
        )
    scope = _yama_scope()
    if scope == 3:
        return (
            "Yama forbids ptrace for good (ptrace_scope is 3)",
            "reboot to change it",
        )
    if scope in (1, 2) and not privileged:
        who = "descendants of ours" if scope == 1 else "processes given CAP_SYS_PTRACE"
        return (
            f"Yama allows only {who} to be traced (ptrace_scope is {scope})",
            "capture from the process that started the target, run as root, or set "
            f"{_YAMA} to 0",
        )
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


def _is_undumpable(pid: int, our_uid: str) -> bool:
    # The files of a process that is not dumpable belong to root, proc(5).
    try:
        return str(os.stat(f"/proc/{pid}/mem").st_uid) != our_uid
    except OSError:
        return False


def _yama_scope() -> int:
    try:
        return int(files.read_file(_YAMA))
    except OSError:
        return 0  # no Yama in this kernel
