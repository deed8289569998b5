"""Images: byte for byte as sandlock writes them, and nothing believed of others."""

import os
import random
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

import sandlock_async as sa
from sandlock_async.image import FORMATS, layout
from sandlock_async.image.directory import ImageDirectory
from sandlock_async.image.policy import DEFAULT_V1
from sandlock_async.image.reader import read_image, read_with_children
from sandlock_async.image.v1 import FORMAT

GOLDEN = Path(__file__).parent.parent / "golden" / "v1"
METADATA = [
    layout.META,
    layout.POLICY,
    layout.INFO,
    layout.FDS,
    layout.MEMORY_MAP,
    layout.MAIN_THREAD,
]
SEGMENT = f"{layout.MEMORY}/0.bin"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "sleep-state", tmp_path / "image")
    return tmp_path / "image"


def read(path: Path) -> None:
    read_image(path).directory.close()


@pytest.mark.parametrize("name", ["sleep", "sleep-state"])
def test_what_sandlock_wrote_comes_out_as_it_was(name: str) -> None:
    read = read_image(GOLDEN / name)

    files = FORMAT.encode(read.picture)

    for file in (GOLDEN / name).rglob("*.*"):
        key = str(file.relative_to(GOLDEN / name))
        if key.startswith(layout.MEMORY + "/"):
            assert dict(files.segments)[key].data == file.read_bytes()
        else:
            assert files.small[key] == file.read_bytes(), key
    assert list(files.small)[-1] == layout.META
    read.directory.close()


@pytest.mark.parametrize(
    ("perms", "path", "held"),
    [
        ("rw-p", None, {"v1", "v2", "v3"}),
        ("rwxp", "/lib/x.so", {"v1", "v2", "v3"}),
        ("-w-p", None, set()),
        ("---p", None, set()),
        ("---p", "/lib/x.so (deleted)", {"v2", "v3"}),
        ("r--p", "/lib/x.so", {"v2", "v3"}),
        ("rw-s", "/dev/zero (deleted)", {"v2", "v3"}),
        ("r-xp", "[vdso]", set()),
    ],
)
def test_which_layout_holds_what_is_captured(
    perms: str, path: str | None, held: set[str]
) -> None:
    this = sa.MemoryMap(start=4096, end=8192, perms=perms, offset=0, path=path)

    assert {name for name, known in FORMATS.items() if known.holds(this)} == held


def test_the_default_policy() -> None:
    # sandlock's own minimal one has seven readable paths and a clean environment
    minimal = (GOLDEN / "policy" / "minimal.dat").read_bytes()
    paths = sum(
        8 + len(path)
        for path in ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/dev")
    )
    emptied = minimal[:8] + struct.pack("<Q", 0) + minimal[16 + paths :]

    assert len(DEFAULT_V1) == 131
    differing = [at for at in range(131) if emptied[at] != DEFAULT_V1[at]]
    assert all(emptied[at] == 1 for at in differing)
    assert len(differing) <= 1


@pytest.mark.parametrize("name", METADATA)
def test_a_missing_file(image: Path, name: str) -> None:
    (image / name).unlink()

    with pytest.raises(sa.ImageCorruptError, match="missing") as caught:
        read(image)

    assert caught.value.path == image / name


@pytest.mark.parametrize("name", [layout.META, layout.INFO, layout.FDS])
def test_truncation_at_every_byte(image: Path, name: str) -> None:
    whole = (image / name).read_bytes()
    for length in range(len(whole)):
        (image / name).write_bytes(whole[:length])
        with pytest.raises(sa.ImageError):
            read(image)


@pytest.mark.parametrize("name", [*METADATA, SEGMENT])
@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "socket"])
def test_something_else_in_its_place(image: Path, name: str, kind: str) -> None:
    target = image / name
    target.rename(image / "moved")
    place: dict[str, Callable[[], object]] = {
        "symlink": lambda: target.symlink_to(image / "moved"),
        "fifo": lambda: os.mkfifo(target),
        "directory": target.mkdir,
        "socket": lambda: bind(target),
    }
    place[kind]()
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(sa.ImageCorruptError, match="not a regular file"):
        read(image)

    assert len(os.listdir("/proc/self/fd")) == before


