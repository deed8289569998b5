"""``manifest.json``: what somebody else says of an image's files."""

from hypothesis import given
from hypothesis import strategies as st

from sandlock_async.image.manifest import Entry, decode_manifest, encode_manifest
from sandlock_async.image.process_json import dumps
from sandlock_async.image.strict_json import Malformed

PARTS = st.sampled_from(["a", "..", ".", "", "process", "\0", "\n", "é", "meta.json"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=8
)
SIZES = st.integers(0, (1 << 64) - 1)
ENTRIES = st.builds(
    Entry, name=NAMES, size=SIZES, blake3=st.binary(min_size=32, max_size=32)
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 1 << 63) | st.floats() | NAMES,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
)


@given(st.lists(ENTRIES, max_size=4))
def test_signed_by_anybody(entries: list[Entry]) -> None:
    try:
        found = decode_manifest(encode_manifest(entries))
    except Malformed:
        return
    assert sorted(found) == sorted(entry.name for entry in entries)
    for name, entry in found.items():
        assert entry.size < 1 << 63
        parts = name.split("/")
        assert not {"", ".", ".."} & set(parts) and "\0" not in name


@given(
    st.binary()
    | VALUES.map(dumps)
    | st.fixed_dictionaries(
        {
            "version": st.just(1) | VALUES,
            "files": VALUES
            | st.lists(
                st.fixed_dictionaries(
                    {"name": VALUES, "size": VALUES, "blake3": VALUES}
                )
            ),
            "root": VALUES,
        }
    ).map(dumps)
)
def test_anything_else_is_malformed(content: bytes) -> None:
    try:
        decode_manifest(content)
    except Malformed:
        return
    raise AssertionError("nobody has signed that")
