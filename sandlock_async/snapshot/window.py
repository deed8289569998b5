"""The frozen window: all that happens while the target stands still.

Short, synchronous, on the one thread that attached. It reads only what must be
read now; nothing is parsed that can be parsed later, and nothing written.
"""

import time
from collections.abc import Callable
from typing import Protocol

from sandlock_async.errors import CaptureError, ProcessGoneError
from sandlock_async.failure import translate
from sandlock_async.injection.questions import Answers
from sandlock_async.injection.snapshots import Snapshot
from sandlock_async.kernel import files
from sandlock_async.plan import Plan
from sandlock_async.procfs.maps import Mapping, parse_maps
from sandlock_async.selection import Selection, VmFlags, select, split_by_fork
from sandlock_async.snapshot.asking import Asking, Unasked, rehearse
from sandlock_async.snapshot.details import RawDetails, read_details
from sandlock_async.snapshot.facts import (
    Facts,
    ThreadFacts,
    link_or_empty,
    read_facts,
    read_fds,
    read_thread_facts,
)
from sandlock_async.snapshot.fd_contents import choose, read_contents
from sandlock_async.snapshot.forked import ForkedSource
from sandlock_async.snapshot.pages import scan_pages
from sandlock_async.snapshot.shared_memory import SharedMemory
from sandlock_async.snapshot.subject import Subject
from sandlock_async.snapshot.survey import read_vm_flags
from sandlock_async.snapshot.view import View
from sandlock_async.strategy import Choice, Strategy

_REHEARSED_BYTES = 1 << 20
_REHEARSALS = 3
"""The first leaves caches half warm; the freeze is 3 % shorter after the third."""
_WARM_S = 0.01
"""After a look at another process one rehearsal does as well."""
_QUICKLY_SCANNED_BYTES = 64 << 20

_looked_at = float("-inf")


class Company(Protocol):
    """Who is frozen together, and who of them the others can do without."""

    def find_new(self) -> list[Subject]:
        """Return those that have not been seen yet."""
        ...

    def leave(self, subject: Subject, error: CaptureError) -> None:
        """Go on without one that cannot be frozen, and runs; or raise that error."""
        ...


def look(subjects: list[Subject], company: Company) -> None:
    """Freeze all subjects, read each, and let them run again if nothing is pending.

    If anything is pending all are still frozen; otherwise, and whenever this raises,
    all run.

    :param subjects: changed as others come and go
    :raises CaptureError: in all its forms; the message says why
    """
    pid = subjects[0].target.pid
    try:
        for subject in tuple(subjects):
            pid = subject.target.pid
            if _is_there(subject.attach, subject, company):
                for _ in range(_rehearsals()):
                    _rehearse(subject)
        for subject in tuple(subjects):
            pid = subject.target.pid
            _is_there(subject.group.freeze, subject, company)
        # Nobody who stands still starts another: when a look finds none, that is all.
        while new := company.find_new():
            subjects += new
            for subject in new:
                pid = subject.target.pid
                if _is_there(subject.attach, subject, company):
                    _is_there(subject.group.freeze, subject, company)
        for subject in subjects:
            pid = subject.target.pid
            subject.view = _read(subject)
        company_fds = [(this.target.pidfd, this.view.facts.fds) for this in subjects]
        contents = read_contents(company_fds)
        for subject, found in zip(subjects, contents, strict=True):
            subject.view.contents.extend(found)
        if not any(subject.direct.pending for subject in subjects):
            release(subjects)
    except BaseException as error:
        for subject in subjects:
            subject.group.thaw()
        if isinstance(error, OSError) and not isinstance(error, CaptureError):
            raise translate(error, pid, "snapshot") from error
        raise


def _is_there(step: Callable[[], None], subject: Subject, company: Company) -> bool:
    """Take a step; whether the subject is still one of the company then."""
    try:
        step()
    except CaptureError as error:
        company.leave(subject, error)
        subject.group.thaw()
        return False
    return True


def release(subjects: list[Subject]) -> None:
    """Let all subjects run again, after everything has been read.

    :raises ProcessGoneError: if one of them was killed before
    """
    whole = {subject.target.pid: subject.group.thaw() for subject in subjects}
    for pid, was_frozen in whole.items():
        if not was_frozen:
            raise ProcessGoneError(pid, "snapshot", "it was killed")


def _rehearsals() -> int:
    """Return how many to make of a small target's window."""
    global _looked_at
    before, _looked_at = _looked_at, time.monotonic()
    return 1 if _looked_at - before < _WARM_S else _REHEARSALS


def _rehearse(subject: Subject) -> None:
    """Do once what the window does, while a small target still runs.

    Code and tables are in the CPU's caches afterwards, and the plan is made if nothing
    changes, which shortens the freeze by a third. Not for a large one, which may keep
    us waiting for its mmap_lock, nor for one whose faults somebody else handles.
    """
    pid, survey = subject.target.pid, subject.survey
    if survey.expected_bytes > _REHEARSED_BYTES or survey.missing_faults:
        return
    try:
        fds = subject.known_fds = read_fds(pid, subject.known_fds)
        choose([fds])
        files.read_file(f"/proc/{pid}/maps")
        status = files.read_record(f"/proc/{pid}/status")
        rehearse(pid, status, survey.means, snapshot=subject.forks)
        link_or_empty(f"/proc/{pid}/cwd")
        files.count_threads(pid)
        if not any(raw.is_userfaultfd for raw in fds):
            pages = scan_pages(pid, survey.wanted, survey.vm_flags, hold_gil=True)
            plan = subject.planner.plan(survey.wanted, survey.vm_flags, pages, {})
            subject.direct.copy(plan, SharedMemory())
    except (OSError, CaptureError):
        pass  # in the midst of an execve(2); what lasts, the window will tell


