"""``/proc/PID/maps`` and the flags of ``/proc/PID/smaps``."""

import re
from dataclasses import dataclass

from sandlock_async.model import MemoryMap

# A header line of smaps is a line of maps; the others are `Name:  value`.
_HEADER = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    r"""A line of maps, with the identity of its file.

    :ivar map: what the image keeps of it
    :ivar device: ``(major, minor)``
    :ivar inode: 0 if there is no file
    :ivar raw_path: the path's own bytes, with the kernel's ``\012`` undone and its
        `` (deleted)`` kept; empty if there is none
    """

    map: MemoryMap
    device: tuple[int, int]
    inode: int
    raw_path: bytes

    @property
    def file_backed(self) -> bool:
        """Whether a page that is absent is a page of a file, not zeros."""
        return self.inode != 0


def parse_maps(content: bytes) -> list[Mapping]:
    """Parse a whole ``/proc/PID/maps``.

    :raises ValueError: if a line has another form
    """
    return [_parse_line(line) for line in content.split(b"\n") if line]


def parse_vm_flags(content: bytes) -> dict[int, frozenset[str]]:
    """Return the ``VmFlags`` of every mapping in ``/proc/PID/smaps``, by start."""
    flags: dict[int, frozenset[str]] = {}
    start = 0
    for line in content.split(b"\n"):
        if line.startswith(b"VmFlags:"):
            flags[start] = frozenset(line[8:].decode().split())
        elif _HEADER.match(line):
            start = int(line[: line.index(b"-")], 16)
    return flags


def parse_smaps(content: bytes) -> dict[Mapping, frozenset[str]]:
    """Return the ``VmFlags`` of every mapping in ``/proc/PID/smaps``.

    :raises ValueError: if a line has another form
    """
    flags = parse_vm_flags(content)
    lines = (line for line in content.split(b"\n") if _HEADER.match(line))
    return {
        mapping: flags.get(mapping.map.start, frozenset())
        for mapping in map(_parse_line, lines)
    }


def _parse_line(line: bytes) -> Mapping:
    # 7f0a-7f0b rw-p 00001000 fe:01 1234                     /a path with spaces
    fields = line.split(b" ", 5)
    if len(fields) < 5:
        raise ValueError(f"not a line of maps: {line!r}")

    start, _, end = fields[0].partition(b"-")
    major, _, minor = fields[3].partition(b":")
    # Padded on the left; on the right a space is the path's own, which sandlock trims.
    padded = fields[5] if len(fields) > 5 else b""
    path = padded.strip(b" ")
    return Mapping(
        map=MemoryMap(
            start=int(start, 16),
            end=int(end, 16),
            perms=fields[1].decode("ascii"),
            offset=int(fields[2], 16),
            path=path.decode(errors="replace") if path else None,
        ),
        device=(int(major, 16), int(minor, 16)),
        inode=int(fields[4]),
        # Only a newline is escaped, show_map_vma() in fs/proc/task_mmu.c.
        raw_path=padded.lstrip(b" ").replace(rb"\012", b"\n"),
    )
