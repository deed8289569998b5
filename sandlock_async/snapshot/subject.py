"""One process of a freeze: who it is, and what becomes of it on the way."""

from sandlock_async.clock import Deadline
from sandlock_async.freeze import ThreadGroup
from sandlock_async.plan import Planner
from sandlock_async.snapshot.direct import DirectSource
from sandlock_async.snapshot.facts import RawFd
from sandlock_async.snapshot.fd_late import LateFds
from sandlock_async.snapshot.survey import Survey
from sandlock_async.snapshot.view import View
from sandlock_async.snapshot.vm_areas import Flags
from sandlock_async.target import Target


class Subject:
    """A process that is frozen, alone or together with others.

    :ivar group: its threads
    :ivar source: where its memory goes; the subject closes it
    :ivar planner: what has been planned so far
    :ivar known_fds: its descriptors a moment before the freeze
    :ivar flags: ``VmFlags`` of what was seen; there some time after the thaw
    """

    def __init__(
        self, target: Target, survey: Survey, source: DirectSource, deadline: Deadline
    ) -> None:
        self.target = target
        self.survey = survey
        self.source = source
        self.group: ThreadGroup = ThreadGroup(target.pid, deadline)
        self.planner: Planner = Planner()
        self._view: View | None = None
        self._late: LateFds | None = None
        self.flags: Flags = {}
        self.known_fds: list[RawFd] = []

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
