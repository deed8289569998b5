"""What a file of an image is summed up to: BLAKE3 of its pages, zeros left out.

::

    chunk (1 MiB)   │page│page│    │page│ …      256 pages of 4 KiB
    its sum         BLAKE3(the pages that are not all zero, one after the other,
                           and 256 bits that say which those are)
    the file's      BLAKE3(size, then number and sum of every chunk that has such pages)

Numbers are u64, everything little-endian; a last page that is not whole counts as one
that is not zero. So the sum does not depend on which zeros are holes on the disk (``cp``
and ``tar`` may fill them), can be taken as chunks are written, in any order, and costs
nothing where nothing is.
"""

import os
import struct
from collections.abc import Iterable, Iterator

from blake3 import blake3

from sandlock_async.image.holes import PAGE_BYTES, Run, without_zeros

CHUNK_BYTES = 1 << 20
_PAGES = CHUNK_BYTES // PAGE_BYTES

_U64 = struct.Struct("<Q")
_TWICE = b""
"""The sum of a chunk whose pages came in more than one piece: none."""


class Sum:
    """The sum of one file, while it is written; by any threads."""

    __slots__ = ("_chunks",)

    def __init__(self) -> None:
        self._chunks: dict[int, bytes] = {}

    def add(self, runs: Iterable[Run]) -> None:
        """Add pages that are not zero, in the order of their offsets.

        A chunk must come as a whole; one that does not is to be added again later
        (:meth:`add_again`).
        """
        number = -1
        hasher = blake3()
        pages = 0
        for offset, rest in runs:
            while rest:
                if offset // CHUNK_BYTES != number:
                    self._finish(number, hasher, pages)
                    number, hasher, pages = offset // CHUNK_BYTES, blake3(), 0
                within = offset % CHUNK_BYTES
                part = rest[: CHUNK_BYTES - within]
                hasher.update(part)
                count = -(-len(part) // PAGE_BYTES)
                pages |= ((1 << count) - 1) << within // PAGE_BYTES
                offset += len(part)
                rest = rest[len(part) :]
        self._finish(number, hasher, pages)

    def _finish(self, number: int, hasher: blake3, pages: int) -> None:
        if number < 0:
            return
        hasher.update(pages.to_bytes(_PAGES // 8, "little"))
        summed = hasher.digest()
        # In one step: another thread may have another piece of the same chunk.
        if self._chunks.setdefault(number, summed) is not summed:
            self._chunks[number] = _TWICE

    def add_again(self, fd: int) -> None:
        """Read chunks again that have come in pieces.

        :raises OSError: as the file system says
        """
        for number in [at for at, it in self._chunks.items() if it == _TWICE]:
            del self._chunks[number]
            start = number * CHUNK_BYTES
            self.add(without_zeros(start, _pread(fd, start, CHUNK_BYTES)))

    def digest(self, size: int) -> bytes:
        """Return the sum of the file, which has *size* bytes."""
        hasher = blake3(_U64.pack(size))
        for number in sorted(self._chunks):
            hasher.update(_U64.pack(number))
            hasher.update(self._chunks[number])
        return hasher.digest()


def sum_of(content: bytes) -> bytes:
    """Return the sum of a file with that *content*."""
    taken = Sum()
    taken.add(without_zeros(0, memoryview(content)))
    return taken.digest(len(content))


def sum_of_file(fd: int, size: int, ranges: Iterable[tuple[int, int]]) -> bytes:
    """Return the sum of an open file; what is no data is not read.

    :param ranges: those of the file that may be no holes, in order
    :raises OSError: as the file system says
    """
    taken = Sum()
    taken.add(
        run
        for start, stop in pieces_of(ranges, size)
        for run in without_zeros(start, _pread(fd, start, stop - start))
    )
    return taken.digest(size)


def pieces_of(
    ranges: Iterable[tuple[int, int]], size: int
) -> Iterator[tuple[int, int]]:
    """Yield *ranges* of a file of *size* bytes in whole pages, each in one chunk."""
    done = 0
    partial = size // PAGE_BYTES * PAGE_BYTES
    last = [(partial, size)] if partial < size else []  # it counts, hole or not
    for start, stop in (*ranges, *last):
        low = max(start // PAGE_BYTES * PAGE_BYTES, done)
        done = max(done, min(-(-stop // PAGE_BYTES) * PAGE_BYTES, size))
        while low < done:
            high = min((low // CHUNK_BYTES + 1) * CHUNK_BYTES, done)
            yield low, high
            low = high


def _pread(fd: int, offset: int, count: int) -> memoryview:
    """Read so many bytes, or up to the end of the file."""
    pieces: list[bytes] = []
    while count:
        piece = os.pread(fd, count, offset)
        if not piece:
            break
        pieces.append(piece)
        offset += len(piece)
        count -= len(piece)
    return memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
