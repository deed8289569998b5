"""Plans, pieces and segments, against plain bytes."""

from hypothesis import given
from hypothesis import strategies as st

from sandlock_async.model import MemoryMap
from sandlock_async.plan import gaps, plan_segments
from sandlock_async.procfs.maps import Mapping
from sandlock_async.snapshot.copying import _advance, _batches
from sandlock_async.snapshot.direct import _merged, _pieces, _split
from sandlock_async.snapshot.pieces import MemoryBacking, Piece, PiecedData

PAGE = 4096


def mapping(perms: str = "rw-p", inode: int = 0) -> Mapping:
    this = MemoryMap(start=0, end=8 * PAGE, perms=perms, offset=0, path=None)
    return Mapping(map=this, device=(0, 0), inode=inode, raw_path=b"")


#            ==~~==~~    two pages there, two not, …
POPULATED = [0, 2 * PAGE, 4 * PAGE, 6 * PAGE]
ABSENT = [(2 * PAGE, 4 * PAGE), (6 * PAGE, 8 * PAGE)]


def test_absent_anonymous_pages_are_holes() -> None:
    plan = plan_segments([mapping()], {}, populated=lambda *_: POPULATED)

    assert plan.segments[0].populated == POPULATED
    assert plan.segments[0].from_file == []
    assert plan.populated_bytes == 4 * PAGE
    assert plan.skipped == ()


def test_absent_file_pages_are_read_later() -> None:
    plan = plan_segments([mapping(inode=5)], {}, populated=lambda *_: POPULATED)

    assert plan.segments[0].from_file == [edge for gap in ABSENT for edge in gap]


def test_absent_userfaultfd_pages_are_skipped() -> None:
    flags = {0: frozenset({"um"})}

    plan = plan_segments([mapping()], flags, populated=lambda *_: POPULATED)

    assert [(this.start, this.end) for this in plan.skipped] == ABSENT
    assert all("userfaultfd" in this.reason for this in plan.skipped)


def test_what_the_program_may_not_read_is_forced() -> None:
    plan = plan_segments([mapping("-w-p")], {}, populated=lambda *_: POPULATED)

    assert plan.segments[0].forced


ranges = st.lists(st.integers(0, 60), unique=True, max_size=20).map(
    lambda edges: sorted(edges)[: len(edges) // 2 * 2]
)


@given(ranges)
def test_gaps_and_ranges_tile(flat: list[int]) -> None:
    covered = list(zip(flat[0::2], flat[1::2], strict=True))

    tiles = sorted([*covered, *gaps(flat, 0, 64)])

    assert [tile[0] for tile in tiles] == [0, *(tile[1] for tile in tiles)][:-1]
    assert tiles[-1][1] == 64


@given(ranges, st.integers(0, 64))
def test_split_loses_nothing(flat: list[int], size: int) -> None:
    head, tail = _split(flat, size)

    length = sum(head[1::2]) - sum(head[0::2])
    whole = sum(flat[1::2]) - sum(flat[0::2])
    assert length == min(size, whole)
    assert bytes_of(head) + bytes_of(tail) == bytes_of(flat)


def bytes_of(flat: list[int]) -> list[int]:
    pairs = zip(flat[0::2], flat[1::2], strict=True)
    return [byte for start, end in pairs for byte in range(start, end)]


@given(ranges, st.integers(1, 20))
def test_batches_cover_everything_once(flat: list[int], most: int) -> None:
    found: list[int] = []
    for batch, size in _batches(flat, most):
        assert 0 < size <= most
        pairs = zip(batch[0::2], batch[1::2], strict=True)
        found += [byte for base, length in pairs for byte in range(base, base + length)]

    assert found == bytes_of(flat)


def test_advance_steps_into_the_middle_of_a_range() -> None:
    ((batch, _),) = _batches([100, 110, 200, 210], 100)

    assert _advance(batch, 13) == 203
    assert list(batch) == [203, 7]
    assert _advance(batch, 7) == 0


def test_pieces_fit_a_buffer() -> None:
    size = 4 << 20

    pieces = list(_pieces(3, [0, size + PAGE, 2 * size, 2 * size + PAGE]))

    assert [piece.size for piece in pieces] == [size, 2 * PAGE]
    assert pieces[1].ranges == [size, size + PAGE, 2 * size, 2 * size + PAGE]


def test_merged() -> None:
    assert _merged([(4, 6), (0, 2), (2, 4), (9, 10)]) == [(0, 6), (9, 10)]


@given(
    st.binary(max_size=64),
    ranges,
    st.slices(64),
    st.integers(-64, 63),
)
def test_pieced_data_is_like_bytes(
    content: bytes, flat: list[int], key: slice, index: int
) -> None:
    backing = MemoryBacking(memoryview(content.ljust(64, b"x")))
    pieces = [
        Piece(start, stop, backing, start)
        for start, stop in zip(flat[0::2], flat[1::2], strict=True)
    ]
    plain = bytearray(64)
    for start, stop, _, _ in pieces:
        plain[start:stop] = content.ljust(64, b"x")[start:stop]

    data = PiecedData(64, pieces)

    assert len(data) == 64
    assert bytes(data) == plain
    assert data == bytes(plain)
    assert data[key] == plain[key]
    assert data[index] == plain[index]
    assert list(data) == list(plain)
