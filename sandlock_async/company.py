"""Those that are frozen together: a process and its descendants, or one another."""

from sandlock_async.clock import Deadline
from sandlock_async.descendants import find_descendants
from sandlock_async.errors import CaptureError, FreezeTimeoutError, ProcessGoneError
from sandlock_async.kernel.memory import Arena
from sandlock_async.scene import Sight
from sandlock_async.snapshot.copying import Copier
from sandlock_async.snapshot.direct import DirectSource
from sandlock_async.snapshot.subject import Subject
from sandlock_async.snapshot.survey import Survey, survey
from sandlock_async.strategy import Choice, Strategy
from sandlock_async.target import Target, open_target
from sandlock_async.workers import Workers

NEWCOMER_GROWTH_BYTES = 1 << 20
"""Room for what a descendant touches between the look before and its freeze."""

_SMALL_BYTES = 8 << 20
_LITTLE_GROWTH_BYTES = 16 << 10

_NEWCOMER = Choice(
    strategy=Strategy.DIRECT, reason="it was started while the others were frozen"
)


def make_subject(sight: Sight, deadline: Deadline, workers: Workers) -> Subject:
    """Return a process ready to be frozen, with memory for the copy. Blocks.

    :raises OSError: ``ENOMEM``
    """
    arena = Arena(sight.room, _ready(sight))
    copier = Copier(sight.target.pid, deadline, shares_pages=sight.survey.shares_pages)
    direct = DirectSource(copier, arena, workers)
    return Subject(sight.target, sight.survey, direct, sight.choice, deadline)


def _ready(sight: Sight) -> int:
    """Return how much of the room is to be there already.

    To clear all that a small process might grow by would take longer than to copy it.
    """
    forks = sight.choice.strategy is Strategy.FORK
    seen = sight.survey
    size = seen.uncopied_bytes if forks else seen.expected_bytes
    if size > _SMALL_BYTES:
        return sight.room
    return min(size + size // 8 + _LITTLE_GROWTH_BYTES, sight.room)


class Descendants:
    """A process, and its descendants if they are wanted; the first is needed.

    Those that nobody had seen before the freeze are found under it.

    """

    def __init__(
        self,
        subjects: list[Subject],
        deadline: Deadline,
        workers: Workers,
        first: Survey,
        *,
        tree: bool,
    ) -> None:
        self._subjects = subjects
        self._deadline = deadline
        self._workers = workers
        self._exclude_dontdump = first.exclude_dontdump
        self._tree = tree
        self._opened: list[Target] = []
        self._ended: set[int] = set()

    @property
    def ended(self) -> tuple[int, ...]:
        """Those that had ended before they stood still."""
        return tuple(sorted(self._ended))

    def find_new(self) -> list[Subject]:
        """Return those that have not been seen yet; on the tracer's thread."""
        if not self._tree:
            return []
        known = {subject.target.pid for subject in self._subjects} | self._ended
        found: list[Subject] = []
        for pid in find_descendants(self._subjects[0].target.pid):
            if pid in known:
                continue
            try:
                target = open_target(pid)
                self._opened.append(target)
                seen = survey(target, exclude_dontdump=self._exclude_dontdump)
            except ProcessGoneError:
                self._ended.add(pid)
                continue
            room = seen.expected_bytes + NEWCOMER_GROWTH_BYTES
            sight = Sight(target=target, survey=seen, room=room, choice=_NEWCOMER)
            found.append(make_subject(sight, self._deadline, self._workers))
        return found

    def leave(self, subject: Subject, error: CaptureError) -> None:
        """Take note that one has ended before it stood still.

        :raises CaptureError: what is wrong, if it is something else, or the first
        """
        if subject is self._subjects[0] or not isinstance(error, ProcessGoneError):
            raise error
        self._subjects.remove(subject)
        self._ended.add(subject.target.pid)
        subject.source.close()

    def close(self) -> None:
        """Let the processes go that were found here."""
        while self._opened:
            self._opened.pop().close()


class Equals:
    """Processes of which each is wanted for itself; nobody joins them.

    :param left: where the errors go of those that the others go on without, by pid
    """

    def __init__(self, subjects: list[Subject], left: dict[int, Exception]) -> None:
        self._subjects = subjects
        self._left = left

    @property
    def ended(self) -> tuple[int, ...]:
        """Nobody: who has ended is among those left."""
        return ()

    def find_new(self) -> list[Subject]:
        """Return nobody."""
        return []

    def leave(self, subject: Subject, error: CaptureError) -> None:
        """Go on without one.

        :raises CaptureError: what is wrong, if there is no time for the others either,
            nobody else is there, or one cannot be let go by itself
        """
        # A thread that is attached but not stopped is let go when the tracer ends.
        is_held = subject.group.tids and not isinstance(error, ProcessGoneError)
        late = isinstance(error, FreezeTimeoutError)
        if is_held or late or len(self._subjects) == 1:
            raise error
        self._subjects.remove(subject)
        self._left[subject.target.pid] = error
        subject.source.close()

    def close(self) -> None:
        """Do nothing."""
