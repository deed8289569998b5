"""v1: the layout of sandlock 0.8.2.

``memory_map.json`` lists the captured mappings only, and ``memory/<i>.bin`` holds
number *i* of that list. There is no version anywhere.
"""

import struct

from sandlock_async.errors import ImageVersionError
from sandlock_async.image import layout
from sandlock_async.image.directory import ImageDirectory
from sandlock_async.image.extended import decode_extended, encode_extended
from sandlock_async.image.files import Format, ImageFiles
from sandlock_async.image.process_json import (
    decode_fd,
    decode_map,
    dumps,
    encode_fd,
    encode_map,
)
from sandlock_async.image.strict_json import (
    I32,
    Fields,
    Malformed,
    loads,
    parse_items,
)
from sandlock_async.model import (
    MemoryMap,
    MemorySegment,
    Picture,
    ProcessState,
    ThreadState,
)


def captures(this: MemoryMap) -> bool:
    """Whether the layout holds the bytes of a mapping: private, writable, ordinary."""
    return this.writable and this.private and not this.is_special


def segment_name(index: int, _: MemoryMap) -> str:
    """Return the name of memory file number *index*."""
    return f"{layout.MEMORY}/{index}.bin"


def encode(picture: Picture) -> ImageFiles:
    """Lay *picture* out as files."""
    state = picture.process_state
    by_start = {this.start: this for this in state.memory_maps}
    listed = [by_start[segment.start] for segment in state.memory_data]
    small = {
        layout.POLICY: picture.policy,
        layout.INFO: dumps({"pid": state.pid, "cwd": state.cwd, "exe": state.exe}),
        layout.FDS: dumps([encode_fd(this) for this in picture.fd_table]),
        layout.MEMORY_MAP: dumps([encode_map(this) for this in listed]),
        layout.MAIN_THREAD: struct.pack(f"<{len(state.regs)}Q", *state.regs),
        **encode_extended(state),
    }
    if picture.app_state is not None:
        small[layout.APP_STATE] = picture.app_state
    meta = {"name": picture.name, "cow_snapshot": picture.cow_snapshot}
    small[layout.META] = dumps(meta)
    names = [segment_name(index, this) for index, this in enumerate(listed)]
    return ImageFiles(
        small=small, segments=tuple(zip(names, state.memory_data, strict=True))
    )


def decode(directory: ImageDirectory) -> Picture:
    """Read a picture back; memory is read when it is asked for.

    :raises ImageCorruptError: naming the file that is missing or malformed
    :raises ImageVersionError: if the image is of another version
    """
    name, cow_snapshot = _decode_meta(directory)
    policy = directory.read(layout.POLICY)
    state = _decode_state(directory)
    try:
        content = loads(directory.read(layout.FDS))
        fd_table = parse_items(content, "fds", decode_fd)
    except Malformed as error:
        raise directory.corrupt(layout.FDS, str(error)) from error
    return Picture(
        name=name,
        policy=policy,
        process_state=state,
        fd_table=fd_table,
        cow_snapshot=cow_snapshot,
        app_state=directory.read_optional(layout.APP_STATE),
    )


def _decode_meta(directory: ImageDirectory) -> tuple[str, str | None]:
    try:
        meta = Fields(loads(directory.read(layout.META)), "meta")
        version = meta.value("version")
        if version is not None:
            path = directory.path / layout.META
            raise ImageVersionError(path, version, "no version, as in v1")
        return meta.text("name"), meta.optional_text("cow_snapshot")
    except Malformed as error:
        raise directory.corrupt(layout.META, str(error)) from error


def _decode_state(directory: ImageDirectory) -> ProcessState:
    try:
        info = Fields(loads(directory.read(layout.INFO)), "info")
        pid = info.integer("pid", I32)
        cwd, exe = info.text("cwd"), info.text("exe")
    except Malformed as error:
        raise directory.corrupt(layout.INFO, str(error)) from error

    try:
        content = loads(directory.read(layout.MEMORY_MAP))
        listed = parse_items(content, "memory_map", decode_map)
    except Malformed as error:
        raise directory.corrupt(layout.MEMORY_MAP, str(error)) from error
    segments = tuple(
        MemorySegment(
            start=this.start,
            data=directory.segment(segment_name(index, this), this.size),
        )
        for index, this in enumerate(listed)
    )

    regset = directory.read(layout.MAIN_THREAD)
    if len(regset) % 8:
        reason = f"{len(regset)} bytes are no whole number of registers"
        raise directory.corrupt(layout.MAIN_THREAD, reason)
    regs = struct.unpack(f"<{len(regset) // 8}Q", regset)

    extended = decode_extended(directory)
    if extended is None:
        main = ThreadState(tid=pid, regs=regs)
        return ProcessState(
            pid=pid,
            cwd=cwd,
            exe=exe,
            regs=regs,
            memory_maps=listed,
            memory_data=segments,
            threads=(main,),
        )
    if not extended.threads or extended.threads[0].regs != regs:
        reason = f"the main thread is not that of {layout.MAIN_THREAD}"
        raise directory.corrupt(layout.EXTENDED_PROCESS, reason)
    if not set(listed) <= set(extended.memory_maps):
        reason = f"mappings of {layout.MEMORY_MAP} are not listed"
        raise directory.corrupt(layout.EXTENDED_PROCESS, reason)
    return ProcessState(
        pid=pid,
        cwd=cwd,
        exe=exe,
        regs=regs,
        memory_maps=extended.memory_maps,
        memory_data=segments,
        threads=extended.threads,
        arch=extended.arch,
        skipped=extended.skipped,
    )


FORMAT = Format(
    name="v1",
    captures=captures,
    segment_name=segment_name,
    encode=encode,
    decode=decode,
)
