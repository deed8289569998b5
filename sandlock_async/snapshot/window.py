"""The frozen window: all that happens while the target stands still.

Short, synchronous, on the one thread that attached. It reads only what must be
read now; nothing is parsed that can be parsed later, and nothing written.
"""

from dataclasses import dataclass

from sandlock_async.errors import CaptureError
from sandlock_async.failure import translate
from sandlock_async.freeze import ThreadGroup
from sandlock_async.kernel import files
from sandlock_async.plan import Planner, VmFlags, select
from sandlock_async.procfs.maps import Mapping, parse_maps
from sandlock_async.snapshot.details import RawDetails, read_details
from sandlock_async.snapshot.direct import DirectSource
from sandlock_async.snapshot.facts import Facts, read_facts, read_fds
from sandlock_async.snapshot.fd_contents import RawContent, choose, read_contents
from sandlock_async.snapshot.shared_memory import SharedMemory
from sandlock_async.snapshot.survey import (
    Survey,
    read_vm_flags,
    scan_pages,
)
from sandlock_async.target import Target

_REHEARSED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What was seen through the window, besides memory.

    :ivar contents: what waits in pipes and unix sockets
    """

    facts: Facts
    contents: list[RawContent]
    details: RawDetails
    mappings: list[Mapping]
    vm_flags: VmFlags


def look(
    target: Target,
    group: ThreadGroup,
    survey: Survey,
    source: DirectSource,
) -> View:
    """Freeze the target, read it, and let it run again if nothing is pending.

    If *source* has something pending the target is still frozen; otherwise, and
    whenever this raises, it runs.

    :raises CaptureError: in all its forms; the message says why
    """
    try:
        group.attach()
        planner = Planner()
        _rehearse(target.pid, survey, planner, source)
        group.freeze()
        view = _read(target, group, survey, planner, source)
        if not source.pending:
            group.release()
    except BaseException as error:
        group.thaw()
        if isinstance(error, OSError) and not isinstance(error, CaptureError):
            raise translate(error, target.pid, "snapshot") from error
        raise
    return view


def _rehearse(pid: int, survey: Survey, planner: Planner, source: DirectSource) -> None:
    """Do once what the window does, while a small target still runs.

    Code and tables are in the CPU's caches afterwards, and the plan is made if nothing
    changes, which shortens the freeze by a third. Not for a large one, which may keep us
    waiting for its mmap_lock, nor for one whose faults somebody else handles.
    """
    if survey.expected_bytes > _REHEARSED_BYTES or survey.missing_faults:
        return
    try:
        fds = read_fds(pid)
        choose(fds)
        files.read_file(f"/proc/{pid}/maps")
        if not any(raw.is_userfaultfd for raw in fds):
            pages = scan_pages(pid, survey.wanted, survey.vm_flags)
            plan = planner.plan(survey.wanted, survey.vm_flags, pages, {})
            source.copy(plan, SharedMemory())
    except (OSError, CaptureError):
        pass  # in the midst of an execve(2); what lasts, the window will tell


def _read(
    target: Target,
    group: ThreadGroup,
    survey: Survey,
    planner: Planner,
    source: DirectSource,
) -> View:
    pid = target.pid
    # Traced now, so the number cannot pass to another process any more.
    target.check_same("freeze")
    facts = read_facts(pid, group.tids, target.machine)
    contents = read_contents(target.pidfd, facts.fds)
    maps = files.read_file(f"/proc/{pid}/maps")
    mappings, wanted, vm_flags = survey.mappings, survey.wanted, survey.vm_flags
    excluding = survey.exclude_dontdump
    changed = maps != survey.maps
    details = survey.details
    if changed and files.read_file(f"/proc/{pid}/auxv") != details.auxv:
        details = read_details(pid)  # it has called execve(2)
    if facts.has_userfaultfd or survey.missing_faults or (changed and excluding):
        # Only here can have changed what the flags are read for.
        vm_flags = read_vm_flags(pid)
    if changed:
        mappings = parse_maps(maps)
        wanted = select(mappings, vm_flags, exclude_dontdump=excluding)
    shared = SharedMemory()
    try:
        shared.open(pid, wanted.shared, facts.fds)
        pages = scan_pages(pid, wanted, vm_flags)
        plan = planner.plan(wanted, vm_flags, pages, shared.data)
    except BaseException:
        shared.close()
        raise
    source.copy(plan, shared)
    return View(
        facts=facts,
        contents=contents,
        details=details,
        mappings=mappings,
        vm_flags=vm_flags,
    )
