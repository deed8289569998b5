"""``extended/``: what an image knows beyond sandlock's layout.

Additive: sandlock's loaders ignore the folder. It has a version of its own.
docs/format.md says what is in it, field by field.
"""

from dataclasses import dataclass

from sandlock_async.errors import ImageVersionError
from sandlock_async.image import layout
from sandlock_async.image.directory import ImageDirectory
from sandlock_async.image.process_json import decode_map, dumps, encode_map
from sandlock_async.image.strict_json import I32, U64, Fields, Malformed, loads
from sandlock_async.model import MemoryMap, ProcessState, Skipped, ThreadState


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended:
    """The content of ``extended/process.json``."""

    arch: str | None
    threads: tuple[ThreadState, ...]
    memory_maps: tuple[MemoryMap, ...]
    skipped: tuple[Skipped, ...]


def encode_extended(state: ProcessState) -> dict[str, bytes]:
    """Return the files of ``extended/`` by name."""
    content = {
        "version": layout.EXTENDED_VERSION,
        "arch": state.arch,
        "threads": [
            {"tid": thread.tid, "regs": list(thread.regs)} for thread in state.threads
        ],
        "memory_maps": [encode_map(this) for this in state.memory_maps],
        "skipped": [
            {
                "start": this.start,
                "end": this.end,
                "path": this.path,
                "reason": this.reason,
            }
            for this in state.skipped
        ],
    }
    return {layout.EXTENDED_PROCESS: dumps(content)}


def decode_extended(directory: ImageDirectory) -> Extended | None:
    """Return what ``extended/`` holds, None where there is no such folder.

    :raises ImageCorruptError: if it is malformed
    :raises ImageVersionError: if it is of a version from the future
    """
    content = directory.read_optional(layout.EXTENDED_PROCESS)
    if content is None:
        return None
    try:
        fields = Fields(loads(content), "process")
        version = fields.integer("version", U64)
        if version != layout.EXTENDED_VERSION:
            path = directory.path / layout.EXTENDED_PROCESS
            raise ImageVersionError(path, version, str(layout.EXTENDED_VERSION))
        return Extended(
            arch=fields.optional_text("arch"),
            threads=fields.items("threads", _decode_thread),
            memory_maps=fields.items("memory_maps", decode_map),
            skipped=fields.items("skipped", _decode_skipped),
        )
    except Malformed as error:
        raise directory.corrupt(layout.EXTENDED_PROCESS, str(error)) from error


def _decode_thread(fields: Fields) -> ThreadState:
    tid = fields.integer("tid", I32)
    return ThreadState(tid=tid, regs=fields.integers("regs", U64))


def _decode_skipped(fields: Fields) -> Skipped:
    start = fields.integer("start", U64)
    return Skipped(
        start=start,
        end=fields.integer("end", range(start + 1, U64.stop)),
        path=fields.optional_text("path"),
        reason=fields.text("reason"),
    )
