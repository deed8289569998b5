"""Images of somebody who means ill: refused as what they are, at no cost."""

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import sandlock_async as sa
from sandlock_async.image import layout
from sandlock_async.image.directory import ImageDirectory
from sandlock_async.image.manifest import Entry, decode_manifest, encode_manifest
from sandlock_async.image.strict_json import Malformed
from sandlock_async.image.verifier import Finding, check_sum, take_inventory
from tests.hostility import MAX_CPU_S, OPERATIONS, Watch
from tests.mutations import GOLDEN, make_sources, remove, run, tamper, walk

PAGE = 4096


@pytest.fixture(scope="module")
def sources(
    compiled: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "sources"
    make_sources(compiled("rich"), folder)
    return folder


@pytest.fixture
def image(sources: Path, tmp_path: Path) -> Path:
    shutil.copytree(sources / "v3", tmp_path / "it")
    return tmp_path / "it"


def problems(found: list[Any]) -> list[Any]:
    return [it for it in found if it["problems"]]


@pytest.mark.parametrize(
    ("count", "jobs"),
    [
        pytest.param(200, 2, id="200"),
        pytest.param(
            20_000,
            len(os.sched_getaffinity(0)),
            id="20000",
            marks=[pytest.mark.soak, pytest.mark.timeout(7200)],
        ),
    ],
)
def test_tampered_with(count: int, jobs: int, sources: Path, tmp_path: Path) -> None:
    found = run(sources, tmp_path, 0, count, jobs)

    assert problems(found) == []
    assert len(found) == count
    refused = [it for it in found if "ImageCorruptError" in it["errors"].values()]
    assert count / 2 < len(refused) < count


@given(chance=st.randoms(use_true_random=False))
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_tampered_with_by_hypothesis(
    chance: random.Random,
    sources: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """It looks for the smallest change that is not refused as it should be.

    ``--hypothesis-seed`` has it look elsewhere.
    """
    folder = tmp_path_factory.mktemp("tampered")
    try:
        victim = tamper(chance, sorted(sources.iterdir()), folder)
        note(f"{victim.notes}, sealed: {victim.sealed}")
        for name, operation in OPERATIONS.items():
            refusals = (sa.ImageError, sa.StoreError)[: 1 + name.startswith("convert")]
            with suppress(*refusals):
                asyncio.run(_run(operation, victim.image))
        assert {"image"} <= set(os.listdir(folder)) <= {"image", "outside"}
    finally:
        remove(folder)


async def _run(operation: Callable[[Path], Awaitable[object]], image: Path) -> None:
    await operation(image)


# Every single bit


def small_files(image: Path) -> list[str]:
    return sorted(
        os.path.relpath(path, image)
        for path, is_folder in walk(image)
        if not is_folder and not layout.is_memory_file(str(path))
    )


def memory_bits(file: Path, chance: random.Random, *, whole: bool) -> list[int]:
    """Return bits of a memory file: the first and last of each page, and some more.

    :param whole: and every one of the pages that hold something
    """
    size = file.stat().st_size
    pages = range(0, size, PAGE)
    bits = [bit for at in pages for bit in (8 * at, 8 * min(at + PAGE, size) - 1)]
    if whole:
        content = file.read_bytes()
        full = [at for at in pages if any(content[at : at + PAGE])]
        bits += [bit for at in full for bit in range(8 * at, 8 * (at + PAGE))]
    return bits + [chance.randrange(8 * size) for _ in range(50)]


def flip(fd: int, bit: int) -> None:
    was = os.pread(fd, 1, bit // 8)[0]
    os.pwrite(fd, bytes([was ^ 1 << bit % 8]), bit // 8)


def check_anew(image: Path, entry: Entry) -> Finding | None:
    directory = ImageDirectory(image)
    try:
        return check_sum(directory, entry)
    finally:
        directory.close()


@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(False, id="some of memory"),
        pytest.param(
            True, id="all", marks=[pytest.mark.soak, pytest.mark.timeout(7200)]
        ),
    ],
)
def test_every_bit_is_in_the_sum_of_its_file(whole: bool, image: Path) -> None:
    directory = ImageDirectory(image)
    pending = take_inventory(directory).pending
    directory.close()
    assert {entry.name for entry in pending} == {
        os.path.relpath(path, image) for path, is_folder in walk(image) if not is_folder
    } - {layout.MANIFEST}
    chance = random.Random(1)
    for entry in pending:
        bits: list[int] | range = range(8 * entry.size)
        if layout.is_memory_file(entry.name):
            # A flip in a hole is a write to it: of those that are all holes, a few.
            large = entry.size > 1 << 20 and not whole
            bits = memory_bits(image / entry.name, chance, whole=whole)
            bits = chance.sample(bits, 64) if large else bits
        elif not whole:
            bits = chance.sample(bits, min(len(bits), 1000))
        fd = os.open(image / entry.name, os.O_RDWR)
        for bit in bits:
            flip(fd, bit)
            finding = check_anew(image, entry)
            assert finding is not None and finding.file == entry.name, bit
            flip(fd, bit)
        os.close(fd)
        assert check_anew(image, entry) is None


@pytest.mark.parametrize(
    "every",
    [1499, pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])],
)
async def test_every_bit_is_reported_as_of_its_file(every: int, image: Path) -> None:
    bits = 0
    for name in small_files(image):
        fd = os.open(image / name, os.O_RDWR)
        size = os.fstat(fd).st_size
        for bit in range(bits % every, 8 * size, every):
            flip(fd, bit)
            found = await sa.verify(image)
            assert [finding.file for finding in found.findings] == [name], bit
            flip(fd, bit)
        bits += 8 * size
        os.close(fd)
    assert (await sa.verify(image)).ok


