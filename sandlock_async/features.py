"""What this kernel lets us do, learnt by doing it to a child of our own.

A version tells little: distributions port back, containers and seccomp take away.
"""

import mmap
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import TimeoutError as Overdue
from contextlib import contextmanager

from sandlock_async.arch import MACHINES, x86_64
from sandlock_async.clock import Deadline
from sandlock_async.denial import describe_yama
from sandlock_async.errors import FreezeTimeoutError, UnsupportedArchError
from sandlock_async.failure import cure_of
from sandlock_async.freeze import ThreadGroup
from sandlock_async.kernel import descriptors, files, process_vm
from sandlock_async.kernel.pagemap import Pagemap
from sandlock_async.kernel.scratch import SCRATCH
from sandlock_async.kernel.userfaultfd import userfaultfd
from sandlock_async.preflight import Check
from sandlock_async.procfs.maps import parse_maps
from sandlock_async.target import current_machine
from sandlock_async.tracer import TracerThread
from sandlock_async.trial import tried

_PATIENCE_S = 5.0

_OPEN_FILES = 16
"""What a capture of one process has open at most, measured; a descendant adds two."""

_LET_SECCOMP_PASS = (
    "in a container allow it: --cap-add=SYS_PTRACE, or a seccomp profile with {}"
)


def try_features() -> list[Check]:
    """Try all that a capture is made of. Blocks for some milliseconds."""
    yama, cure = describe_yama()
    return [
        tried("machine", _try_machine),
        tried("open_files", _try_open_files),
        *_try_on_child(),
        tried(
            "pagemap_scan",
            _try_pagemap,
            help="mount /proc as it usually is, with the files of one's own processes",
        ),
        tried(
            "userfaultfd",
            _try_userfaultfd,
            help="sysctl vm.unprivileged_userfaultfd=1, or CAP_SYS_PTRACE",
            needed=False,
        ),
        Check(name="yama", ok=True, reason=yama, help=cure),
    ]


def _try_machine() -> str:
    name = current_machine(os.getpid()).name
    if name == x86_64.MACHINE.name:
        return name
    return f"{name}: no fork of a process can be made here, and its handlers not asked"


def _try_open_files() -> str:
    fds: list[int] = []
    try:
        fds.append(os.open("/", os.O_PATH | os.O_CLOEXEC))
        while len(fds) < _OPEN_FILES:
            fds.append(os.dup(fds[0]))
    finally:
        for fd in fds:
            files.let_go(fd)
    return f"{_OPEN_FILES} more can be opened: a capture of one process needs no others"


def _try_on_child() -> list[Check]:
    ptrace = "ptrace"
    try:
        with _child() as pid:
            return [
                tried(
                    ptrace,
                    lambda: _try_ptrace(pid),
                    help=_LET_SECCOMP_PASS.format(ptrace),
                ),
                tried(
                    "process_vm_readv",
                    lambda: _try_process_vm(pid),
                    help=_LET_SECCOMP_PASS.format("process_vm_readv"),
                ),
                tried(
                    "pidfd",
                    lambda: _try_pidfd(pid),
                    help="run Linux 5.3 or newer, and let seccomp pass pidfd_open",
                ),
                tried(
                    "pidfd_getfd",
                    lambda: _try_getfd(pid),
                    help="without it, what waits in pipes and sockets is not in an "
                    "image: run Linux 5.6 or newer, and let seccomp pass pidfd_getfd",
                    needed=False,
                ),
            ]
    except OSError as error:
        reason = f"no child could be started to try it on: {error.strerror or error}"
        cure = "raise the limits of processes and files (ulimit -u, ulimit -n)"
        return [
            Check(name=ptrace, ok=False, reason=reason, help=cure_of(error) or cure)
        ]


@contextmanager
def _child() -> Generator[int]:
    """Start a program that does nothing; it ends with us, if not before."""
    cat = shutil.which("cat")
    command = [cat] if cat else [sys.executable, "-ISc", "input()"]
    nothing = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=nothing, stderr=nothing
    ) as child:
        try:
            yield child.pid
        finally:
            child.kill()


def _try_ptrace(pid: int) -> str:
    # Attached to, not stopped: whoever waits for children here would hear of a stop.
    tracer = TracerThread(pid)
    stuck = False
    try:
        group = ThreadGroup(pid, Deadline(_PATIENCE_S))
        tracer.submit(group.attach).result(_PATIENCE_S + 1)
    except Overdue:
        stuck = True
        raise FreezeTimeoutError(
            pid, "attach", "the kernel did not let us attach to a child in time"
        ) from None
    finally:
        tracer.shutdown(wait=not stuck)
    return "a child of ours could be traced"


def _try_process_vm(pid: int) -> str:
    mappings = parse_maps(files.read_file(f"/proc/{pid}/maps"))
    readable = next(this.map for this in mappings if this.map.readable)
    process_vm.read(pid, readable.start, 1)
    return "memory of a child of ours could be read"


def _try_pidfd(pid: int) -> str:
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, 0)
    finally:
        os.close(pidfd)
    return "a process can be pinned"


def _try_getfd(pid: int) -> str:
    pidfd = os.pidfd_open(pid)
    try:
        files.close_fd(descriptors.getfd(pidfd, 0))
    finally:
        os.close(pidfd)
    return "descriptors of a child of ours could be looked into"


def _try_pagemap() -> str:
    start = SCRATCH.address // mmap.PAGESIZE * mmap.PAGESIZE
    with Pagemap(os.getpid()) as pagemap:
        pagemap.scan([(start, start + mmap.PAGESIZE)])
        if pagemap.scans:
            return "pages can be looked for range by range"
    return (
        "not in this kernel (Linux 6.7 and newer have it): pages are looked for one by "
        "one, which takes longer"
    )


def _try_userfaultfd() -> str:
    machine = MACHINES.get(platform.machine())
    if machine is None:
        raise UnsupportedArchError(
            f"its number is not known on {platform.machine()}",
            pid=os.getpid(),
            phase="prepare",
        )
    os.close(userfaultfd(machine.userfaultfd))
    return "page faults can be followed; captures do without"
