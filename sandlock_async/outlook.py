"""What a capture of a running process would meet: looks, and nothing done to it.

They are those that a capture begins with, so that the two cannot disagree.
"""

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from sandlock_async.arguments import Options
from sandlock_async.denial import find_denial, find_tracer, is_undumpable
from sandlock_async.descendants import find_descendants
from sandlock_async.errors import (
    NotPermittedError,
    ProcessGoneError,
    SandlockAsyncError,
)
from sandlock_async.failure import exhaustion_explained, translate
from sandlock_async.kernel import files
from sandlock_async.preflight import Check, mib
from sandlock_async.procfs.stat import parse_stat
from sandlock_async.procfs.status import parse_status
from sandlock_async.sights import choice_for
from sandlock_async.snapshot.fd_unheld import find_unheld
from sandlock_async.snapshot.survey import Survey, survey
from sandlock_async.strategy import Choice, Strategy, estimate_freeze_ms
from sandlock_async.target import Target, open_target
from sandlock_async.trial import refused, tried
from sandlock_async.waiters import LoopFacts, check_waiters, polls_held

_T = TypeVar("_T")

_PHASE = "prepare"
_TRIES = 20
"""In the midst of execve(2) a process has no memory that we may look at."""

_SECCOMP_MODES = {"0": "none", "1": "strict", "2": "filter"}
_FDS_TOLD = 10


