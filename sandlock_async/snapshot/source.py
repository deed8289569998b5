"""Where a captured process's memory is to be had: what all sources have in common."""

from abc import ABC, abstractmethod

from sandlock_async.model import MemorySegment, Skipped
from sandlock_async.plan import Plan
from sandlock_async.snapshot.mapped_files import Identities
from sandlock_async.snapshot.pieces import Piece


class Source(ABC):
    """The memory of one process, as it was. Whoever writes it need not know which."""

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """What there is of it."""

    @abstractmethod
    def read_mapped_files(self, pid: int, root_fd: int, before: Identities) -> None:
        """Find the pages that were mapped from a file but never touched.

        Call after the thaw; it may wait for a disk.

        :param before: which files they were before the freeze
        """

    @abstractmethod
    def segments(
        self, streamed: dict[int, list[Piece]] | None = None
    ) -> tuple[MemorySegment, ...]:
        """Return the memory, without what was pending under the freeze.

        :param streamed: pieces by segment number, where pending ones are now
        """

    @abstractmethod
    def skipped(self) -> tuple[Skipped, ...]:
        """Return what is not in the image though it should be, with reasons.

        What cannot be read of a snapshot is known when it has been read.
        """

    @property
    def unreadable(self) -> bool:
        """Whether anything could not be read that was only tried after the thaw."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Give the memory back; closing twice does nothing."""
