"""Finding gadgets in the code of a running program."""

from collections.abc import Collection, Iterable, Iterator

from sandlock_async.injection.gadgets import LONGEST, Gadgets, find_gadgets
from sandlock_async.kernel import files, process_vm
from sandlock_async.procfs.maps import Mapping

_PIECE_BYTES = (1 << 16) - LONGEST
_MOST_BYTES = 64 << 20
"""What is searched of a program; C libraries are a tenth of that."""

_KNOWN: dict[tuple[tuple[int, int], int, int, int], Gadgets] = {}
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
    found = Gadgets()
    searched = 0
    for mapping in sorted(code, key=lambda mapping: mapping.map.size):
        searched += mapping.map.size
        if found.complete or searched > _MOST_BYTES:
            break
        found = found.or_else(_gadgets_in(pid, mapping))
    return found


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


def _gadgets_in(pid: int, mapping: Mapping) -> Gadgets:
    this = mapping.map
    key = (mapping.device, mapping.inode, this.offset, this.size)
    known = _KNOWN.get(key)
    if known is not None and are_there(pid, known.moved(this.start)):
        return known.moved(this.start)
    found = Gadgets()
    for address, content in _pieces(pid, this.start, this.end):
        if found.complete:
            break
        found = found.or_else(find_gadgets(content).moved(address - this.start))
    if len(_KNOWN) >= _KNOWN_AT_MOST:
        _KNOWN.clear()
    _KNOWN[key] = found
    return found.moved(this.start)


def _pieces(pid: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield a mapping's code, piece by piece; each begins with the end of the last."""
    for low in range(start, end, _PIECE_BYTES):
        size = min(_PIECE_BYTES + LONGEST, end - low)
        try:
            yield low, process_vm.read(pid, low, size)
        except OSError as error:
            if files.is_gone(error):
                raise
            # Behind the end of its file, or not to be read.
