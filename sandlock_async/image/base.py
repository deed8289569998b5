"""The files that every released layout shares, both ways."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sandlock_async.image import layout
from sandlock_async.image.directory import ImageDirectory
from sandlock_async.image.extended import Extended, decode_extended, encode_extended
from sandlock_async.image.files import ImageFiles, segment_names
from sandlock_async.image.process_json import (
    decode_fd,
    decode_map,
    dumps,
    encode_fd,
    encode_map,
)
from sandlock_async.image.strict_json import (
    PID,
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


def encode_files(
    picture: Picture,
    *,
    version: int | None,
    holds: Callable[[MemoryMap], bool],
    base_name: Callable[[int, MemoryMap], str],
    listed: Callable[[ProcessState, Sequence[MemoryMap]], Sequence[MemoryMap]],
    has_fp: bool,
) -> ImageFiles:
    """Lay *picture* out as files.

    :param listed: what ``memory_map.json`` lists, of a process and its mappings that
        the base layout holds
    :param has_fp: whether the layout has the main thread's floating-point registers
    """
    state = picture.process_state
    by_start = {this.start: this for this in state.memory_maps}
    segments = state.all_segments()
    captured = [by_start[segment.start] for segment in segments]
    names = segment_names(captured, holds, base_name)
    extended = [
        segment
        for segment, this in zip(segments, captured, strict=True)
        if not holds(this)
    ]
    maps = listed(state, [this for this in captured if holds(this)])
    small = {
        layout.POLICY: picture.policy,
        layout.INFO: dumps({"pid": state.pid, "cwd": state.cwd, "exe": state.exe}),
        layout.FDS: dumps([encode_fd(this) for this in picture.fd_table]),
        layout.MEMORY_MAP: dumps([encode_map(this) for this in maps]),
        layout.MAIN_THREAD: struct.pack(f"<{len(state.regs)}Q", *state.regs),
        layout.EXTENDED_PROCESS: encode_extended(picture, extended),
    }
    if has_fp:
        main = state.threads[:1]
        small[layout.MAIN_THREAD_FP] = main[0].xstate if main else b""
    if picture.app_state is not None:
        small[layout.APP_STATE] = picture.app_state
    meta: dict[str, object] = {
        "name": picture.name,
        "cow_snapshot": picture.cow_snapshot,
    }
    if version is not None:
        meta["version"] = version
    small[layout.META] = dumps(meta)
    return ImageFiles(small=small, segments=tuple(zip(names, segments, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What the base layout holds of a process, memory aside.

    :ivar regs: general registers of the main thread
    :ivar xstate: its floating-point registers; empty if the layout has none
    """

    directory: ImageDirectory
    name: str
    cow_snapshot: str | None
    pid: int
    cwd: str
    exe: str
    maps: tuple[MemoryMap, ...]
    regs: tuple[int, ...]
    xstate: bytes

    def picture(
        self, segments: Sequence[MemorySegment], policy_version: str
    ) -> Picture:
        """Return the whole picture, with what ``extended/`` adds.

        :param policy_version: of which version the policy is
        :raises ImageCorruptError: naming the file that is missing or malformed
        """
        directory = self.directory
        try:
            content = loads(directory.read(layout.FDS))
            fd_table = parse_items(content, "fds", decode_fd)
        except Malformed as error:
            raise directory.corrupt(layout.FDS, str(error)) from error
        extended = decode_extended(directory)
        return Picture(
            name=self.name,
            policy=directory.read(layout.POLICY),
            policy_version=policy_version,
            process_state=self._state(tuple(segments), extended),
            fd_table=fd_table,
            cow_snapshot=self.cow_snapshot,
            app_state=directory.read_optional(layout.APP_STATE),
        )

    def _state(
        self, segments: tuple[MemorySegment, ...], extended: Extended | None
    ) -> ProcessState:
        if extended is None:
            main = ThreadState(tid=self.pid, regs=self.regs, xstate=self.xstate)
            extended = Extended(
                version=layout.EXTENDED_VERSION,
                threads=(main,),
                memory_maps=self.maps,
            )
        self._check(extended, segments)
        return ProcessState(
            pid=self.pid,
            cwd=self.cwd,
            exe=self.exe,
            regs=self.regs,
            memory_maps=extended.all_maps(),
            memory_data=segments,
            extended_segments=extended.open_segments(self.directory),
            threads=extended.threads,
            arch=extended.arch,
            vm_areas=extended.vm_areas,
            details=extended.details,
            fd_details=extended.fds,
            pipe_contents=extended.pipes,
            socket_contents=extended.sockets,
            skipped_fds=extended.skipped_fds,
            skipped=extended.skipped,
        )

    def _check(self, extended: Extended, segments: Sequence[MemorySegment]) -> None:
        reason = None
        maps = extended.all_maps()
        ends = {this.start: this.end for this in maps}
        starts = [segment.start for segment in segments]
        starts += [extent.start for extent in extended.segments]
        areas = tuple(area.map for area in extended.vm_areas)
        if any(this.end <= this.start for this in maps):
            reason = "a mapping ends before it begins"
        elif areas and areas != maps:
            reason = "memory_maps and vm_areas do not list the same mappings"
        elif any(low.end > high.start for low, high in pairwise(maps)):
            reason = "mappings overlap, or are not in the order of their addresses"
        elif len(set(starts)) < len(starts):
            reason = "a mapping has more than one memory file"
        elif any(
            ends.get(extent.start) != extent.start + extent.size
            for extent in extended.segments
        ):
            reason = "a memory file is not of the size of a mapping"
        if reason is not None:
            own = maps is self.maps
            name = layout.MEMORY_MAP if own else layout.EXTENDED_PROCESS
            raise self.directory.corrupt(name, reason)
        if not extended.threads or extended.threads[0].regs != self.regs:
            reason = f"the main thread is not that of {layout.MAIN_THREAD}"
        elif not set(self.maps) <= set(extended.all_maps()):
            reason = f"mappings of {layout.MEMORY_MAP} are not listed"
        if reason is not None:
            raise self.directory.corrupt(layout.EXTENDED_PROCESS, reason)


def decode_base(directory: ImageDirectory, *, has_fp: bool) -> Base:
    """Read the small files of the base layout.

    :raises ImageCorruptError: naming the file that is missing or malformed
    """
    try:
        meta = Fields(loads(directory.read(layout.META)), "meta")
        name = meta.text("name")
        cow_snapshot = meta.optional_text("cow_snapshot")
    except Malformed as error:
        raise directory.corrupt(layout.META, str(error)) from error
    try:
        info = Fields(loads(directory.read(layout.INFO)), "info")
        pid = info.integer("pid", PID)
        cwd, exe = info.text("cwd"), info.text("exe")
    except Malformed as error:
        raise directory.corrupt(layout.INFO, str(error)) from error
    try:
        content = loads(directory.read(layout.MEMORY_MAP))
        maps = parse_items(content, "memory_map", decode_map)
    except Malformed as error:
        raise directory.corrupt(layout.MEMORY_MAP, str(error)) from error
    regset = directory.read(layout.MAIN_THREAD)
    if len(regset) % 8:
        reason = f"{len(regset)} bytes are no whole number of registers"
        raise directory.corrupt(layout.MAIN_THREAD, reason)
    return Base(
        directory=directory,
        name=name,
        cow_snapshot=cow_snapshot,
        pid=pid,
        cwd=cwd,
        exe=exe,
        maps=maps,
        regs=struct.unpack(f"<{len(regset) // 8}Q", regset),
        xstate=(directory.read_optional(layout.MAIN_THREAD_FP) or b"")
        if has_fp
        else b"",
    )
