"""The end of the copies that processes were made to make: read, killed, and reaped.

A copy is a child of its process, which knows nothing of it. So it is the process that
has to reap it: for a blink a thread of it is added that does. All of this runs on the
tracer's thread.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from sandlock_async.clock import Deadline
from sandlock_async.errors import ProcessGoneError, SandlockAsyncError
from sandlock_async.failure import translate
from sandlock_async.freeze import ThreadGroup
from sandlock_async.kernel import files
from sandlock_async.procfs.maps import parse_maps
from sandlock_async.snapshot.asking import Asking, Means, Unasked
from sandlock_async.snapshot.facts import read_thread_facts
from sandlock_async.snapshot.forked import lost_copy_error
from sandlock_async.snapshot.subject import Subject
from sandlock_async.snapshot.survey import survey
from sandlock_async.waiters import (
    LoopFacts,
    check_waiters,
    child_stops_silenced,
    polls_held,
)

_TRIES = 100
_PATIENCE_S = 1.0


def settle_snapshots(cast: Sequence[Subject], deadline: Deadline) -> None:
    """Let copies close their descriptors and stop them; right after the thaw.

    :raises UncapturableError: if somebody has killed one
    """
    for subject in cast:
        if subject.snapshot is None:
            continue
        try:
            subject.snapshot.settle(deadline.check_aborted)
        except OSError as error:
            if not files.is_gone(error):
                raise translate(error, subject.target.pid, "snapshot") from error
            raise lost_copy_error(subject.target.pid) from error


def end_snapshots(cast: Sequence[Subject], loop: LoopFacts) -> dict[int, str]:
    """Kill copies, and have them reaped.

    :return: what could not be done, as warnings, by pid of the process
    """
    warnings: dict[int, str] = {}
    for subject in cast:
        if subject.snapshot is None:
            continue
        snapshot, subject.snapshot = subject.snapshot, None
        gadget = subject.survey.means.gadgets.syscall
        assert gadget is not None
        snapshot.end(gadget.address)
        problem = _reap(subject, snapshot.inner_pid, loop)
        if problem:
            pid = subject.target.pid
            warnings[pid] = (
                f"process {pid} is left with a zombie, {snapshot.pid}, which the next "
                f"capture reaps: {problem}"
            )
    return warnings


def _reap(subject: Subject, inner_pid: int, loop: LoopFacts) -> str:
    """Return why it could not be done; nothing if it was."""
    problem = ""
    means = subject.survey.means
    for _ in range(_TRIES):
        try:
            if problem:
                means = survey(subject.target).means  # it has called execve(2)
            with ExitStack() as held:
                held.enter_context(child_stops_silenced())
                check_waiters(subject.target, loop)
                held.enter_context(polls_held(subject.target))
                problem = _reap_once(subject, inner_pid, means)
        except ProcessGoneError:
            return ""  # its zombies are somebody else's by now
        except SandlockAsyncError as error:
            problem = str(error)
        except OSError as error:
            if files.is_gone(error):
                return ""
            problem = str(error)
        if not problem:
            return ""
    return problem


def _reap_once(subject: Subject, inner_pid: int, means: Means) -> str:
    pid = subject.target.pid
    means = replace(means, zombies=(inner_pid,))
    group = ThreadGroup(pid, Deadline(_PATIENCE_S))
    try:
        group.attach()
        group.freeze()
        subject.target.check_same("freeze")
        threads = read_thread_facts(pid, [pid], subject.target.machine)
        mappings = parse_maps(files.read_file(f"/proc/{pid}/maps"))
        asking = Asking(
            threads.threads[0],
            threads.status,
            means,
            mappings,
            undisturbed=group.is_undisturbed(pid),
            snapshot=False,
        )
        asked = asking.finish(group.check_aborted)
        group.hand_over(pid, asking.signal)
    finally:
        group.thaw()
    return asked.reason if isinstance(asked, Unasked) else ""
