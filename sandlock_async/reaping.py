"""The copies that processes were made to make: held, read, ended, and reaped.

A copy is a child of its process, which knows nothing of it. So it is the process that
has to reap it: for a blink a thread of it is added that does. Every thread here that
traces somebody is one for that alone, and ends with it: what it may still trace then,
in the midst of an execve(2) for instance, is let go.
"""

import concurrent.futures
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from sandlock_async.clock import Deadline
from sandlock_async.denial import is_over
from sandlock_async.errors import ProcessGoneError, SandlockAsyncError
from sandlock_async.failure import translate
from sandlock_async.freeze import ThreadGroup
from sandlock_async.injection.snapshots import Snapshot, find_unheld
from sandlock_async.kernel import files
from sandlock_async.procfs.maps import parse_maps
from sandlock_async.procfs.stat import parse_stat
from sandlock_async.snapshot.asking import Asking, Means, Unasked
from sandlock_async.snapshot.facts import read_thread_facts
from sandlock_async.snapshot.forked import lost_copy_error
from sandlock_async.snapshot.subject import Subject
from sandlock_async.snapshot.survey import survey
from sandlock_async.tracer import TracerThread
from sandlock_async.waiters import (
    LoopFacts,
    check_waiters,
    child_stops_silenced,
    polls_held,
)

_POLL_S = 0.001
_NAMED_S = 0.5
"""A copy gives itself its name within that."""
_CLONE_S = 2.0
"""A clone that nobody waits for makes its copy within that, or never."""

_TRIES = 100
_PATIENCE_S = 1.0
_MOST_S = 10.0
"""A process that will not stop is left with its zombie."""


class Copies:
    """The copies of the processes of one scene, held by a thread.

    :param loop: facts of the event loop on which the capture runs
    """

    def __init__(self, cast: Sequence[Subject], loop: LoopFacts) -> None:
        self._cast = cast
        self._loop = loop
        self._holder: TracerThread | None = None
        self._ending: dict[int, concurrent.futures.Future[None]] = {}

    def hold(self, deadline: Deadline) -> None:
        """Hold all that there are; right after the thaw. Blocks.

        :raises UncapturableError: if somebody has killed one
        """
        for subject, snapshot in self._there():
            try:
                self._thread().submit(snapshot.hold, deadline.check_aborted).result()
            except OSError as error:
                if not is_over(error, snapshot.pid):
                    raise translate(error, subject.target.pid, "snapshot") from error
                raise lost_copy_error(subject.target.pid) from error

    def dismiss(self, pids: Iterable[int]) -> None:
        """Have copies of processes begin to end, when they have been read.

        Never blocks; :meth:`end` waits for it. To unmap their memory takes a while.
        """
        wanted = set(pids)
        for subject, snapshot in self._there():
            if self._holder is not None and subject.target.pid in wanted:
                self._begin_end(self._holder, subject, snapshot)

    def end(self) -> dict[int, str]:
        """End all, and have them reaped; doing so twice does nothing. Blocks.

        :return: what could not be done, as warnings, by pid of the process
        """
        warnings: dict[int, str] = {}
        for subject in self._cast:
            if subject.is_unheard:
                subject.is_unheard = False
                subject.snapshot = _found(subject.target.pid)
        there = self._there()
        try:
            for subject, snapshot in there:
                subject.snapshot = None
                self._end(subject, snapshot)
        finally:
            # With it goes what it may still trace: else nobody could reap that.
            if self._holder is not None:
                self._holder.shutdown()
        for subject, snapshot in there:
            problem = _reap(subject, snapshot.inner_pid, self._loop)
            if problem:
                pid = subject.target.pid
                warnings[pid] = (
                    f"process {pid} is left with a zombie, {snapshot.pid}, which "
                    f"the next capture reaps: {problem}"
                )
        return warnings

    def _end(self, subject: Subject, snapshot: Snapshot) -> None:
        try:
            holder = self._thread()
        except OSError:  # no more threads: nobody holds it, so any may
            snapshot.end(_syscall_of(subject))
        else:
            self._begin_end(holder, subject, snapshot).result()

    def _there(self) -> list[tuple[Subject, Snapshot]]:
        return [
            (subject, subject.snapshot)
            for subject in self._cast
            if subject.snapshot is not None
        ]

    def _begin_end(
        self, holder: TracerThread, subject: Subject, snapshot: Snapshot
    ) -> "concurrent.futures.Future[None]":
        pid = subject.target.pid
        if pid not in self._ending:
            self._ending[pid] = holder.submit(snapshot.end, _syscall_of(subject))
        return self._ending[pid]

    def _thread(self) -> TracerThread:
        if self._holder is None:
            self._holder = TracerThread(self._cast[0].target.pid)
        return self._holder


def _found(pid: int) -> Snapshot | None:
    """Return the copy that a clone has made of which nobody has heard, if it has.

    While it lives the main thread waits for it (state D, CLONE_VFORK), or is about to.
    """
    began = time.monotonic()
    try:
        while (snapshot := find_unheld(pid)) is None:
            stat = parse_stat(files.read_record(f"/proc/{pid}/stat"))
            patience = _CLONE_S if stat.state in "DR" else _NAMED_S
            if stat.is_dead or time.monotonic() - began > patience:
                return None
            time.sleep(_POLL_S)
    except OSError as error:
        if not files.is_gone(error):
            raise
        return None
    return snapshot


def _syscall_of(subject: Subject) -> int:
    """Return the address of a ``syscall`` in the code of a process and its copy."""
    syscall = subject.survey.means.gadgets.syscall
    assert syscall is not None
    return syscall.address


def _reap(subject: Subject, inner_pid: int, loop: LoopFacts) -> str:
    """Return why it could not be done; nothing if it was."""
    problem = ""
    gone = 0
    means = subject.survey.means
    began = time.monotonic()
    for _ in range(_TRIES):
        if time.monotonic() - began > _MOST_S:
            break
        if gone > 1:
            return ""  # its zombies are somebody else's by now
        try:
            if problem:
                means = survey(subject.target).means  # it has called execve(2)
            with ExitStack() as held:
                held.enter_context(child_stops_silenced())
                check_waiters(subject.target, loop)
                held.enter_context(polls_held(subject.target))
                tracer = TracerThread(subject.target.pid)
                held.callback(tracer.shutdown)
                once = tracer.submit(_reap_once, subject, inner_pid, means)
                problem = once.result()
        except (SandlockAsyncError, OSError) as error:
            problem = str(error)
            gone += isinstance(error, ProcessGoneError) or (
                isinstance(error, OSError) and files.is_gone(error)
            )
        if not problem:
            return ""
    return problem


def _reap_once(subject: Subject, inner_pid: int, means: Means) -> str:
    pid = subject.target.pid
    means = replace(means, zombies=(inner_pid,))
    group = ThreadGroup(pid, Deadline(_PATIENCE_S))
    try:
        group.attach()
        subject.target.check_same("attach")
        group.freeze()
        threads = read_thread_facts(pid, [pid], subject.target.machine)
        mappings = parse_maps(files.read_file(f"/proc/{pid}/maps"))
        asking = Asking(
            threads.threads[0],
            threads.status,
            means,
            mappings,
            undisturbed=group.is_undisturbed(pid),
            changed=True,
            snapshot=False,
        )
        asked = asking.finish(group.check_aborted)
        group.hand_over(pid, asking.signal)
    finally:
        group.thaw()
    return asked.reason if isinstance(asked, Unasked) else ""