def bind(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (layout.INFO, b'{"pid": -1, "cwd": "", "exe": ""}'),
        (layout.INFO, b'{"pid": 2147483648, "cwd": "", "exe": ""}'),
        (layout.INFO, b'{"pid": "1", "cwd": "", "exe": ""}'),
        (layout.INFO, b'{"pid": true, "cwd": "", "exe": ""}'),
        (layout.INFO, b'{"pid": 1, "cwd": ""}'),
        (layout.INFO, b"[" * 100_000),
        (layout.INFO, b'\xef\xbb\xbf{"pid": 1, "cwd": "", "exe": ""}'),
        (layout.META, b"null"),
        (layout.FDS, b"{}"),
        (layout.FDS, b'[{"fd": 1, "path": "", "flags": 0, "offset": -1}]'),
        (layout.MEMORY_MAP, b'[{"start": 18446744073709551616}]'),
        (
            layout.MEMORY_MAP,
            b'[{"start": 0, "end": 9223372036854775808, "perms": "", "offset": 0}]',
        ),
        (layout.MEMORY_MAP, b'[{"start": 8, "end": 4, "perms": "", "offset": 0}]'),
        (layout.MAIN_THREAD, b"1234567"),
        (layout.EXTENDED_PROCESS, b"{}"),
    ],
)
def test_malformed(image: Path, name: str, content: bytes) -> None:
    (image / name).parent.mkdir(exist_ok=True)
    (image / name).write_bytes(content)

    with pytest.raises(sa.ImageCorruptError):
        read(image)


@pytest.mark.parametrize("change", [-1, 1], ids=["shorter", "longer"])
def test_a_memory_file_of_another_size(image: Path, change: int) -> None:
    size = (image / SEGMENT).stat().st_size
    os.truncate(image / SEGMENT, size + change)

    with pytest.raises(sa.ImageCorruptError, match=f"instead of {size}"):
        read(image)


@pytest.mark.parametrize("version", [1, 4, 99, "2", 2.0, True, []])
def test_another_version(image: Path, version: object) -> None:
    meta = orjson.loads((image / layout.META).read_bytes())
    (image / layout.META).write_bytes(orjson.dumps({**meta, "version": version}))

    with pytest.raises(sa.ImageVersionError) as caught:
        read(image)

    assert caught.value.found == version
    assert caught.value.expected


async def test_a_file_cut_short_after_loading(image: Path) -> None:
    async with await sa.Checkpoint.load(image) as checkpoint:
        os.truncate(image / SEGMENT, 10)

        with pytest.raises(sa.ImageCorruptError, match="ends at byte 10"):
            bytes(checkpoint.process_state.memory_data[0].data)


@pytest.mark.parametrize("gone", [layout.META, layout.POLICY, layout.APP_STATE])
def test_replaced_while_it_is_read(
    image: Path, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_optional = ImageDirectory.read_optional

    def replaced(directory: ImageDirectory, name: str) -> bytes | None:
        if name == gone:
            monkeypatch.setattr(ImageDirectory, "read_optional", read_optional)
            image.rename(image.with_name("old"))
            shutil.copytree(GOLDEN / "sleep-state", image)
            shutil.rmtree(image.with_name("old"))
        return read_optional(directory, name)

    monkeypatch.setattr(ImageDirectory, "read_optional", replaced)
    found = read_image(image)
    found.directory.close()

    assert found.picture.app_state == (image / layout.APP_STATE).read_bytes()


def test_replaced_while_its_children_are_listed(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = ImageDirectory.children

    def replaced(directory: ImageDirectory) -> list[int]:
        monkeypatch.setattr(ImageDirectory, "children", once)
        image.rename(image.with_name("old"))
        shutil.copytree(GOLDEN / "sleep", image)
        (image / layout.child_name(7, "")).mkdir(parents=True)
        shutil.rmtree(image.with_name("old"))
        return once(directory)

    monkeypatch.setattr(ImageDirectory, "children", replaced)
    found, children = read_with_children(image)
    found.directory.close()

    assert found.picture.app_state is None
    assert children == [7]


def test_removed_while_it_is_read(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_optional = ImageDirectory.read_optional

    def removed(directory: ImageDirectory, name: str) -> bytes | None:
        shutil.rmtree(image, ignore_errors=True)
        return read_optional(directory, name)

    monkeypatch.setattr(ImageDirectory, "read_optional", removed)

    with pytest.raises(sa.CheckpointNotFoundError):
        read(image)


async def test_a_name_that_is_not_unicode(image: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff")
    async with await sa.Checkpoint.load(image) as checkpoint:
        await replace(checkpoint, name="").save(path)
        await checkpoint.save(path, replace=True)

    assert os.listdir(os.fsencode(tmp_path)).count(b"\xff") == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"name": 5}, "name must be a string, not 5"),
        ({"policy": "text"}, "policy must be bytes, not 'text'"),
        ({"policy": 7}, "policy must be bytes, not 7"),
        ({"app_state": "text"}, "app_state must be bytes, not 'text'"),
    ],
)
async def test_saving_what_no_image_holds(
    image: Path, tmp_path: Path, change: dict[str, Any], what: str
) -> None:
    async with await sa.Checkpoint.load(image) as checkpoint:
        with pytest.raises(TypeError, match=what):
            await replace(checkpoint, **change).save(tmp_path / "new" / "it")

    assert not (tmp_path / "new").exists()


