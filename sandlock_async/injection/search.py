"""Finding gadgets in the code of a running program."""

from collections.abc import Collection, Iterable

from sandlock_async.injection.gadgets import LONGEST, Gadgets, find_gadgets
from sandlock_async.kernel import files, process_vm
from sandlock_async.procfs.maps import Mapping, parse_maps

_PIECE_BYTES = (1 << 16) - LONGEST
_MOST_BYTES = 64 << 20
"""What is searched of a program; C libraries are a tenth of that."""

_Key = tuple[tuple[int, int], int, int, int]
_KNOWN: dict[_Key, Gadgets] = {}
_KNOWN_AT_MOST = 1024


def search_gadgets(pid: int, mappings: Iterable[Mapping]) -> Gadgets:
    """Return the gadgets of a program; small libraries are searched first.

    What was found in a file is remembered, and looked at again.

    :raises OSError: ``ESRCH`` if the process is gone
    """
    code = [
        mapping
        for mapping in mappings
        if "x" in mapping.map.perms
        and mapping.map.readable
        and (mapping.file_backed or mapping.map.path == "[vdso]")
    ]
    code.sort(key=lambda mapping: mapping.map.size)
    found = _search(pid, code, _KNOWN)
    # Another program may have written over its copy of a library that we remember.
    return found if found.usable else _search(pid, code, {})


def are_there(
    pid: int, gadgets: Gadgets, mappings: Collection[Mapping] | None = None
) -> bool:
    """Whether the code of all gadgets is still where it was.

    :param mappings: those of the program, if they are not as they were
    """
    present = gadgets.present()
    if not present:
        return True
    if mappings is not None and not all(
        any(
            "x" in this.map.perms and this.map.start <= gadget.address < this.map.end
            for this in mappings
        )
        for gadget in present
    ):
        return False
    places = [(gadget.address, len(gadget.code)) for gadget in present]
    try:
        return process_vm.read_all(pid, places) == b"".join(
            gadget.code for gadget in present
        )
    except OSError as error:
        if files.is_gone(error):
            raise
        return False  # unmapped since


def _search(pid: int, code: Iterable[Mapping], known: dict[_Key, Gadgets]) -> Gadgets:
    found = Gadgets()
    new: dict[Mapping, Gadgets] = {}
    searched = 0
    for mapping in code:
        start = mapping.map.start
        searched += mapping.map.size
        if found.complete or searched > _MOST_BYTES:
            break
        these = known.get(_key(mapping))
        here = None if these is None else these.moved(start)
        if here is None or not are_there(pid, here):
            here = _gadgets_in(pid, mapping, new).moved(start)
        found = found.or_else(here)
    if new:
        _remember(pid, new)
    return found


def _gadgets_in(pid: int, mapping: Mapping, new: dict[Mapping, Gadgets]) -> Gadgets:
    """Return those in a mapping, as if it lay at address 0.

    :param new: where to put what is found by a search of all of it
    """
    this = mapping.map
    found = Gadgets()
    whole = True
    for low in range(this.start, this.end, _PIECE_BYTES):
        if found.complete:
            break
        # Each piece begins with the end of the last.
        size = min(_PIECE_BYTES + LONGEST, this.end - low)
        try:
            content = process_vm.read(pid, low, size)
        except OSError as error:
            if files.is_gone(error):
                raise
            whole = False  # behind the end of its file, or not to be read
            continue
        found = found.or_else(find_gadgets(content).moved(low - this.start))
    if whole:
        new[mapping] = found
    return found


def _remember(pid: int, new: dict[Mapping, Gadgets]) -> None:
    """Keep what was found, unless the program has called execve(2) meanwhile.

    Then something else may have been searched, and all others with that file would
    have to do without.
    """
    still = set(parse_maps(files.read_file(f"/proc/{pid}/maps")))
    if len(_KNOWN) >= _KNOWN_AT_MOST:
        _KNOWN.clear()
    for mapping, gadgets in new.items():
        if mapping in still:
            _KNOWN[_key(mapping)] = gadgets


def _key(mapping: Mapping) -> _Key:
    return mapping.device, mapping.inode, mapping.map.offset, mapping.map.size
