"""What every kind of value is, and where it is read from."""

import reprlib
from abc import ABC, abstractmethod

from sandlock_async.image.strict_json import Malformed


class Cursor:
    """A place in bytes that nobody vouches for."""

    __slots__ = ("_at", "_data", "_items_left")

    def __init__(self, data: bytes, max_items: int) -> None:
        self._data = data
        self._at = 0
        self._items_left = max_items

    @property
    def left(self) -> int:
        """Bytes not yet taken."""
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        """Return the next *size* bytes.

        :raises Malformed: if they are not all there
        """
        if size > self.left:
            raise Malformed(f": {size} bytes expected, {self.left} left")
        start = self._at
        self._at += size
        return self._data[start : self._at]

    def integer(self, size: int) -> int:
        """Return the next *size* bytes as a number."""
        return int.from_bytes(self.take(size), "little")

    def tag(self) -> bool:
        """Return the next byte, which is 0 or 1.

        :raises Malformed: if it is another
        """
        tag = self.integer(1)
        if tag > 1:
            raise Malformed(f": byte {tag} instead of 0 or 1")
        return bool(tag)

    def count(self, minimum: int) -> int:
        """Return a u64 count of elements that take *minimum* bytes or more each.

        :raises Malformed: if the bytes left cannot hold so many
        """
        count = self.integer(8)
        if count * minimum > self.left:
            raise Malformed(f": {count} elements in {self.left} bytes")
        return count

    def spend(self, count: int) -> None:
        """Take so many elements from those that there may be.

        :raises Malformed: if those are too many
        """
        self._items_left -= count
        if self._items_left < 0:
            raise Malformed(f": {count} elements are too many")


class Kind(ABC):
    """How values of one type are written."""

    __slots__ = ()

    @property
    @abstractmethod
    def minimum(self) -> int:
        """The fewest bytes a value takes."""

    @abstractmethod
    def empty(self) -> object:
        """Return the value with nothing in it, made anew: Rust's usual default."""

    @abstractmethod
    def encode(self, value: object, out: bytearray) -> None:
        """Append the bytes of *value* to *out*.

        :raises Malformed: if it is no value of this kind
        """

    @abstractmethod
    def decode(self, cursor: Cursor) -> object:
        """Return the value at *cursor*.

        :raises Malformed: if there is none
        """


def shown(value: object) -> str:
    """Return *value* for a message, short whatever it is."""
    return type(value).__name__ if isinstance(value, int) else reprlib.repr(value)
