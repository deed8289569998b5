"""What a format turns a picture into, and how it is named."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sandlock_async.image import layout
from sandlock_async.image.directory import ImageDirectory
from sandlock_async.model import MemoryMap, MemorySegment, Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """The files of an image.

    :ivar small: content by name, in the order of writing, ``meta.json`` last
    :ivar segments: name and bytes of every memory file
    """

    small: dict[str, bytes]
    segments: tuple[tuple[str, MemorySegment], ...]

    @property
    def memory_bytes(self) -> int:
        """Length of all memory files together, holes included."""
        return sum(len(segment.data) for _, segment in self.segments)

    @property
    def disk_bytes(self) -> int:
        """What all files take at most: holes are left out, but not pages of zeros.

        :raises ImageError: if memory is from another image that cannot be read
        """
        return sum(map(len, self.small.values())) + sum(
            stop - start
            for _, segment in self.segments
            for start, stop in segment.data.ranges()
        )


def with_small_file(files: ImageFiles, name: str, content: bytes) -> ImageFiles:
    """Return the same files and one more."""
    return replace(files, small={name: content, **files.small})


class Encode(Protocol):
    """Lays a picture out as files."""

    def __call__(self, picture: Picture) -> ImageFiles: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One layout.

    :ivar name: as ``format=`` takes it
    :ivar version: as ``meta.json`` has it; None where it has none
    :ivar holds: whether the base layout holds the bytes of a captured mapping; those
        of the others go to ``extended/``
    :ivar base_name: the name of the memory file of mapping number *index* of those
        that the base layout holds
    :ivar encode: lays a picture out as files
    :ivar decode: reads one back
    """

    name: str
    version: int | None
    holds: Callable[[MemoryMap], bool]
    base_name: Callable[[int, MemoryMap], str]
    encode: Encode
    decode: Callable[[ImageDirectory], Picture]

    def segment_names(self, captured: Sequence[MemoryMap]) -> list[str]:
        """Return the names of the memory files of all captured mappings."""
        return segment_names(captured, self.holds, self.base_name)


def segment_names(
    captured: Sequence[MemoryMap],
    holds: Callable[[MemoryMap], bool],
    base_name: Callable[[int, MemoryMap], str],
) -> list[str]:
    """Return the names of the memory files of captured mappings, in their order."""
    names: list[str] = []
    index = 0
    for this in captured:
        if holds(this):
            names.append(base_name(index, this))
            index += 1
        else:
            names.append(extended_name(this.start))
    return names


def extended_name(start: int) -> str:
    """Return the name of the memory file of a mapping the base layout does not hold."""
    return f"{layout.EXTENDED_MEMORY}/{start:x}.bin"
