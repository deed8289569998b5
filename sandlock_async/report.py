"""What a capture tells about itself."""

from dataclasses import dataclass
from pathlib import Path

from sandlock_async.model import Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureReport:
    """The outcome of :func:`sandlock_async.capture_to`.

    :ivar path: the checkpoint
    :ivar name: its name
    :ivar pid: the process
    :ivar format: the layout
    :ivar strategy: how the memory was read: ``direct`` or ``fork``
    :ivar reason: why that way
    :ivar threads: how many were captured
    :ivar segments: how many mappings were captured
    :ivar captured_bytes: their length together, holes included
    :ivar written_bytes: bytes written to the disk
    :ivar freeze_ms: how long the process stood still: first interrupt to last detach
    :ivar total_ms: the whole call
    :ivar phases_ms: the same by phase: ``prepare``, ``attach``, ``freeze``, ``write``
    :ivar skipped: what is not in the image though it should be, with reasons
    :ivar warnings: what else the caller should know
    :ivar children: the descendants that were captured with it
    """

    path: Path
    name: str
    pid: int
    format: str
    strategy: str
    reason: str
    threads: int
    segments: int
    captured_bytes: int
    written_bytes: int
    freeze_ms: float
    total_ms: float
    phases_ms: dict[str, float]
    skipped: tuple[Skipped, ...]
    warnings: tuple[str, ...]
    children: tuple[int, ...] = ()
