"""What a format turns a picture into, and how it is named."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

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


class Encode(Protocol):
    """Lays a picture out as files."""

    def __call__(self, picture: Picture) -> ImageFiles: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One layout.

    :ivar name: as ``format=`` takes it
    :ivar captures: whether the layout holds the bytes of a mapping
    :ivar segment_name: the name of memory file number *index* for a mapping
    :ivar encode: lays a picture out as files
    :ivar decode: reads one back
    """

    name: str
    captures: Callable[[MemoryMap], bool]
    segment_name: Callable[[int, MemoryMap], str]
    encode: Encode
    decode: Callable[[ImageDirectory], Picture]
