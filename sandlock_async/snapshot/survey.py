"""What is looked up before the freeze, to make the freeze short.

smaps of 800 MB costs 17 ms, maps 0.05: the flags are read while the target runs,
and read again under the freeze only where they can matter.
"""

import time
from dataclasses import dataclass

from sandlock_async.errors import UncapturableError
from sandlock_async.failure import translate
from sandlock_async.freeze import dead_leader_error
from sandlock_async.image import layout
from sandlock_async.kernel import files
from sandlock_async.plan import Planner
from sandlock_async.procfs.maps import (
    Mapping,
    parse_maps,
    parse_vm_flags,
    shared_dirty_bytes,
    split_smaps,
)
from sandlock_async.procfs.stat import parse_stat
from sandlock_async.selection import Selection, is_copied_by_fork, select
from sandlock_async.snapshot.asking import Means, find_means
from sandlock_async.snapshot.cgroup import memory_headroom
from sandlock_async.snapshot.details import RawDetails, read_details
from sandlock_async.snapshot.mapped_files import Identities, identify
from sandlock_async.snapshot.pages import scan_pages
from sandlock_async.target import Target, read_stat

_PHASE = "prepare"

_TRIES = 100
_MUCH_BYTES = 1 << 20

_ANY_METADATA_BYTES = 10 * 4096
"""A block for each of the small files, or for the last bytes of the larger ones."""

_MAPPING_BYTES = 640
_THREAD_BYTES = 8 << 10

_MORE_INODES = 2 + 8
"""The operation, the manifest; and the folders, if it is a descendant."""
_DENIALS = 20
"""Times that we may be denied before it is meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The memory layout as it was a moment ago.

    :ivar maps: ``/proc/PID/maps``, byte for byte
    :ivar mappings: the same, parsed
    :ivar wanted: those of them that may have content for an image
    :ivar vm_flags: ``VmFlags`` of smaps, by start address
    :ivar expected_bytes: what a capture would copy now
    :ivar image_bytes: what memory the image of it would have to hold
    :ivar memory_bytes: length of its memory files together, holes included
    :ivar segments: how many those are
    :ivar metadata_bytes: what all else of it takes on the disk, at most about
    :ivar image_inodes: how many files the image would have, or folders of its own
    :ivar uncopied_bytes: what of it a fork would not copy
    :ivar headroom: bytes that its memory cgroup has left; None if no limit
    :ivar files: which files are mapped
    :ivar details: what hardly ever changes
    :ivar exclude_dontdump: whether MADV_DONTDUMP memory is left out
    :ivar means: what a clone of it can be made with
    :ivar planner: what would be copied now
    :ivar shares_pages: whether much of its memory is its parent's or a child's as well,
        since a fork(2)
    :ivar missing_faults: whether a fault in some mapping would go to a userfaultfd
        handler
    """

    maps: bytes
    mappings: list[Mapping]
    wanted: Selection
    vm_flags: dict[int, frozenset[str]]
    expected_bytes: int
    image_bytes: int
    memory_bytes: int
    segments: int
    metadata_bytes: int
    image_inodes: int
    uncopied_bytes: int
    headroom: int | None
    files: Identities
    details: RawDetails
    exclude_dontdump: bool
    means: Means
    planner: Planner
    missing_faults: bool
    shares_pages: bool


def survey(target: Target, *, exclude_dontdump: bool = False) -> Survey:
    """Read the memory layout of the running target.

    :param exclude_dontdump: leave out MADV_DONTDUMP memory, and report it
    :raises ProcessGoneError: if it is gone
    :raises NotPermittedError: if we may not look at its memory
    """
    for attempt in range(_TRIES):
        try:
            return _survey(target, exclude_dontdump=exclude_dontdump)
        except OSError as error:
            # In the midst of execve(2) a process has no memory (ESRCH), and then one
            # that is not ours to look at yet (EACCES): a moment later it is there.
            if not target.is_there() or not (
                files.is_gone(error)
                or (isinstance(error, PermissionError) and attempt < _DENIALS)
            ):
                stat = read_stat(target.pid, _PHASE)
                if stat.is_dead:
                    raise dead_leader_error(target.pid, stat, _PHASE) from error
                raise translate(error, target.pid, _PHASE) from error
            time.sleep(0.001)
    stat = read_stat(target.pid, _PHASE)
    if stat.is_dead:
        raise dead_leader_error(target.pid, stat, _PHASE)
    raise UncapturableError(
        f"process {target.pid} calls execve(2) faster than it can be looked at",
        pid=target.pid,
        phase=_PHASE,
        help="try again",
    )


def _survey(target: Target, *, exclude_dontdump: bool) -> Survey:
    pid = target.pid
    # Both files at one time: what is in the one is in the other, too.
    smaps = _read_smaps(pid)
    maps, flags = split_smaps(smaps)
    mappings = parse_maps(maps)
    vm_flags = {
        mapping.map.start: these for mapping, these in zip(mappings, flags, strict=True)
    }
    wanted = select(mappings, vm_flags, exclude_dontdump=exclude_dontdump)
    # With the GIL let go: the mmap_lock may be held by the process itself.
    pages = scan_pages(pid, wanted, vm_flags, hold_gil=False)
    planner = Planner()
    plan = planner.plan(wanted, vm_flags, pages, {})
    details = read_details(pid)
    return Survey(
        maps=maps,
        mappings=mappings,
        wanted=wanted,
        vm_flags=vm_flags,
        expected_bytes=plan.populated_bytes,
        image_bytes=plan.image_bytes,
        memory_bytes=plan.memory_bytes,
        segments=len(plan.segments),
        metadata_bytes=_metadata_bytes(maps, len(mappings), details),
        image_inodes=len(plan.segments) + len(layout.FILES) + _MORE_INODES,
        uncopied_bytes=sum(
            segment.populated_bytes
            for segment in plan.segments
            if not is_copied_by_fork(segment.mapping, vm_flags)
        ),
        headroom=memory_headroom(pid),
        files=identify(pid, target.root_fd, mappings),
        details=details,
        exclude_dontdump=exclude_dontdump,
        means=find_means(
            pid,
            target.machine,
            mappings,
            vm_flags.values(),
            sandboxed=target.sandboxed,
        ),
        planner=planner,
        missing_faults=any("um" in flags for flags in vm_flags.values()),
        shares_pages=shared_dirty_bytes(smaps) >= _MUCH_BYTES,
    )


def _metadata_bytes(maps: bytes, mappings: int, details: RawDetails) -> int:
    """Return what all but memory takes, names and bytes of descriptors aside.

    Measured: each path comes three times at most.
    """
    threads = parse_stat(details.stat).num_threads
    return (
        _ANY_METADATA_BYTES
        + _MAPPING_BYTES * mappings
        + 3 * len(maps)
        + _THREAD_BYTES * threads
    )


def read_vm_flags(pid: int) -> dict[int, frozenset[str]]:
    """Return the ``VmFlags`` of every mapping, by start address.

    Takes milliseconds, with the GIL let go.

    :raises OSError: if ``/proc/PID/smaps`` cannot be read
    """
    return parse_vm_flags(_read_smaps(pid))


def _read_smaps(pid: int) -> bytes:
    with open(f"/proc/{pid}/smaps", "rb", buffering=0) as file:
        return file.readall()
