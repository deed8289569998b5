"""v2: the layout of sandlock 0.8.6.

``memory_map.json`` lists every mapping, and ``memory/<start>.bin`` holds the bytes of
those that have any to hold. The main thread's extended registers are in it too.
"""

from functools import partial

from sandlock_async.image import layout
from sandlock_async.image.base import decode_base, encode_files
from sandlock_async.image.directory import ImageDirectory
from sandlock_async.image.files import Format
from sandlock_async.model import MemoryMap, MemorySegment, Picture


def holds(this: MemoryMap) -> bool:
    """Whether the layout holds the bytes of a captured mapping.

    sandlock itself dumps what is writable and private, shared memory without a file,
    and what is of a deleted file. Its loader takes any other listed mapping as well
    and, restoring, needs the changed pages of read-only ones. What the program itself
    may not read it cannot put back.
    """
    return not this.is_special and (this.readable or must_dump(this))


def must_dump(this: MemoryMap) -> bool:
    """Whether sandlock itself would dump a mapping (``must_dump`` in its source)."""
    if this.is_special:
        return False
    if not this.perms.startswith("rw") and not this.is_unreopenable:
        return False
    return this.private or not this.has_file or this.is_unreopenable


def base_name(_: int, this: MemoryMap) -> str:
    """Return the name of the memory file of a mapping."""
    return f"{layout.MEMORY}/{this.start:x}.bin"


def decode(directory: ImageDirectory, *, name: str) -> Picture:
    """Read a picture back; memory is read when it is asked for.

    :param name: of the layout; its policy is of that version

    :raises ImageError: naming the file that is missing or malformed
    """
    base = decode_base(directory, has_fp=True)
    segments: list[MemorySegment] = []
    for this in base.maps:
        data = directory.optional_segment(base_name(0, this), this.size)
        if data is not None:
            segments.append(MemorySegment(start=this.start, data=data))
    return base.picture(segments, policy_version=name)


def make_format(name: str, version: int) -> Format:
    """Return the layout under a version number of its own."""
    return Format(
        name=name,
        version=version,
        holds=holds,
        base_name=base_name,
        encode=partial(
            encode_files,
            version=version,
            holds=holds,
            base_name=base_name,
            listed=lambda state, _: state.memory_maps,
            has_fp=True,
        ),
        decode=partial(decode, name=name),
    )


FORMAT = make_format("v2", layout.V2)
