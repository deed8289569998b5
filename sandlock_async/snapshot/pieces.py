"""A segment's bytes put together from where the capture left them."""

import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from sandlock_async.model import SegmentData


class Backing(ABC):
    """Something that holds bytes by offset."""

    @abstractmethod
    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill *buffer* from *offset* on."""

    def gather(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        """Fill *buffer* with what is in *ranges* of offsets, packed."""
        position = 0
        for start, stop in ranges:
            self.readinto(start, buffer[position : position + stop - start])
            position += stop - start

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


_Part = tuple[Backing | None, int, int]
"""Where bytes are, None for zeros, and at which offsets of it."""

_backing_of = itemgetter(0)


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
        self.gather([(offset, offset + len(buffer))], buffer)

    def gather(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        position = 0
        # As much at once as lies together in one backing: a call for each page of a
        # scattered mapping costs more than its bytes.
        for backing, parts in groupby(self._parts(ranges), _backing_of):
            found = [(low, high) for _, low, high in parts]
            size = sum(high - low for low, high in found)
            part = buffer[position : position + size]
            if backing is None:
                part[:] = bytes(size)
            else:
                backing.gather(found, part)
            position += size

    def view(self, offset: int, size: int) -> memoryview | None:
        index = bisect_right(self._starts, offset) - 1
        if index < 0:
            return None
        piece = self._pieces[index]
        if offset + size > piece.stop:
            return None
        return piece.backing.view(piece.offset + offset - piece.start, size)

    def _parts(self, ranges: Sequence[tuple[int, int]]) -> Iterator[_Part]:
        for position, stop in ranges:
            index = max(bisect_right(self._starts, position) - 1, 0)
            while position < stop:
                piece = self._pieces[index] if index < len(self._pieces) else None
                if piece is not None and piece.stop <= position:
                    index += 1
                    continue
                if piece is None or piece.start > position:
                    end = min(stop, piece.start) if piece is not None else stop
                    yield None, position, end
                else:
                    end = min(stop, piece.stop)
                    shift = piece.offset - piece.start
                    yield piece.backing, position + shift, end + shift
                position = end
