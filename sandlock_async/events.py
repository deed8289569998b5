"""What ``on_event`` is told while a capture goes on.

Called on the event loop; keep it short. Times are seconds of the monotonic clock
(:func:`time.monotonic`).
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """Every thread of the target stands still.

    For a target that fits the memory budget it is told together with
    :class:`Thawed`, afterwards: the frozen window waits for nobody.
    """

    pid: int
    threads: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Thawed:
    """The target runs again."""

    pid: int
    freeze_ms: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Memory written so far.

    :ivar done_bytes: written to the image
    :ivar total_bytes: what will be written in all
    """

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The checkpoint is at its place, whole."""

    path: Path


Event = Frozen | Thawed | Progress | Committed
