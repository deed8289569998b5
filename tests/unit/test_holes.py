"""Pages of zeros are left out, and nothing else."""

import mmap

from hypothesis import given
from hypothesis import strategies as st

from sandlock_async.image.holes import without_zeros

PAGE = mmap.PAGESIZE


@given(
    st.lists(st.sampled_from(["zero", "full", "first", "last", "middle"])),
    st.integers(0, PAGE - 1),
    st.sampled_from([0, 20]),
)
def test_what_is_left_is_all_there_is(pages: list[str], tail: int, more: int) -> None:
    pages = ["full"] * more + pages  # many are not looked at one by one
    marks = {"first": 0, "last": PAGE - 1, "middle": 1000}
    content = bytearray(len(pages) * PAGE + tail)
    for number, kind in enumerate(pages):
        if kind == "full":
            content[number * PAGE : (number + 1) * PAGE] = b"\xff" * PAGE
        elif kind != "zero":
            content[number * PAGE + marks[kind]] = 1

    runs = [
        (at, bytes(run)) for at, run in without_zeros(3 * PAGE, memoryview(content))
    ]

    again = bytearray(len(content))
    for at, run in runs:
        again[at - 3 * PAGE : at - 3 * PAGE + len(run)] = run
    assert again == content
    kept = sum(len(run) for _, run in runs)
    assert kept == (len(pages) - pages.count("zero")) * PAGE + tail
