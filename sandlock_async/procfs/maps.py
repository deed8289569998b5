"""``/proc/PID/maps`` and the flags of ``/proc/PID/smaps``."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from sandlock_async.model import MemoryMap

# 7f0a-7f0b rw-p 00001000 fe:01 1234                     /a path with spaces
_LINE = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) ([^ \n]*) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) ([0-9]+)"
    rb"(?: +([^\n]*))?$",
    re.MULTILINE,
)

# A header line of smaps is a line of maps; the others are `Name:  value`.
_HEADER = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ [^\n]*", re.MULTILINE)


class Mapping(NamedTuple):
    r"""A line of maps, with the identity of its file.

    A process has dozens, so no dataclass: a frozen one takes three times as long.

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
    lines = _LINE.findall(content)
    if len(lines) != content.count(b"\n") + (content[-1:] not in (b"", b"\n")):
        raise ValueError(f"not lines of maps: {content!r}")
    mappings: list[Mapping] = []
    for start, end, perms, offset, major, minor, inode, padded in lines:
        path, raw_path = _paths(padded)
        mappings.append(
            Mapping(
                MemoryMap(
                    start=int(start, 16),
                    end=int(end, 16),
                    perms=perms.decode("ascii"),
                    offset=int(offset, 16),
                    path=path,
                ),
                (int(major, 16), int(minor, 16)),
                int(inode),
                raw_path,
            )
        )
    return mappings


_SHARED_DIRTY = b"\nShared_Dirty:"
_NOTHING_SHARED = b"\nShared_Dirty:          0 kB"


def split_smaps(content: bytes) -> tuple[bytes, list[frozenset[str]]]:
    """Return what ``/proc/PID/maps`` would say, and the ``VmFlags`` of each line.

    :param content: a whole ``/proc/PID/smaps``
    """
    areas = list(_areas(content))
    maps = b"".join([header + b"\n" for header, _ in areas])
    return maps, [flags for _, flags in areas]


def parse_vm_flags(content: bytes) -> dict[int, frozenset[str]]:
    """Return the ``VmFlags`` of every mapping in ``/proc/PID/smaps``, by start."""
    return {
        int(header[: header.index(b"-")], 16): flags
        for header, flags in _areas(content)
    }


def parse_smaps(content: bytes) -> dict[Mapping, frozenset[str]]:
    """Return the ``VmFlags`` of every mapping in ``/proc/PID/smaps``.

    :raises ValueError: if a line has another form
    """
    maps, flags = split_smaps(content)
    return dict(zip(parse_maps(maps), flags, strict=True))


def shared_dirty_bytes(content: bytes) -> int:
    """Return how much changed memory others have mapped too: since a fork(2), mostly.

    :param content: a whole ``/proc/PID/smaps``
    """
    if content.count(_SHARED_DIRTY) == content.count(_NOTHING_SHARED):
        return 0
    return (
        sum(int(line.split(None, 1)[0]) for line in content.split(_SHARED_DIRTY)[1:])
        * 1024
    )


def _areas(content: bytes) -> Iterator[tuple[bytes, frozenset[str]]]:
    """Yield the header line and the flags of each mapping in smaps."""
    # The flags are the last of a mapping's thirty lines: to look for them alone takes
    # a fifth of the time of looking at each.
    area, *others = content.split(b"\nVmFlags:")
    for other in others:
        header = _HEADER.search(area)
        if header is not None:
            yield header[0], _flags(other[: other.find(b"\n")])
        area = other


# The same few of them occur in every process.


@lru_cache(maxsize=256)
def _flags(letters: bytes) -> frozenset[str]:
    return frozenset(letters.decode().split())


@lru_cache(maxsize=1024)
def _paths(padded: bytes) -> tuple[str | None, bytes]:
    """Return a path as the image has it, and its own bytes."""
    # On the right a space is the path's own, which sandlock trims.
    path = padded.rstrip(b" ")
    return (
        path.decode(errors="replace") if path else None,
        # Only a newline is escaped, show_map_vma() in fs/proc/task_mmu.c.
        padded.replace(rb"\012", b"\n"),
    )
