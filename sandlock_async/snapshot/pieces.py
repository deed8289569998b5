"""A segment's bytes put together from where the capture left them."""

import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from sandlock_async.model import SegmentData


class Backing(ABC):
    """Something that holds bytes by offset."""

    @abstractmethod
    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill *buffer* from *offset* on."""

    def view(self, offset: int, size: int) -> memoryview | None:
        """Return the bytes without a copy, if they are in memory."""
        return None


class MemoryBacking(Backing):
    """Bytes copied to our memory."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def readinto(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._view[offset : offset + len(buffer)]

    def view(self, offset: int, size: int) -> memoryview | None:
        return self._view[offset : offset + size]

    def release(self) -> None:
        """Drop the view; the memory can go then."""
        self._view.release()


class BytesBacking(Backing):
    """A few bytes of their own."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def readinto(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._content[offset : offset + len(buffer)]

    def view(self, offset: int, size: int) -> memoryview | None:
        return memoryview(self._content)[offset : offset + size]


class FileBacking(Backing):
    """Bytes of an open file. A read past its end gives zeros, as a hole would."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def readinto(self, offset: int, buffer: memoryview) -> None:
        while buffer:
            count = os.preadv(self._fd, [buffer], offset)
            if not count:
                buffer[:] = bytes(len(buffer))
                return
            offset += count
            buffer = buffer[count:]


class Piece(NamedTuple):
    """Offsets ``[start, stop)`` of a segment, found in *backing* at *offset*."""

    start: int
    stop: int
    backing: Backing
    offset: int


class PiecedData(SegmentData):
    """Segment bytes made of pieces; what no piece covers is zero.

    :param pieces: in order, without overlap
    """

    __slots__ = ("_pieces", "_size", "_starts")

    def __init__(self, size: int, pieces: Sequence[Piece]) -> None:
        self._size = size
        self._pieces = pieces
        self._starts = [piece.start for piece in pieces]

    def __len__(self) -> int:
        return self._size

    def ranges(self) -> Sequence[tuple[int, int]]:
        return [(piece.start, piece.stop) for piece in self._pieces]

    def readinto(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        position = offset
        index = max(bisect_right(self._starts, offset) - 1, 0)
        while position < end:
            piece = self._pieces[index] if index < len(self._pieces) else None
            if piece is not None and piece.stop <= position:
                index += 1
                continue
            if piece is None or piece.start > position:
                stop = min(end, piece.start) if piece is not None else end
                buffer[position - offset : stop - offset] = bytes(stop - position)
            else:
                stop = min(end, piece.stop)
                piece.backing.readinto(
                    piece.offset + position - piece.start,
                    buffer[position - offset : stop - offset],
                )
            position = stop

    def view(self, offset: int, size: int) -> memoryview | None:
        index = bisect_right(self._starts, offset) - 1
        if index < 0:
            return None
        piece = self._pieces[index]
        if offset + size > piece.stop:
            return None
        return piece.backing.view(piece.offset + offset - piece.start, size)
