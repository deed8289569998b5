"""Pages that are nothing but zeros need not be written: a hole reads the same."""

from collections.abc import Iterator, Sequence

PAGE_BYTES = 4096
"""The same on every machine, however large its own pages are."""

_ZEROS = bytes(PAGE_BYTES)
_FEW_PAGES = 16
_PROBES = (0, 8, 24, 64, 512, 2048, PAGE_BYTES - 8)
"""Bytes of a page that are looked at first: hardly any page has zeros at all of them."""

Run = tuple[int, memoryview]


def without_zeros(offset: int, view: memoryview) -> Iterator[Run]:
    """Yield the parts of *view*, which begins at *offset*, that are not zero.

    Whole pages are left out; what follows the last whole one is kept.
    """
    page = PAGE_BYTES
    pages = len(view) // page
    start = 0
    for index in _suspects(view, pages):
        at = index * page
        if view[at : at + page].tobytes() != _ZEROS:  # a view compares byte by byte
            continue
        if at > start:
            yield offset + start, view[start:at]
        start = at + page
    if start < len(view):
        yield offset + start, view[start:]


def _suspects(view: memoryview, pages: int) -> Sequence[int]:
    """Return the pages that may be zero, by number."""
    if pages <= _FEW_PAGES:
        return range(pages)
    page = PAGE_BYTES
    whole = view[: pages * page]
    # All pages at once, as one long number: a byte of it for each.
    marks = 0
    for probe in _PROBES:
        marks |= int.from_bytes(bytes(whole[probe::page]), "little")
    found: list[int] = []
    bits = marks.to_bytes(pages, "little")
    index = bits.find(0)
    while index >= 0:
        found.append(index)
        index = bits.find(0, index + 1)
    return found
