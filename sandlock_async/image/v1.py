"""v1: the layout of sandlock 0.8.2.

``memory_map.json`` lists the mappings that the layout holds only, and
``memory/<i>.bin`` holds number *i* of that list. There is no version anywhere.
"""

from sandlock_async.image import layout
from sandlock_async.image.base import decode_base, encode_files
from sandlock_async.image.directory import ImageDirectory
from sandlock_async.image.files import Format, ImageFiles
from sandlock_async.model import MemoryMap, MemorySegment, Picture


def holds(this: MemoryMap) -> bool:
    """Whether the layout holds the bytes of a mapping: private, writable, ordinary."""
    return this.writable and this.private and not this.is_special


def base_name(index: int, _: MemoryMap) -> str:
    """Return the name of memory file number *index*."""
    return f"{layout.MEMORY}/{index}.bin"


def encode(picture: Picture) -> ImageFiles:
    """Lay *picture* out as files."""
    return encode_files(
        picture,
        version=layout.V1,
        holds=holds,
        base_name=base_name,
        listed=lambda _, held: held,
        has_fp=False,
    )


def decode(directory: ImageDirectory) -> Picture:
    """Read a picture back; memory is read when it is asked for.

    :raises ImageError: naming the file that is missing or malformed
    """
    base = decode_base(directory, has_fp=False)
    return base.picture(
        [
            MemorySegment(
                start=this.start,
                data=directory.segment(base_name(index, this), this.size),
            )
            for index, this in enumerate(base.maps)
        ],
        policy_version="v1",
    )


FORMAT = Format(
    name="v1",
    version=layout.V1,
    holds=holds,
    base_name=base_name,
    encode=encode,
    decode=decode,
)