def _read(subject: Subject) -> View:
    target, survey, group = subject.target, subject.survey, subject.group
    pid = target.pid
    maps = files.read_file(f"/proc/{pid}/maps")
    changed = maps != survey.maps
    mappings = parse_maps(maps) if changed else survey.mappings
    threads = read_thread_facts(pid, group.tids, target.machine)
    asking = Asking(
        threads.threads[0],
        threads.status,
        survey.means,
        mappings,
        undisturbed=group.is_undisturbed(pid),
        changed=changed,
        snapshot=subject.forks,
    )
    copy: _Copy | None = None
    try:
        facts, details, wanted, vm_flags = _read_more(
            subject, threads, mappings, asking.advance, changed=changed
        )
        if not subject.forks:
            copy = _plan(subject, wanted, vm_flags, facts)
    finally:
        asked = _finish(subject, asking, copy)
    if copy is None:
        _read_snapshot(subject, asked, wanted, vm_flags, facts)
    else:
        subject.direct.copy(*copy)
    return View(
        facts=facts,
        contents=[],
        details=details,
        mappings=mappings,
        asked=asked,
    )


_Copy = tuple[Plan, SharedMemory]


def _finish(subject: Subject, asking: Asking, copy: _Copy | None) -> Answers | Unasked:
    """Wait for the clone's end; if that fails the copy is not made."""
    pid = subject.target.pid
    try:
        subject.is_unheard = subject.forks
        asked = asking.finish(subject.group.check_aborted)
        subject.is_unheard = False
        if isinstance(asked, Answers) and asked.snapshot:
            # At once: whatever fails from here on, it is ended and reaped.
            subject.snapshot = Snapshot.of(pid, asked.snapshot, asking.changed)
        return asked
    except BaseException:
        if copy is not None:
            copy[1].close()
        raise
    finally:
        subject.group.hand_over(pid, asking.signal)


def _read_more(
    subject: Subject,
    threads: ThreadFacts,
    mappings: list[Mapping],
    meanwhile: Callable[[], None],
    *,
    changed: bool,
) -> tuple[Facts, RawDetails, Selection, VmFlags]:
    """Read what can be read while a clone is asked, and what is wanted of the memory.

    :param meanwhile: called now and then
    """
    survey, pid = subject.survey, subject.target.pid
    wanted, vm_flags, details = survey.wanted, survey.vm_flags, survey.details
    excluding = survey.exclude_dontdump
    exe = None if changed else details.exe  # an execve(2) changes the mappings
    facts = read_facts(pid, threads, exe, subject.known_fds, meanwhile)
    if changed and files.read_file(f"/proc/{pid}/auxv") != details.auxv:
        details = read_details(pid)  # it has called execve(2)
    if facts.has_userfaultfd or survey.missing_faults or (changed and excluding):
        # Only here can have changed what the flags are read for.
        vm_flags = read_vm_flags(pid)
    if changed:
        wanted = select(mappings, vm_flags, exclude_dontdump=excluding)
    meanwhile()
    return facts, details, wanted, vm_flags


def _plan(
    subject: Subject, wanted: Selection, vm_flags: VmFlags, facts: Facts
) -> _Copy:
    """Look at the pages, and plan what to copy of them."""
    pid = subject.target.pid
    shared = SharedMemory()
    try:
        shared.open(pid, wanted.shared, facts.fds)
        small = subject.survey.expected_bytes <= _QUICKLY_SCANNED_BYTES
        pages = scan_pages(pid, wanted, vm_flags, hold_gil=small)
        return subject.planner.plan(wanted, vm_flags, pages, shared.data), shared
    except BaseException:
        shared.close()
        raise


def _read_snapshot(
    subject: Subject,
    asked: Answers | Unasked,
    wanted: Selection,
    vm_flags: VmFlags,
    facts: Facts,
) -> None:
    """Read what the copy that was made lacks; if there is none, all."""
    direct, snapshot = subject.direct, subject.snapshot
    if isinstance(asked, Unasked):
        obstacle = asked.reason
    elif snapshot is not None:
        copied, others = split_by_fork(wanted, vm_flags)
        direct.copy(*_plan(subject, others, vm_flags, facts))
        if not direct.pending:
            subject.forked = ForkedSource(direct, snapshot, copied, vm_flags)
            return
        obstacle = "what it lacks exceeds memory_limit"
    else:
        obstacle = "the kernel, or a seccomp filter, refused one"
    reason = f"a fork was to be read, but could not: {obstacle}"
    subject.choice = Choice(strategy=Strategy.DIRECT, reason=reason)
    direct.copy(*_plan(subject, wanted, vm_flags, facts))
