"""One process of a freeze: who it is, and what becomes of it on the way."""

from sandlock_async.clock import Deadline
from sandlock_async.freeze import ThreadGroup
from sandlock_async.injection.snapshots import Snapshot
from sandlock_async.plan import Planner
from sandlock_async.snapshot.direct import DirectSource
from sandlock_async.snapshot.facts import RawFd
from sandlock_async.snapshot.fd_late import LateFds
from sandlock_async.snapshot.forked import ForkedSource
from sandlock_async.snapshot.source import Source
from sandlock_async.snapshot.survey import Survey
from sandlock_async.snapshot.thread_facts import Lasting
from sandlock_async.snapshot.view import View
from sandlock_async.snapshot.vm_areas import Flags
from sandlock_async.strategy import Choice, Strategy
from sandlock_async.target import Target


class Subject:
    """A process that is frozen, alone or together with others.

    :ivar group: its threads
    :ivar direct: where the memory goes that is copied under the freeze
    :ivar choice: whether a copy of it is to be made instead, and why
    :ivar snapshot: the copy, once it is made
    :ivar is_unheard: whether a copy was asked for, and nobody waited for the answer
    :ivar forked: the memory, as the copy has it
    :ivar planner: what has been planned so far
    :ivar known_fds: its descriptors a moment before the freeze
    :ivar lasting: what lasts of its threads; there after the thaw
    :ivar flags: ``VmFlags`` of what was seen; there some time after the thaw
    """

    def __init__(
        self,
        target: Target,
        survey: Survey,
        direct: DirectSource,
        choice: Choice,
        deadline: Deadline,
    ) -> None:
        self.target = target
        self.survey = survey
        self.direct = direct
        self.choice = choice
        self.snapshot: Snapshot | None = None
        self.is_unheard: bool = False
        self.forked: ForkedSource | None = None
        self.group: ThreadGroup = ThreadGroup(target.pid, deadline)
        self.planner: Planner = survey.planner
        self._view: View | None = None
        self._late: LateFds | None = None
        self.flags: Flags = ()
        self.lasting: dict[int, Lasting] = {}
        self.known_fds: list[RawFd] = []

    def attach(self) -> None:
        """Attach to every thread, without stopping any; on the tracer's thread.

        :raises CaptureError: as :meth:`ThreadGroup.attach`
        :raises ProcessGoneError: if its number has passed to another process
        """
        self.group.attach()
        # Traced now, so the number cannot pass to another one any more.
        self.target.check_same("attach")

    @property
    def forks(self) -> bool:
        """Whether a copy is to be made, or was."""
        return self.choice.strategy is Strategy.FORK

    @property
    def source(self) -> Source:
        """Its memory as it was; the subject closes it."""
        return self.forked if self.forked is not None else self.direct

    @property
    def view(self) -> View:
        """What was seen of it, memory aside; there after the freeze."""
        assert self._view is not None
        return self._view

    @view.setter
    def view(self, view: View) -> None:
        self._view = view

    @property
    def late(self) -> LateFds:
        """What was looked up of its descriptors; there after the thaw."""
        assert self._late is not None
        return self._late

    @late.setter
    def late(self, late: LateFds) -> None:
        self._late = late
