"""Kinds of values with no parts."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from sandlock_async.image.bincode.kind import Cursor, Kind, shown
from sandlock_async.image.strict_json import Malformed

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


@dataclass(frozen=True, slots=True)
class UInt(Kind):
    """An unsigned integer of *size* bytes, at most *limit* if that is less."""

    size: int
    limit: int | None = None

    @property
    def minimum(self) -> int:
        return self.size

    @property
    def maximum(self) -> int:
        """The greatest value."""
        return (1 << 8 * self.size) - 1 if self.limit is None else self.limit

    def empty(self) -> int:
        return 0

    def encode(self, value: object, out: bytearray) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Malformed(f": {shown(value)} is not an integer")
        if not 0 <= value <= self.maximum:
            raise Malformed(f": not from 0 to {self.maximum}")
        out += value.to_bytes(self.size, "little")

    def decode(self, cursor: Cursor) -> int:
        value = cursor.integer(self.size)
        if value > self.maximum:
            raise Malformed(f": {value} is more than {self.maximum}")
        return value

    def pack_all(self, values: Sequence[object]) -> bytes | None:
        """Return the bytes of many values, None if there is a wrong one among them."""
        if self.limit is not None or any(type(value) is not int for value in values):
            return None
        try:
            return struct.pack(f"<{len(values)}{_CODES[self.size]}", *values)
        except struct.error:
            return None

    def unpack_all(self, data: bytes) -> list[object]:
        """Return the values that *data* is; without a limit every one is right."""
        return list(
            struct.unpack(f"<{len(data) // self.size}{_CODES[self.size]}", data)
        )


@dataclass(frozen=True, slots=True)
class Bool(Kind):
    """True or false."""

    @property
    def minimum(self) -> int:
        return 1

    def empty(self) -> bool:
        return False

    def encode(self, value: object, out: bytearray) -> None:
        if not isinstance(value, bool):
            raise Malformed(f": {shown(value)} is neither true nor false")
        out.append(value)

    def decode(self, cursor: Cursor) -> bool:
        return cursor.tag()


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """A string, or a path: sandlock writes only paths that are UTF-8."""

    @property
    def minimum(self) -> int:
        return 8

    def empty(self) -> str:
        return ""

    def encode(self, value: object, out: bytearray) -> None:
        if not isinstance(value, str):
            raise Malformed(f": {shown(value)} is not a string")
        try:
            encoded = value.encode()
        except UnicodeEncodeError:
            raise Malformed(f": {shown(value)} is not UTF-8") from None
        out += len(encoded).to_bytes(8, "little")
        out += encoded

    def decode(self, cursor: Cursor) -> str:
        try:
            return cursor.take(cursor.count(1)).decode()
        except UnicodeDecodeError:
            raise Malformed(": not UTF-8") from None
