"""Checksums of files with holes, and the manifest that lists them."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandlock_async.image.holes import PAGE_BYTES, without_zeros
from sandlock_async.image.manifest import decode_manifest, encode_manifest, entry_of
from sandlock_async.image.strict_json import Malformed
from sandlock_async.image.sums import CHUNK_BYTES, Sum, pieces_of, sum_of, sum_of_file

MANIFEST = encode_manifest(
    [entry_of("meta.json", b"{}"), entry_of("process/memory/0.bin", bytes(PAGE_BYTES))]
)


def pages(*numbers: int, size: int) -> bytearray:
    """Return *size* bytes with something on some pages."""
    content = bytearray(size)
    for number in numbers:
        content[number * PAGE_BYTES + 7] = 1 + number % 255
    return content


def test_holes_do_not_matter(tmp_path: Path) -> None:
    size = 3 * CHUNK_BYTES + 100
    content = bytes(pages(0, 5, 256, 700, size=size))
    sums: set[bytes] = set()
    for name, sparse in (("full", False), ("sparse", True)):
        with (tmp_path / name).open("w+b") as file:
            file.truncate(size)
            for offset, run in (
                without_zeros(0, memoryview(content))
                if sparse
                else [(0, memoryview(content))]
            ):
                os.pwrite(file.fileno(), run, offset)
            data = [
                (0, 6 * PAGE_BYTES),
                (CHUNK_BYTES, 2 * CHUNK_BYTES),
                (2 * CHUNK_BYTES, size),
            ]
            ranges = data if sparse else [(0, size)]
            sums.add(sum_of_file(file.fileno(), size, ranges))
    assert sums | {sum_of(content)} == sums
    assert len(sums) == 1


def test_what_is_no_data_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(1 << 40)
        os.pwrite(file.fileno(), b"x", 1 << 39)
        found = sum_of_file(file.fileno(), 1 << 40, [(1 << 39, (1 << 39) + 1)])
    other = Sum()
    other.add([(1 << 39, memoryview(b"x".ljust(PAGE_BYTES, b"\0")))])
    assert found == other.digest(1 << 40)


@settings(max_examples=200, deadline=None)
@given(
    st.sets(st.integers(0, 3 * 256 - 1), max_size=12),
    st.lists(st.integers(0, 3), min_size=3, max_size=3),
    st.integers(0, 2 * PAGE_BYTES),
)
def test_chunks_in_any_order(numbers: set[int], order: list[int], extra: int) -> None:
    size = 3 * CHUNK_BYTES + extra
    content = memoryview(pages(*numbers, size=size))
    whole = [(low, low + CHUNK_BYTES) for low in range(0, size, CHUNK_BYTES)]
    taken = Sum()
    for key in sorted(range(len(whole)), key=lambda at: (order[at % 3], at)):
        low, high = whole[key]
        taken.add(without_zeros(low, content[low:high]))
    assert taken.digest(size) == sum_of(bytes(content))


def test_chunks_in_pieces_are_read_again(tmp_path: Path) -> None:
    content = pages(1, 100, 200, 300, size=2 * CHUNK_BYTES)
    taken = Sum()
    for number in (200, 300, 1, 100):
        at = number * PAGE_BYTES
        taken.add([(at, memoryview(content)[at : at + PAGE_BYTES])])
    with (tmp_path / "file").open("w+b") as file:
        file.write(content)
        file.flush()
        taken.add_again(file.fileno())
    assert taken.digest(len(content)) == sum_of(bytes(content))


@given(
    st.lists(st.tuples(st.integers(0, 1 << 22), st.integers(1, 1 << 21)), max_size=5)
)
def test_pieces_are_whole_pages_of_one_chunk(found: list[tuple[int, int]]) -> None:
    size = (1 << 22) + 77
    ranges = [(start, min(start + count, size)) for start, count in sorted(found)]
    pieces = list(pieces_of(ranges, size))
    for start, stop in pieces:
        assert start % PAGE_BYTES == 0
        assert stop % PAGE_BYTES == 0 or stop == size
        assert start // CHUNK_BYTES == (stop - 1) // CHUNK_BYTES
    flat = [edge for piece in pieces for edge in piece]
    assert flat == sorted(flat)
    for start, stop in ranges:
        assert sum(
            max(0, min(stop, high) - max(start, low)) for low, high in pieces
        ) == (stop - start)


def test_the_sum_says_where_things_are() -> None:
    sums = {
        sum_of(bytes(pages(*numbers, size=size)))
        for numbers in ((), (1,), (2,), (257,), (1, 2))
        for size in (2 * CHUNK_BYTES, 3 * CHUNK_BYTES)
    }
    assert len(sums) == 10


def test_a_manifest_comes_back() -> None:
    found = decode_manifest(MANIFEST)
    assert list(found) == ["meta.json", "process/memory/0.bin"]
    assert found["meta.json"] == entry_of("meta.json", b"{}")


def test_no_bit_of_a_manifest_can_change() -> None:
    for bit in range(8 * len(MANIFEST)):
        content = bytearray(MANIFEST)
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Malformed):
            decode_manifest(bytes(content))
    with pytest.raises(Malformed):
        decode_manifest(MANIFEST + b"\n")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/etc/passwd", "a/../b", "a//b", "a/", "extended/manifest.json"],
)
def test_names_stay_inside(name: str) -> None:
    with pytest.raises(Malformed, match="no name of a file"):
        decode_manifest(encode_manifest([entry_of(name, b"")]))


def test_a_file_is_listed_once() -> None:
    twice = [entry_of("a", b""), entry_of("a", b"")]
    with pytest.raises(Malformed, match="twice"):
        decode_manifest(encode_manifest(twice))
