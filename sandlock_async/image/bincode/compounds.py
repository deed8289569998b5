"""Kinds of values that hold others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from sandlock_async.image.bincode.kind import Cursor, Kind, shown
from sandlock_async.image.bincode.scalars import UInt
from sandlock_async.image.strict_json import Malformed


@dataclass(frozen=True, slots=True)
class ByteArray(Kind):
    """Exactly *size* bytes."""

    size: int

    @property
    def minimum(self) -> int:
        return self.size

    def empty(self) -> list[int]:
        return [0] * self.size

    def encode(self, value: object, out: bytearray) -> None:
        items = _listed(value, self.size)
        for item in items:
            UInt(1).encode(item, out)

    def decode(self, cursor: Cursor) -> list[int]:
        return list(cursor.take(self.size))


@dataclass(frozen=True, slots=True)
class Option(Kind):
    """A value of that kind, or None."""

    item: Kind

    @property
    def minimum(self) -> int:
        return 1

    def empty(self) -> None:
        return None

    def encode(self, value: object, out: bytearray) -> None:
        out.append(value is not None)
        if value is not None:
            self.item.encode(value, out)

    def decode(self, cursor: Cursor) -> object:
        return self.item.decode(cursor) if cursor.tag() else None


@dataclass(frozen=True, slots=True)
class Vec(Kind):
    """Any number of values of one kind."""

    item: Kind

    def __post_init__(self) -> None:
        if not self.item.minimum:
            raise TypeError("elements of no size have no countable bytes")

    @property
    def minimum(self) -> int:
        return 8

    def empty(self) -> list[object]:
        return []

    def encode(self, value: object, out: bytearray) -> None:
        items = _listed(value)
        out += len(items).to_bytes(8, "little")
        if isinstance(self.item, UInt):
            packed = self.item.pack_all(items)
            if packed is not None:
                out += packed
                return
        for index, item in enumerate(items):
            try:
                self.item.encode(item, out)
            except Malformed as error:
                raise Malformed(f"[{index}]{error}") from None

    def decode(self, cursor: Cursor) -> list[object]:
        count = cursor.count(self.item.minimum)
        if isinstance(self.item, UInt) and self.item.limit is None:
            return self.item.unpack_all(cursor.take(count * self.item.size))
        cursor.spend(count)
        items: list[object] = []
        try:
            for _ in range(count):
                items.append(self.item.decode(cursor))  # noqa: PERF401
        except Malformed as error:
            raise Malformed(f"[{len(items)}]{error}") from None
        return items


@dataclass(frozen=True, slots=True)
class Tuple(Kind):
    """Values of these kinds, one of each."""

    items: tuple[Kind, ...]

    @property
    def minimum(self) -> int:
        return sum(item.minimum for item in self.items)

    def empty(self) -> list[object]:
        return [item.empty() for item in self.items]

    def encode(self, value: object, out: bytearray) -> None:
        values = _listed(value, len(self.items))
        for index, (kind, item) in enumerate(zip(self.items, values, strict=True)):
            try:
                kind.encode(item, out)
            except Malformed as error:
                raise Malformed(f"[{index}]{error}") from None

    def decode(self, cursor: Cursor) -> list[object]:
        return [item.decode(cursor) for item in self.items]


def Pairs(key: Kind, value: Kind) -> Vec:  # noqa: N802
    """Return the kind of a map: its pairs as they are stored, repeated keys too.

    A hash map comes in any order; only the pairs as a list come out as they were.
    """
    return Vec(Tuple((key, value)))


@dataclass(frozen=True, slots=True)
class Struct(Kind):
    """Named fields, in order."""

    fields: tuple[tuple[str, Kind], ...]

    @property
    def minimum(self) -> int:
        return sum(kind.minimum for _, kind in self.fields)

    def empty(self) -> dict[str, object]:
        return {name: kind.empty() for name, kind in self.fields}

    def encode(self, value: object, out: bytearray) -> None:
        given = _mapping(value)
        if given is None:
            raise Malformed(f": {shown(value)} is not a mapping")
        known = {name for name, _ in self.fields}
        for name in given:
            if name not in known:
                raise Malformed(f".{name}: no such field")
        for name, kind in self.fields:
            if name not in given:
                raise Malformed(f".{name}: missing")
            try:
                kind.encode(given[name], out)
            except Malformed as error:
                raise Malformed(f".{name}{error}") from None

    def decode(self, cursor: Cursor) -> dict[str, object]:
        fields: dict[str, object] = {}
        for name, kind in self.fields:
            try:
                fields[name] = kind.decode(cursor)
            except Malformed as error:
                raise Malformed(f".{name}{error}") from None
        return fields


@dataclass(frozen=True, slots=True)
class Enum(Kind):
    """One of these variants, by index; with a payload where a kind stands."""

    variants: tuple[tuple[str, Kind | None], ...]

    @property
    def minimum(self) -> int:
        return 4 + min(kind.minimum if kind else 0 for _, kind in self.variants)

    def empty(self) -> object:
        name, kind = self.variants[0]
        return name if kind is None else {name: kind.empty()}

    def encode(self, value: object, out: bytearray) -> None:
        payload = _mapping(value)
        for index, (name, kind) in enumerate(self.variants):
            if kind is None and value == name:
                out += index.to_bytes(4, "little")
                return
            if kind is not None and payload is not None and list(payload) == [name]:
                out += index.to_bytes(4, "little")
                try:
                    kind.encode(payload[name], out)
                except Malformed as error:
                    raise Malformed(f".{name}{error}") from None
                return
        names = ", ".join(name for name, _ in self.variants)
        raise Malformed(f": {shown(value)} is none of {names}")

    def decode(self, cursor: Cursor) -> object:
        index = cursor.integer(4)
        if index >= len(self.variants):
            raise Malformed(f": variant {index} of {len(self.variants)}")
        name, kind = self.variants[index]
        if kind is None:
            return name
        try:
            return {name: kind.decode(cursor)}
        except Malformed as error:
            raise Malformed(f".{name}{error}") from None


def _listed(value: object, size: int | None = None) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise Malformed(f": {shown(value)} is not a list")
    items = cast("Sequence[object]", value)
    if size is not None and len(items) != size:
        raise Malformed(f": {len(items)} values instead of {size}")
    return items


def _mapping(value: object) -> Mapping[object, object] | None:
    if not isinstance(value, Mapping):
        return None
    return cast("Mapping[object, object]", value)
