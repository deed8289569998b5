"""Processes before and after a freeze: how they were found, and what came of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from sandlock_async.injection.questions import Answers
from sandlock_async.model import (
    FdInfo,
    MemoryMap,
    MemorySegment,
    Picture,
    ProcessState,
)
from sandlock_async.snapshot.asking import Unasked
from sandlock_async.snapshot.details import parse_details
from sandlock_async.snapshot.facts import RawFd, parse_fds
from sandlock_async.snapshot.fd_details import describe_fds
from sandlock_async.snapshot.fd_late import LateFds
from sandlock_async.snapshot.mapped_files import Identities
from sandlock_async.snapshot.pieces import Piece
from sandlock_async.snapshot.source import Source
from sandlock_async.snapshot.survey import Survey
from sandlock_async.snapshot.thread_facts import Lasting, parse_threads
from sandlock_async.snapshot.view import View
from sandlock_async.snapshot.vm_areas import Flags, describe_areas
from sandlock_async.strategy import Choice
from sandlock_async.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """A process in view before its freeze.

    :ivar room: bytes of memory that its copy may take
    :ivar choice: how its memory is to be read
    """

    target: Target
    survey: Survey
    room: int
    choice: Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Processes as they were at one instant, in our memory; they run again.

    :ivar snapshots: of each; a target's first, then its descendants'
    :ivar began: monotonic seconds of the first request
    :ivar ended: descendants that had ended, and that nobody had reaped
    :ivar dismiss_copies: has the copies of processes end, by pid, and does not wait
    :ivar end_copies: ends the copies that were made; returns, by pid of the process,
        what could not be done
    """

    snapshots: "tuple[Snapshot, ...]"
    began: float
    ended: tuple[int, ...]
    dismiss_copies: Callable[[Iterable[int]], None]
    end_copies: Callable[[], dict[int, str]]

    @property
    def threads(self) -> int:
        """How many there are in all processes."""
        return sum(len(this.view.facts.threads) for this in self.snapshots)

    @property
    def frozen_at(self) -> float:
        """Monotonic seconds of the first interrupt."""
        return min(this.frozen_at for this in self.snapshots)

    @property
    def thawed_at(self) -> float:
        """Monotonic seconds of the last detach."""
        return max(this.thawed_at for this in self.snapshots)

    @property
    def freeze_ms(self) -> float:
        """From the first interrupt to the last detach."""
        return 1e3 * (self.thawed_at - self.frozen_at)

    @property
    def spilled_bytes(self) -> int:
        """What did not fit the memory budget."""
        return sum(this.spilled_bytes for this in self.snapshots)

    def only(self, snapshot: "Snapshot") -> "Scene":
        """Return the same with one process in it; it is this one that is closed."""
        return replace(self, snapshots=(snapshot,), ended=())

    def warnings(self) -> list[str]:
        """Return what is not in the image, memory and descriptors aside."""
        return [
            f"process {pid} had ended, and is not in the image" for pid in self.ended
        ] + [warning for this in self.snapshots for warning in this.warnings()]

    def dismiss(self) -> None:
        """Have the copies end, since nobody reads them any more; closing waits."""
        self.dismiss_copies(this.target.pid for this in self.snapshots)

    def close(self) -> dict[int, str]:
        """Give the memory back; closing twice does nothing.

        :return: what could not be tidied up, as warnings, by pid of the process
        """
        for snapshot in self.snapshots:
            snapshot.source.close()
        return self.end_copies()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A process as it was.

    :ivar fds: what was looked up of its descriptors, right after the thaw
    :ivar lasting: what was looked up of its threads then
    :ivar others: descriptors of those that were captured together with it
    :ivar frozen_at: monotonic seconds of the first interrupt of a thread of it
    :ivar thawed_at: monotonic seconds of the last detach
    :ivar spilled_bytes: what of it did not fit the memory budget
    """

    target: Target
    view: View
    source: Source
    choice: Choice
    files: Identities
    flags: Flags
    fds: LateFds
    lasting: Mapping[int, Lasting]
    others: tuple[RawFd, ...]
    frozen_at: float
    thawed_at: float
    spilled_bytes: int

    def process_state(
        self,
        holds: Callable[[MemoryMap], bool],
        streamed: dict[int, list[Piece]] | None = None,
    ) -> ProcessState:
        """Return what was seen, as the image has it.

        :param holds: whether the base layout holds the bytes of a captured mapping
        :param streamed: where the spilled bytes are now, by segment number
        :raises UnsupportedArchError: if the process turns out to run 32-bit code
        """
        facts, pid = self.view.facts, self.target.pid
        machine = self.target.machine
        answers = self.answers
        threads = parse_threads(
            facts.threads,
            self.lasting,
            pid,
            machine,
            alt_stack=None if answers is None else answers.alt_stack,
        )
        held, extended = partition_segments(
            self.source.segments(streamed),
            (segment.mapping.map for segment in self.source.plan.segments),
            holds,
        )
        fds = describe_fds(facts.fds, self.view.contents, self.fds, self.others)
        return ProcessState(
            pid=pid,
            cwd=facts.cwd.decode(errors="replace"),
            exe=facts.exe.decode(errors="replace"),
            regs=threads[0].regs,
            memory_maps=tuple(mapping.map for mapping in self.view.mappings),
            memory_data=held,
            extended_segments=extended,
            threads=threads,
            arch=self.target.machine.name,
            vm_areas=describe_areas(
                self.view, self.files, self.flags, self.source.plan
            ),
            details=parse_details(
                self.view.details, facts.status, facts.queued, answers
            ),
            fd_details=fds.details,
            pipe_contents=fds.pipes,
            socket_contents=fds.sockets,
            skipped_fds=fds.skipped,
            skipped=self.source.skipped(),
        )

    @property
    def answers(self) -> Answers | None:
        """What a clone of the process has said, if one could be asked."""
        asked = self.view.asked
        return None if isinstance(asked, Unasked) else asked

    def warnings(self) -> list[str]:
        """Return what the image lacks for want of a clone."""
        return lacking_facts(self.target.pid, self.view.asked)

    def fd_table(self) -> tuple[FdInfo, ...]:
        """Return the open descriptors."""
        return parse_fds(self.view.facts)


def lacking_facts(pid: int, asked: Answers | Unasked) -> list[str]:
    """Return what nobody could be asked for, as warnings."""
    if isinstance(asked, Unasked):
        return [
            f"the signal handlers, alternate stack, brk and timers of process {pid} "
            f"are not known: {asked.reason}"
        ]
    if asked.timers is not None and asked.brk is None:
        return [
            f"the brk of process {pid} is not known: its code has no instruction to "
            "borrow that stores it"
        ]
    return []


def lost_contents(picture: Picture) -> list[str]:
    """Return what waits in descriptors and is not in the image, as warnings."""
    state = picture.process_state
    paths = {this.fd: this.path for this in picture.fd_table}
    return [
        f"descriptor {this.fd} of process {state.pid} ({paths[this.fd]}): not all that "
        f"waits in it is in the image: {this.reason}"
        for this in state.skipped_fds
    ]


def partition_segments(
    segments: Iterable[MemorySegment],
    mappings: Iterable[MemoryMap],
    holds: Callable[[MemoryMap], bool],
) -> tuple[tuple[MemorySegment, ...], tuple[MemorySegment, ...]]:
    """Return the segments of mappings that a base layout holds, and the others."""
    held: list[MemorySegment] = []
    extended: list[MemorySegment] = []
    for segment, mapping in zip(segments, mappings, strict=True):
        (held if holds(mapping) else extended).append(segment)
    return tuple(held), tuple(extended)