@dataclass(slots=True, kw_only=True)
class Outlook:
    """What was found of a process, and of those that go with it.

    :ivar image_bytes: what the image has to hold; None if that could not be seen
    :ivar inodes: in how many files and folders
    """

    checks: list[Check] = field(default_factory=list[Check])
    image_bytes: int | None = None
    inodes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A process that has been looked at."""

    survey: Survey
    choice: Choice
    threads: int

    @property
    def freeze_ms(self) -> float:
        return estimate_freeze_ms(
            self.choice.strategy,
            expected_bytes=self.survey.expected_bytes,
            uncopied_bytes=self.survey.uncopied_bytes,
            threads=self.threads,
        )

    @property
    def image_bytes(self) -> int:
        """What its image takes on the disk, at most about."""
        return self.survey.image_bytes + self.survey.metadata_bytes

    @property
    def copied_bytes(self) -> int:
        """What has to be copied while it stands still."""
        forks = self.choice.strategy is Strategy.FORK
        return self.survey.uncopied_bytes if forks else self.survey.expected_bytes


def look_ahead(target: object, options: Options, loop: LoopFacts) -> Outlook:
    """Look at a process as a capture with these options would. Blocks."""
    outlook = Outlook()
    with ExitStack() as opened:
        try:
            found = opened.enter_context(_opened(target))
        except SandlockAsyncError as error:
            outlook.checks.append(refused("process", error))
            return outlook
        try:
            _look(found, options, loop, outlook)
        except SandlockAsyncError as error:
            outlook.checks.append(refused("memory", error))
        except OSError as error:
            outlook.checks.append(
                refused("memory", translate(error, found.pid, _PHASE))
            )
        try:
            found.check_same(_PHASE)
        except ProcessGoneError as error:
            # What was found may be about the one that has its number now.
            return Outlook(checks=[refused("process", error)])
    return outlook


def _look(found: Target, options: Options, loop: LoopFacts, outlook: Outlook) -> None:
    checks = outlook.checks
    pid = found.pid
    status = parse_status(files.read_record(f"/proc/{pid}/status"))
    denial = _denial(found)
    checks += [
        Check(name="process", ok=True, reason=_describe(pid)),
        _uid(status),
        _dumpable(pid, status),
        _tracer(pid),
        Check(name="permission", ok=True, reason="we may trace it")
        if denial is None
        else refused("permission", denial),
        tried("waiters", lambda: _check_waiters(found, loop)),
        _seccomp(status),
    ]
    if denial is not None:
        return  # its memory is hidden, too
    seen = [_see(found, options)]
    if options.tree:
        seen += _look_at_descendants(found, options, loop, checks)
    clone = seen[0].survey.means.obstacle
    outlook.image_bytes = sum(this.image_bytes for this in seen)
    outlook.inodes = sum(this.survey.image_inodes for this in seen)
    checks += [
        Check(name="memory", ok=True, reason=_memory(seen)),
        Check(
            name="clone",
            ok=True,
            reason=f"none can be made: {clone}" if clone else "it can be made to clone",
            help="its signal handlers, timers and brk will not be in the image"
            if clone
            else "",
        ),
        Check(
            name="strategy",
            ok=True,
            reason=f"{seen[0].choice.strategy}: {seen[0].choice.reason}",
        ),
        _freeze(seen, options.memory_limit),
        _descriptors(found),
    ]


def _see(found: Target, options: Options) -> _Seen:
    seen = survey(found, exclude_dontdump=options.exclude_dontdump)
    return _Seen(
        survey=seen,
        choice=choice_for(seen, Strategy(options.strategy), options.memory_limit),
        threads=parse_stat(seen.details.stat).num_threads,
    )


def _look_at_descendants(
    first: Target, options: Options, loop: LoopFacts, checks: list[Check]
) -> list[_Seen]:
    seen: list[_Seen] = []
    told: list[str] = []
    for pid in find_descendants(first.pid):
        try:
            with _opened(pid) as found:
                _check_permission(found)
                _check_waiters(found, loop)
                seen.append(_see(found, options))
            told.append(_describe(pid))
        except ProcessGoneError:
            continue  # a capture goes on without it, too
        except SandlockAsyncError as error:
            checks.append(refused("descendants", error))
            return seen
        except OSError as error:
            if not files.is_gone(error):
                raise
    reason = "; ".join(told) if told else "none"
    checks.append(Check(name="descendants", ok=True, reason=reason))
    return seen


def _check_permission(found: Target) -> None:
    error = find_tracer(found.pid) or _denial(found)
    if error is not None:
        raise error


@contextmanager
def _opened(target: object) -> Generator[Target]:
    pid = target if isinstance(target, int) else getattr(target, "pid", 0)
    with exhaustion_explained(pid):
        found = open_target(target)
    with found:
        yield found


def _denial(found: Target) -> NotPermittedError | None:
    denial: NotPermittedError | None = None
    for _ in range(_TRIES):
        denial = _retried(found, lambda: find_denial(found.pid))
        if denial is None:
            return None
        time.sleep(0.001)
    return denial


def _retried(found: Target, call: Callable[[], _T]) -> _T:
    for _ in range(_TRIES):
        try:
            return call()
        except OSError as error:
            if not files.is_gone(error) or not found.is_there():
                raise
            time.sleep(0.001)
    return call()


def _describe(pid: int) -> str:
    stat = parse_stat(files.read_record(f"/proc/{pid}/stat"))
    threads = "1 thread" if stat.num_threads == 1 else f"{stat.num_threads} threads"
    return f"{pid} ({stat.comm}), {threads}"


def _uid(status: dict[str, str]) -> Check:
    ours = parse_status(files.read_record("/proc/self/status"))
    real, effective = (this["Uid"].split()[:2] for this in (status, ours))
    reason = f"it runs as uid {_uids(real)}, we as {_uids(effective)}"
    return Check(name="uid", ok=True, reason=reason)


def _uids(pair: list[str]) -> str:
    real, effective = pair
    return real if real == effective else f"{real} (effective {effective})"


def _dumpable(pid: int, status: dict[str, str]) -> Check:
    effective = status["Uid"].split()[1]
    if is_undumpable(pid, effective):
        reason = "it is not: only root, or CAP_SYS_PTRACE, may trace it"
    elif effective == "0":
        reason = "the kernel does not tell it of processes of root"
    else:
        reason = "it is"
    return Check(name="dumpable", ok=True, reason=reason)


def _tracer(pid: int) -> Check:
    error = find_tracer(pid)
    if error is not None:
        return refused("tracer", error)
    return Check(name="tracer", ok=True, reason="nobody traces it")


def _check_waiters(found: Target, loop: LoopFacts) -> str:
    check_waiters(found, loop)
    with polls_held(found):
        return "nobody here would take its stop for its end"


def _seccomp(status: dict[str, str]) -> Check:
    mode = status.get("Seccomp", "")
    reason = _SECCOMP_MODES.get(mode, mode or "the kernel does not tell")
    if mode == "2" and "Seccomp_filters" in status:
        reason = f"filter ({status['Seccomp_filters']})"
    return Check(name="seccomp", ok=True, reason=reason)


def _memory(seen: list[_Seen]) -> str:
    mapped = sum(
        mapping.map.end - mapping.map.start
        for this in seen
        for mapping in this.survey.mappings
    )
    present = sum(this.survey.expected_bytes for this in seen)
    image = sum(this.image_bytes for this in seen)
    return (
        f"{mib(mapped)} mapped, {mib(present)} of it to be copied; an image of at most "
        f"about {mib(image)}"
    )


def _freeze(seen: list[_Seen], memory_limit: int) -> Check:
    expected = sum(this.freeze_ms for this in seen)
    reason = f"about {expected:.1f} ms, an estimate"
    copied = sum(this.copied_bytes for this in seen)
    if copied <= memory_limit:
        return Check(name="freeze", ok=True, reason=reason)
    return Check(
        name="freeze",
        ok=True,
        reason=f"{reason}, and as long as it takes to write {mib(copied - memory_limit)} "
        "to the disk: more than memory_limit is to be copied",
        help="raise memory_limit (--memory-limit)",
    )


def _descriptors(found: Target) -> Check:
    unheld = _retried(found, lambda: find_unheld(found))
    if not unheld:
        reason = "an image can hold all of them"
        return Check(name="descriptors", ok=True, reason=reason)
    told = [f"{fd}: {what}" for fd, what in sorted(unheld.items())]
    rest = len(told) - _FDS_TOLD
    told = told[:_FDS_TOLD] + ([f"and {rest} more"] if rest > 0 else [])
    return Check(
        name="descriptors",
        ok=True,
        reason=f"an image cannot hold what is behind {'; '.join(told)}",
        help="the capture is made all the same; close them before, or capture the "
        "processes at the other ends, too",
    )
