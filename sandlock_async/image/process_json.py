"""The JSON of the files below ``process/`` that every layout shares, both ways."""

import orjson

from sandlock_async.image.strict_json import I32, U64, Fields
from sandlock_async.model import FdInfo, MemoryMap


def dumps(value: object) -> bytes:
    """Return JSON byte for byte as sandlock writes it: two spaces, no last newline."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2)


def encode_map(this: MemoryMap) -> dict[str, object]:
    """Return an entry of ``memory_map.json``."""
    return {
        "start": this.start,
        "end": this.end,
        "perms": this.perms,
        "offset": this.offset,
        "path": this.path,
    }


def decode_map(fields: Fields) -> MemoryMap:
    """Return a mapping from its entry."""
    start = fields.integer("start", U64)
    return MemoryMap(
        start=start,
        end=fields.integer("end", range(start + 1, U64.stop)),
        perms=fields.text("perms"),
        offset=fields.integer("offset", U64),
        path=fields.optional_text("path"),
    )


def encode_fd(this: FdInfo) -> dict[str, object]:
    """Return an entry of ``fds.json``."""
    return {
        "fd": this.fd,
        "path": this.path,
        "flags": this.flags,
        "offset": this.offset,
    }


def decode_fd(fields: Fields) -> FdInfo:
    """Return a descriptor from its entry."""
    return FdInfo(
        fd=fields.integer("fd", I32),
        path=fields.text("path"),
        flags=fields.integer("flags", I32),
        offset=fields.integer("offset", U64),
    )
