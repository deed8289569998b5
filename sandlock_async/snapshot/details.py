"""What is known of the process as a whole, beyond sandlock's layouts.

Most of it changes only with an execve(2), so it is read before the freeze; what the
program changes itself (signals, credentials, umask) is in one file, read under it.
"""

import os
from dataclasses import dataclass

from sandlock_async.injection.questions import Answers
from sandlock_async.kernel import files
from sandlock_async.model import (
    Credentials,
    FileIdentity,
    MemoryLayout,
    ProcessDetails,
    SignalState,
)
from sandlock_async.procfs.elf import HEADER_BYTES, find_notes, parse_build_id
from sandlock_async.procfs.limits import parse_limits
from sandlock_async.procfs.stat import parse_mm_addresses, parse_stat
from sandlock_async.procfs.status import parse_status
from sandlock_async.snapshot.facts import link_or_empty
from sandlock_async.snapshot.mapped_files import identity_of
from sandlock_async.snapshot.thread_facts import parse_queue


@dataclass(frozen=True, slots=True, kw_only=True)
class RawDetails:
    """Files of procfs that an execve(2) changes, and a program hardly ever."""

    stat: bytes
    auxv: bytes
    cmdline: bytes
    limits: bytes
    root: bytes
    exe: bytes
    exe_file: FileIdentity | None
    build_id: bytes


def read_details(pid: int) -> RawDetails:
    """Read the files of a process.

    :raises OSError: ``ESRCH`` or ``ENOENT`` if it is gone
    """
    exe_file, build_id = _read_exe(pid)
    return RawDetails(
        stat=files.read_record(f"/proc/{pid}/stat"),
        auxv=files.read_record(f"/proc/{pid}/auxv"),
        cmdline=files.read_file(f"/proc/{pid}/cmdline"),
        limits=files.read_record(f"/proc/{pid}/limits"),
        root=_root(pid),
        exe=link_or_empty(f"/proc/{pid}/exe"),
        exe_file=exe_file,
        build_id=build_id,
    )


def parse_details(
    raw: RawDetails, status: bytes, shared_queue: list[bytes], asked: Answers | None
) -> ProcessDetails:
    """Return what is known.

    :param status: ``/proc/PID/status``, of the same freeze as memory
    :param shared_queue: ``siginfo_t`` of signals that wait for any thread
    :param asked: None if nobody could be asked
    """
    fields = parse_status(status)
    addresses = parse_mm_addresses(raw.stat)
    return ProcessDetails(
        start_time=parse_stat(raw.stat).start_time,
        cmdline=raw.cmdline,
        auxv=raw.auxv,
        root=raw.root.decode(errors="replace"),
        umask=int(fields.get("Umask", "0"), 8),
        exe_file=raw.exe_file,
        exe_build_id=raw.build_id,
        layout=MemoryLayout(**addresses, brk=None if asked is None else asked.brk),
        credentials=_credentials(fields),
        limits=parse_limits(raw.limits),
        signals=SignalState(
            ignored=int(fields["SigIgn"], 16),
            caught=int(fields["SigCgt"], 16),
            handlers=None if asked is None else asked.handlers,
            queued=parse_queue(shared_queue),
        ),
        timers=None if asked is None else asked.timers,
    )


def _credentials(fields: dict[str, str]) -> Credentials:
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    return Credentials(
        uids=tuple(map(int, fields["Uid"].split())),
        gids=tuple(map(int, fields["Gid"].split())),
        groups=tuple(map(int, fields["Groups"].split())),
        capabilities=tuple(int(fields.get(name, "0"), 16) for name in sets),
        no_new_privs=fields.get("NoNewPrivs") == "1",
        seccomp=int(fields.get("Seccomp", "0")),
    )


def _root(pid: int) -> bytes:
    try:
        return files.read_link(f"/proc/{pid}/root")
    except PermissionError:
        return b""


def _read_exe(pid: int) -> tuple[FileIdentity | None, bytes]:
    try:
        fd = os.open(f"/proc/{pid}/exe", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None, b""  # no rights, or a program that may be run but not read
    try:
        identity = identity_of(os.fstat(fd))
        for offset, size in find_notes(os.pread(fd, HEADER_BYTES, 0)):
            build_id = parse_build_id(os.pread(fd, min(size, HEADER_BYTES), offset))
            if build_id:
                return identity, build_id
        return identity, b""
    finally:
        files.let_go(fd)
