"""The frozen window: all that happens while the target stands still.

Short, synchronous, on the one thread that attached. It reads only what must be
read now; nothing is parsed that can be parsed later, and nothing written.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sandlock_async.freeze import ThreadGroup
from sandlock_async.kernel import files
from sandlock_async.kernel.pagemap import Pagemap
from sandlock_async.model import MemoryMap
from sandlock_async.plan import plan_segments
from sandlock_async.procfs.maps import Mapping, parse_maps
from sandlock_async.snapshot.direct import DirectSource
from sandlock_async.snapshot.facts import Facts, read_facts
from sandlock_async.snapshot.survey import Survey, read_vm_flags, translate
from sandlock_async.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What was seen through the window, besides memory."""

    facts: Facts
    mappings: list[Mapping]


def look(
    target: Target,
    group: ThreadGroup,
    survey: Survey,
    source: DirectSource,
    captures: Callable[[MemoryMap], bool],
) -> View:
    """Freeze the target, read it, and let it run again if nothing is pending.

    If *source* has something pending the target is still frozen; otherwise, and
    whenever this raises, it runs.

    :raises CaptureError: in all its forms; the message says why
    """
    try:
        group.freeze()
        view = _read(target, group, survey, source, captures)
        group.check_frozen()
    except OSError as error:
        group.thaw()
        raise translate(error, target.pid, "snapshot") from error
    except BaseException:
        group.thaw()
        raise
    if not source.pending:
        group.thaw()
    return view


def _read(
    target: Target,
    group: ThreadGroup,
    survey: Survey,
    source: DirectSource,
    captures: Callable[[MemoryMap], bool],
) -> View:
    pid = target.pid
    # Traced now, so the number cannot pass to another process any more.
    target.check_same(group.stat, "freeze")
    facts = read_facts(pid, group.tids)
    maps = files.read_file(f"/proc/{pid}/maps")
    mappings, wanted = survey.mappings, survey.wanted
    if maps != survey.maps:
        mappings = parse_maps(maps)
        wanted = [mapping for mapping in mappings if captures(mapping.map)]
    vm_flags = survey.vm_flags
    if facts.has_userfaultfd or survey.missing_faults:
        # Only such a program can have changed what the flags are read for.
        vm_flags = read_vm_flags(pid)
    with Pagemap(pid) as pagemap:
        plan = plan_segments(wanted, vm_flags, populated=pagemap.populated)
    source.copy(plan)
    return View(facts=facts, mappings=mappings)
