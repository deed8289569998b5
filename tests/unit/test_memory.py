"""Plans, pieces and segments, against plain bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_async.model import MemoryMap
from sandlock_async.plan import Pages, gaps, plan_segments
from sandlock_async.procfs.maps import Mapping
from sandlock_async.selection import Content, Selection, Via, content_of, select
from sandlock_async.snapshot.copying import _advance, _batches
from sandlock_async.snapshot.direct import _merged, _pieces, _split
from sandlock_async.snapshot.pieces import MemoryBacking, Piece, PiecedData

PAGE = 4096


def mapping(perms: str = "rw-p", path: str | None = None) -> Mapping:
    this = MemoryMap(start=0, end=8 * PAGE, perms=perms, offset=0, path=path)
    inode = 5 if path is not None and path.startswith("/") else 0
    return Mapping(map=this, device=(0, 0), inode=inode, raw_path=b"")


def wanted(perms: str = "rw-p", path: str | None = None) -> Selection:
    return select([mapping(perms, path)], {})


#            ==~~==~~    two pages there, two not, …
POPULATED = [0, 2 * PAGE, 4 * PAGE, 6 * PAGE]
ABSENT = [(2 * PAGE, 4 * PAGE), (6 * PAGE, 8 * PAGE)]
OWN = Pages(([0, 4 * PAGE], [2 * PAGE, 6 * PAGE], [True, True], []))
OF_A_FILE = Pages(([0, 4 * PAGE], [2 * PAGE, 6 * PAGE], [False, False], []))


def test_absent_anonymous_pages_are_holes() -> None:
    plan = plan_segments(wanted(), {}, OWN)

    assert plan.segments[0].populated == POPULATED
    assert plan.segments[0].from_file == []
    assert plan.populated_bytes == 4 * PAGE
    assert plan.skipped == ()


def test_absent_file_pages_are_read_later() -> None:
    plan = plan_segments(wanted(path="/lib"), {}, OF_A_FILE)

    assert plan.segments[0].populated == POPULATED
    assert plan.segments[0].from_file == [edge for gap in ABSENT for edge in gap]


def test_absent_userfaultfd_pages_are_skipped() -> None:
    pages = Pages(([], [], [], []), safe={0: POPULATED})

    plan = plan_segments(wanted(), {0: frozenset({"um"})}, pages)

    assert [(this.start, this.end) for this in plan.skipped] == ABSENT
    assert all("userfaultfd" in this.reason for this in plan.skipped)


def test_guards_are_skipped_and_not_read_from_a_file() -> None:
    guard = (2 * PAGE, 3 * PAGE)
    pages = Pages(([0, 4 * PAGE], [2 * PAGE, 6 * PAGE], [True, True], [guard]))

    plan = plan_segments(wanted(path="/lib"), {}, pages)

    (skipped,) = plan.skipped
    assert (skipped.start, skipped.end) == guard
    assert plan.segments[0].from_file == [3 * PAGE, 4 * PAGE, 6 * PAGE, 8 * PAGE]


def test_what_the_program_may_not_read_is_forced() -> None:
    plan = plan_segments(wanted("-w-p"), {}, OWN)

    assert plan.segments[0].via is Via.FORCED


def test_a_read_only_file_is_captured_for_the_pages_changed() -> None:
    relro = wanted("r--p", "/lib/libc.so.6")
    mixed = Pages(([0, PAGE], [PAGE, 8 * PAGE], [True, False], []))

    assert plan_segments(relro, {}, OF_A_FILE).segments == ()
    (segment,) = plan_segments(relro, {}, mixed).segments
    assert segment.populated == [0, PAGE]
    assert segment.from_file == [PAGE, 8 * PAGE]


def test_shared_memory_is_read_from_its_file_or_reported() -> None:
    this = wanted("rw-s", "/dev/zero (deleted)")

    opened = plan_segments(this, {}, OF_A_FILE, {0: [0, PAGE]})
    closed = plan_segments(this, {}, OF_A_FILE)

    assert opened.segments[0].populated == [0, PAGE]
    assert opened.segments[0].via is Via.SHARED
    assert opened.skipped == ()
    assert closed.segments[0].populated == POPULATED
    assert [(this.start, this.end) for this in closed.skipped] == ABSENT


@pytest.mark.parametrize(
    ("perms", "path", "content"),
    [
        ("rw-p", None, Content.WHOLE),
        ("---p", None, Content.WHOLE),
        ("r--p", None, Content.WHOLE),
        ("rw-p", "[heap]", Content.WHOLE),
        ("rw-p", "/lib/x.so", Content.WHOLE),
        ("r--p", "/lib/x.so", Content.CHANGED),
        ("r-xp", "/lib/x.so", Content.CHANGED),
        ("r-xp", "/lib/x.so (deleted)", Content.WHOLE),
        ("rw-s", "/tmp/data", Content.NOTHING),
        ("rw-s", "/memfd:x (deleted)", Content.WHOLE),
        ("rw-s", "/dev/zero (deleted)", Content.WHOLE),
        ("rw-s", "/SYSV00000000 (deleted)", Content.WHOLE),
        ("r-xp", "[vdso]", Content.NOTHING),
        ("r--p", "[vvar]", Content.NOTHING),
        ("r--p", "[vvar_vclock]", Content.NOTHING),
        ("--xp", "[vsyscall]", Content.NOTHING),
    ],
)
def test_what_has_content(perms: str, path: str | None, content: Content) -> None:
    assert content_of(mapping(perms, path)) is content


def test_pages_are_cut_to_the_mapping_and_joined() -> None:
    pages = Pages(([0, 8, 12, 30], [8, 10, 20, 40], [True, False, True, True], []))

    assert pages.populated(0, 100) == [0, 10, 12, 20, 30, 40]
    assert pages.populated(4, 14) == [4, 10, 12, 14]
    assert pages.populated(20, 30) == []
    assert pages.owned(0, 100) == [0, 8, 12, 20, 30, 40]
    assert pages.owned(8, 12) == []
    assert pages.owned(35, 36) == [35, 36]


def test_what_is_not_to_be_dumped_is_left_out_and_reported() -> None:
    flags = {0: frozenset({"dd"})}

    kept = select([mapping()], flags)
    left_out = select([mapping()], flags, exclude_dontdump=True)

    assert kept.whole
    assert not kept.left_out
    assert not left_out.whole
    assert "DONTDUMP" in plan_segments(left_out, flags, OWN).skipped[0].reason


def test_spans_hold_every_wanted_mapping() -> None:
    def at(start: int, end: int, perms: str = "rw-p") -> Mapping:
        path = "/data" if perms == "rw-s" else None
        this = MemoryMap(start=start, end=end, perms=perms, offset=0, path=path)
        return Mapping(map=this, device=(0, 0), inode=0, raw_path=b"")

    far = 1 << 40
    small = [at(0, PAGE), at(PAGE, 2 * PAGE, "rw-s"), at(far, far + PAGE)]
    large = [at(0, PAGE), at(PAGE, 1 << 30, "rw-s"), at(far, far + PAGE)]

    assert select(small, {}).spans == ((0, far + PAGE),)
    assert select(large, {}).spans == ((0, PAGE), (far, far + PAGE))


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