async def test_a_closed_checkpoint(image: Path) -> None:
    checkpoint = await sa.Checkpoint.load(image)
    await checkpoint.aclose()
    await checkpoint.aclose()

    with pytest.raises(ValueError, match="closed"):
        bytes(checkpoint.process_state.memory_data[0].data)


async def test_what_was_cut_off_since_is_no_hole(image: Path, tmp_path: Path) -> None:
    async with await sa.Checkpoint.load(image) as checkpoint:
        size = (image / SEGMENT).stat().st_size
        os.truncate(image / SEGMENT, size - 4096)

        with pytest.raises(sa.ImageCorruptError, match="changed since"):
            await checkpoint.save(tmp_path / "again")

    assert not (tmp_path / "again").exists()


def test_many_threads_read_many_segments(tmp_path: Path) -> None:
    # More files than the cache has places, so that they take turns in it.
    (tmp_path / "it").mkdir()
    directory = ImageDirectory(tmp_path / "it")
    segments = []
    for number in range(32):
        content = bytes([number]) * 8192
        (tmp_path / "it" / str(number)).write_bytes(content)
        segments.append((directory.segment(str(number), 8192), content))

    def read(seed: int) -> bool:
        chance = random.Random(seed)
        return all(
            segment.ranges() == [(0, 8192)] and bytes(segment) == content
            for segment, content in (chance.choice(segments) for _ in range(300))
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    directory.close()


def maps_of(image: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    path = image / layout.MEMORY_MAP
    maps = orjson.loads(path.read_bytes())
    change(maps)
    path.write_bytes(orjson.dumps(maps))


@pytest.mark.parametrize(
    "change",
    [
        lambda maps: maps.reverse(),
        lambda maps: maps.__setitem__(1, maps[0]),
        lambda maps: maps[0].__setitem__("end", maps[1]["end"]),
    ],
    ids=["unsorted", "twice", "overlapping"],
)
def test_mappings_that_contradict_each_other(
    image: Path, change: Callable[[list[dict[str, Any]]], object]
) -> None:
    maps_of(image, change)
    for number, this in enumerate(
        orjson.loads((image / layout.MEMORY_MAP).read_bytes())
    ):
        os.truncate(
            image / layout.MEMORY / f"{number}.bin", this["end"] - this["start"]
        )

    with pytest.raises(sa.ImageCorruptError, match="overlap"):
        read(image)


async def test_memory_that_belongs_to_no_mapping(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    await sa.capture_to(sleeper, tmp_path / "it")
    path = tmp_path / "it" / layout.EXTENDED_PROCESS
    content = orjson.loads(path.read_bytes())
    for segments in (
        [{"start": 4096, "size": 4096}],
        [{**content["segments"][0], "size": 4096 * 512}],
        [content["segments"][0]] * 2,
        [{"start": content["vm_areas"][0]["map"]["start"], "size": 1 << 60}],
    ):
        path.write_bytes(orjson.dumps({**content, "segments": segments}))
        with pytest.raises(sa.ImageCorruptError):
            await sa.Checkpoint.load(tmp_path / "it")
