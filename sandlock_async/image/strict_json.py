"""JSON from an image, believed only field by field.

As strict as the loaders of sandlock: every key there, every value of its type and
range. Unknown keys are ignored.
"""

import re
from collections.abc import Callable
from typing import TypeVar, cast

import orjson

T = TypeVar("T")

_FEW = 10_000
_LIST_BYTES = 8
"""The shortest that an image has, with its key: ``"fds":[]``."""
_OBJECT_BYTES = 16
"""The shortest that an image has, with its keys, have more."""
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)

U64 = range(1 << 64)
I32 = range(-(1 << 31), 1 << 31)
PID = range(1 << 31)


class Malformed(ValueError):
    """A value is not what the format says; the message names the place."""


def loads(content: bytes) -> object:
    """Parse one JSON value.

    :raises Malformed: if it is none
    """
    if b"\0" in content:  # as in a hole: the parser would take twice its length
        raise Malformed("not JSON: it holds a zero byte")
    _check_brackets(content)
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"not JSON: {error}") from None  # it has a copy of it all


def _check_brackets(content: bytes) -> None:
    """Return if there are no more objects and lists than an image can have.

    Empty ones have 2 bytes here, and a hundred when they are parsed.
    """
    lists, objects = content.count(b"["), content.count(b"{")
    most_lists = _FEW + len(content) // _LIST_BYTES
    most_objects = _FEW + len(content) // _OBJECT_BYTES
    if lists <= most_lists and objects <= most_objects:
        return
    # Those in strings do not count: a file may have a name of nothing else.
    for string in _STRING.finditer(content):
        lists -= content.count(b"[", *string.span())
        objects -= content.count(b"{", *string.span())
    if lists > most_lists or objects > most_objects:
        raise Malformed(f"{lists} lists and {objects} objects are too many")


class Fields:
    """The fields of one JSON object."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise Malformed(f"{where} is not an object")
        self._fields = cast("dict[str, object]", value)
        self._where = where

    def integer(self, key: str, within: range) -> int:
        """Return an integer of that range."""
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value not in within:
            raise Malformed(
                f"{self._where}.{key} is not an integer from {within.start} to "
                f"{within.stop - 1}"
            )
        return value

    def text(self, key: str) -> str:
        """Return a string."""
        value = self._get(key)
        if not isinstance(value, str):
            raise Malformed(f"{self._where}.{key} is not a string")
        return value

    def optional_text(self, key: str) -> str | None:
        """Return a string, or None if the key is null or absent."""
        if self._fields.get(key) is None:
            return None
        return self.text(key)

    def number(self, key: str) -> float:
        """Return a number."""
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Malformed(f"{self._where}.{key} is not a number")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings."""
        found = self._list(key)
        if not all(isinstance(value, str) for value in found):
            raise Malformed(f"{self._where}.{key} is not a list of strings")
        return tuple(cast("list[str]", found))

    def integers(self, key: str, within: range) -> tuple[int, ...]:
        """Return a list of integers of that range."""
        found = self._list(key)
        if not all(type(value) is int and value in within for value in found):
            raise Malformed(f"{self._where}.{key} is not a list of integers")
        return tuple(cast("list[int]", found))

    def value(self, key: str) -> object:
        """Return whatever is there, None if nothing is."""
        return self._fields.get(key)

    def items(self, key: str, parse: "Callable[[Fields], T]") -> tuple[T, ...]:
        """Return a list of objects, each parsed."""
        return parse_items(self._get(key), f"{self._where}.{key}", parse)

    def _list(self, key: str) -> list[object]:
        value = self._get(key)
        if not isinstance(value, list):
            raise Malformed(f"{self._where}.{key} is not a list")
        return cast("list[object]", value)

    def _get(self, key: str) -> object:
        if key not in self._fields:
            raise Malformed(f"{self._where} has no {key}")
        return self._fields[key]


def parse_items(
    value: object, where: str, parse: Callable[[Fields], T]
) -> tuple[T, ...]:
    """Return a JSON list of objects, each parsed.

    :raises Malformed: naming the first that is wrong
    """
    if not isinstance(value, list):
        raise Malformed(f"{where} is not a list")
    return tuple(
        parse(Fields(item, f"{where}[{index}]"))
        for index, item in enumerate(cast("list[object]", value))
    )
