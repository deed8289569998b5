"""Pages far apart: read with one call, each written to its place."""

import ctypes
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_async.injection.snapshots import Snapshot
from sandlock_async.kernel import files
from sandlock_async.model import MemorySegment
from sandlock_async.snapshot.forked import _SnapshotBacking
from sandlock_async.snapshot.pieces import (
    Backing,
    BytesBacking,
    FileBacking,
    Piece,
    PiecedData,
)
from sandlock_async.store.buffers import BUFFER_BYTES, Buffers
from sandlock_async.store.stream import SegmentStream
from sandlock_async.workers import Workers
from tests.unit.test_memory import ranges

PAGE = mmap.PAGESIZE


@given(st.binary(min_size=64, max_size=64), ranges, ranges, st.integers(0, 64))
def test_gathered_bytes_are_those_of_the_ranges(
    content: bytes, there: list[int], wanted: list[int], edge: int
) -> None:
    # GIVEN pieces in two backings, one of them up to an edge
    low, high = BytesBacking(content[:edge]), BytesBacking(content[edge:])
    pieces: list[Piece] = []
    for start, stop in zip(there[0::2], there[1::2], strict=True):
        if start < edge:
            pieces.append(Piece(start, min(stop, edge), low, start))
        if stop > edge:
            start = max(start, edge)
            pieces.append(Piece(start, stop, high, start - edge))
    data = PiecedData(64, pieces)
    pairs = list(zip(wanted[0::2], wanted[1::2], strict=True))
    packed = bytearray(sum(stop - start for start, stop in pairs))

    data.gather(pairs, memoryview(packed))

    assert packed == b"".join(data[start:stop] for start, stop in pairs)


@pytest.fixture
def own_pages() -> Iterator[int]:
    """Eight pages of ours, each full of its number; nobody may read the sixth."""
    pages = mmap.mmap(-1, 8 * PAGE)
    for number in range(8):
        pages[number * PAGE : (number + 1) * PAGE] = bytes([number + 1]) * PAGE
    anchor = ctypes.c_char.from_buffer(pages)
    address = ctypes.addressof(anchor)
    unmap = ctypes.CDLL(None).munmap
    unmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    assert not unmap(address + 5 * PAGE, PAGE)
    yield address
    del anchor
    pages.close()


@pytest.mark.parametrize("numbers", [(0, 2, 4, 7), (0, 2, 4, 5, 7)])
def test_pages_of_a_copy_are_gathered(
    numbers: Sequence[int], own_pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN memory of which pages are wanted that do not touch
    opened: list[str] = []

    def open_fd(path: str) -> int:
        opened.append(path)
        return once(path)

    once = files.open_fd
    monkeypatch.setattr(files, "open_fd", open_fd)
    pid = os.getpid()
    changed = (own_pages + 2 * PAGE - 3, b"abcdef")
    memory = _SnapshotBacking(Snapshot(pid, pid, pid, changed))
    places = [own_pages + number * PAGE for number in numbers]
    buffer = bytearray(b"x" * len(places) * PAGE)

    memory.gather([(at, at + PAGE) for at in places], memoryview(buffer))

    # THEN what cannot be read reads as zeros, and what we have changed as it was
    assert opened == [f"/proc/{pid}/mem"]
    found = [bytes(buffer[at : at + PAGE]) for at in range(0, len(buffer), PAGE)]
    assert found[0] == bytes([1]) * PAGE
    assert found[1] == b"def" + bytes([3]) * (PAGE - 3)
    assert found[2:] == [
        bytes([0 if number == 5 else number + 1]) * PAGE for number in numbers[2:]
    ]
    bad = own_pages + 5 * PAGE
    assert memory.unreadable() == ([(bad, bad + PAGE)] if 5 in numbers else [])


class _Counted(Backing):
    """Pages full of their number, modulo 256: every 256th is nothing but zeros."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def readinto(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = bytes([offset // PAGE % 256]) * len(buffer)

    def gather(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        self.calls.append(len(ranges))
        super().gather(ranges, buffer)


async def test_scattered_pages_are_written_where_they_belong(tmp_path: Path) -> None:
    # GIVEN every third page of a segment, more of them than a buffer holds; after
    # each hundredth follow two from somewhere else
    backing, count = _Counted(), BUFFER_BYTES // PAGE + 300
    other = tmp_path / "other"
    other.write_bytes(b"y" * 2 * PAGE)
    fd = os.open(other, os.O_RDONLY)
    pieces: list[Piece] = []
    for number in range(count):
        start = 3 * number * PAGE
        pieces.append(Piece(start, start + PAGE, backing, number * PAGE))
        if not number % 100:
            pieces.append(Piece(start + PAGE, start + 3 * PAGE, FileBacking(fd), 0))
    data = PiecedData(3 * count * PAGE, pieces)
    told: list[int] = []

    async with Workers() as workers:
        buffers = Buffers(workers)
        stream = SegmentStream(
            tmp_path,
            workers,
            buffers,
            durable=False,
            recipients=None,
            on_bytes=told.append,
        )
        await stream.write_all([("it", MemorySegment(start=0, data=data))])
        buffers.close()
    os.close(fd)

    content = (tmp_path / "it").read_bytes()
    assert len(content) == len(data)
    for number in range(count):
        start = 3 * number * PAGE
        page = bytes([number % 256]) * PAGE
        rest = (b"\0" if number % 100 else b"y") * 2 * PAGE
        assert content[start : start + 3 * PAGE] == page + rest
    # THEN pages of zeros were left out, and those between two others read at once
    zeros = len(range(0, count, 256))
    others = 2 * len(range(0, count, 100))
    assert sum(told) == stream.written_bytes == (count - zeros + others) * PAGE
    assert sum(backing.calls) == count
    assert max(backing.calls) == 100