def test_every_bit_of_the_manifest(image: Path) -> None:
    content = bytearray((image / layout.MANIFEST).read_bytes())
    decode_manifest(bytes(content))
    for bit in range(0, 8 * len(content), 11):
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Malformed):
            decode_manifest(bytes(content))
        content[bit // 8] ^= 1 << bit % 8


# What each of them was good for


@pytest.mark.parametrize("name", [layout.META, layout.MANIFEST, layout.MAIN_THREAD])
async def test_no_pipe_and_no_device_is_opened(name: str, image: Path) -> None:
    # Whoever waits to write to a pipe would go on, and a tape be rewound.
    (image / name).unlink()
    os.mkfifo(image / name)
    watch = Watch()
    watch.add(image / name)

    for verify in (False, True):
        if verify or name != layout.MANIFEST:  # which is not looked at otherwise
            with pytest.raises(sa.ImageCorruptError, match="regular file"):
                await sa.Checkpoint.load(image, verify=verify)
    assert not (await sa.verify(image)).ok

    assert watch.seen() == []
    watch.close()


@pytest.mark.parametrize("bytes_to_be", [(1 << 20) + 1, 1 << 26])
@pytest.mark.parametrize("name", [layout.MAIN_THREAD, layout.MAIN_THREAD_FP])
async def test_registers_by_the_million(
    name: str, bytes_to_be: int, image: Path
) -> None:
    os.truncate(image / name, bytes_to_be)

    with pytest.raises(sa.ImageCorruptError, match=f"{bytes_to_be} bytes are too many"):
        await sa.Checkpoint.load(image)


@pytest.mark.parametrize("name", [layout.META, layout.FDS, layout.EXTENDED_PROCESS])
async def test_a_hole_is_no_json(name: str, image: Path) -> None:
    os.truncate(image / name, 64 << 20)

    with pytest.raises(sa.ImageCorruptError, match="zero byte"):
        await sa.Checkpoint.load(image)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a tmpfs")
async def test_memory_of_2_to_the_62nd_bytes() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        image, size = Path(folder) / "it", 1 << 62
        shutil.copytree(GOLDEN / "v1" / "sleep", image)
        mapping = {"start": PAGE, "end": PAGE + size, "perms": "rw-p", "offset": 0}
        (image / layout.MEMORY_MAP).write_bytes(orjson.dumps([mapping]))
        os.truncate(image / layout.MEMORY / "0.bin", size)
        start = time.process_time()

        async with await sa.Checkpoint.load(image) as checkpoint:
            (segment,) = checkpoint.process_state.all_segments()
            assert len(segment.data) == size
            assert segment.data[-PAGE:] == bytes(PAGE)
            assert sum(stop - start for start, stop in segment.data.ranges()) < 1 << 20
        assert (await sa.verify(image)).ok
        report = await sa.convert(image, Path(folder) / "copy", format="v3")
        assert report.copied_bytes + report.linked_bytes > 0
        assert (await sa.verify(Path(folder) / "copy")).bytes > size

        assert time.process_time() - start < MAX_CPU_S


@pytest.mark.parametrize("entry", [b"{}", b"[]", b'{"":0}', b"[[]]", b'["["]'])
async def test_a_million_tiny_entries(entry: bytes, image: Path) -> None:
    (image / layout.FDS).write_bytes(b"[" + (entry + b",") * 999_999 + entry + b"]")
    start = time.process_time()

    with pytest.raises(sa.ImageCorruptError, match="are too many"):
        await sa.Checkpoint.load(image)

    assert time.process_time() - start < MAX_CPU_S


async def test_brackets_in_names_are_no_entries(image: Path) -> None:
    fds = orjson.loads((image / layout.FDS).read_bytes())
    fds[0]["path"] = '/[{"' * 100_000
    (image / layout.FDS).write_bytes(orjson.dumps(fds))

    async with await sa.Checkpoint.load(image) as checkpoint:
        assert checkpoint.fd_table[0].path == fds[0]["path"]


async def test_what_is_converted_is_what_has_been_checked(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image / layout.MANIFEST).unlink()
    (image / layout.EXTENDED_PROCESS).unlink()  # as if it were sandlock's
    read = ImageDirectory.read_optional
    done: list[str] = []

    def replaced(directory: ImageDirectory, name: str) -> bytes | None:
        if name == layout.FDS and done.count(name) == 1:
            (image / name).write_bytes(b"not at all")
        done.append(name)
        return read(directory, name)

    monkeypatch.setattr(ImageDirectory, "read_optional", replaced)

    with pytest.raises(sa.ImageCorruptError, match="changed while it was read"):
        await sa.convert(image, tmp_path / "new", format="v3")
    assert os.listdir(tmp_path) == ["it"]


async def test_an_error_is_no_longer_than_it_must_be(image: Path) -> None:
    entry = Entry(name="x" * (1 << 20) + "/..", size=0, blake3=bytes(32))
    (image / layout.MANIFEST).write_bytes(encode_manifest([entry]))
    (image / layout.EXTENDED_PROCESS).write_bytes(
        (image / layout.EXTENDED_PROCESS)
        .read_bytes()
        .replace(b'"kind": "pipe"', b'"kind": "' + b"x" * (1 << 20) + b'"')
    )

    found = await sa.verify(image)

    assert {finding.file for finding in found.findings} == {
        layout.MANIFEST,
        layout.EXTENDED_PROCESS,
    }
    assert all(len(finding.problem) < 200 for finding in found.findings)


@pytest.mark.parametrize("depth", [1000, 1023])
async def test_a_version_that_is_deep(depth: int, image: Path) -> None:
    version = b"[" * depth + b"]" * depth
    (image / layout.META).write_bytes(b'{"name": "it", "version": ' + version + b"}")

    with pytest.raises(sa.ImageVersionError) as caught:
        await sa.Checkpoint.load(image)

    assert len(str(caught.value)) < 500


def area_of(content: dict[str, Any]) -> dict[str, Any]:
    area: dict[str, Any] = content["vm_areas"][0]["map"]
    return area


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda it: area_of(it).update(end=area_of(it)["start"]), "before it begins"),
        (lambda it: area_of(it).update(end=0), "before it begins"),
        (
            lambda it: (
                it.update(memory_maps=[area["map"] for area in it["vm_areas"]])
                or it["vm_areas"].pop()
            ),
            "the same mappings",
        ),
    ],
    ids=["empty", "backwards", "two lists"],
)
async def test_mappings_that_cannot_be(
    change: Callable[[dict[str, Any]], object], reason: str, image: Path
) -> None:
    content = orjson.loads((image / layout.EXTENDED_PROCESS).read_bytes())
    change(content)
    (image / layout.EXTENDED_PROCESS).write_bytes(orjson.dumps(content))

    with pytest.raises(sa.ImageCorruptError, match=reason) as caught:
        await sa.Checkpoint.load(image)

    assert caught.value.path == image / layout.EXTENDED_PROCESS


async def test_a_source_that_cannot_be_looked_at(image: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in ("x" * 300, "loop"):
        with pytest.raises(sa.ImageError):
            await sa.convert(tmp_path / name, tmp_path / "new", format="v1")
    assert sorted(os.listdir(tmp_path)) == ["it", "loop"]
