"""An image is what has been written, or each file that is not is named."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

import sandlock_async as sa
from sandlock_async.image import layout
from tests.conftest import Tracee

GOLDEN = Path(__file__).parent.parent / "golden"
DAMAGED = "damaged: its checksum is another one"


@pytest.fixture
async def image(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> Path:
    await sa.capture_to(sleeper, tmp_path / "it", format="v3", app_state=b"mine")
    return tmp_path / "it"


def names_in(image: Path) -> list[str]:
    return sorted(str(path.relative_to(image)) for path in image.rglob("*.*"))


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


async def found_in(image: Path) -> dict[str, str]:
    found = await sa.verify(image)
    assert found.ok == (not found.findings)
    return {finding.file: finding.problem for finding in found.findings}


@pytest.mark.parametrize("format", ["v1", "v2", "v3"])
@pytest.mark.parametrize("memory_limit", [0, 64 << 10, 256 << 20])
async def test_what_is_captured_is_whole(
    format: str,
    memory_limit: int,
    spawn: Callable[..., Tracee],
    tmp_path: Path,
) -> None:
    tracee = spawn("big.py", 12 << 20, 1)
    for strategy in ("direct", "fork"):
        path = tmp_path / strategy
        await sa.capture_to(
            tracee.pid,
            path,
            format=format,
            strategy=strategy,
            memory_limit=memory_limit,
            durable=False,
        )

        found = await sa.verify(path)

        assert found.ok, found.findings
        assert found.files == len(names_in(path))
        assert found.bytes == sum((path / it).stat().st_size for it in names_in(path))


async def test_a_copy_without_holes_is_whole(image: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", "--sparse=never", image, tmp_path / "copy"], check=True)
    assert await found_in(tmp_path / "copy") == {}


async def test_every_damaged_file_is_named(image: Path) -> None:
    for name in names_in(image):
        size = (image / name).stat().st_size
        for bit in {0, 4 * size + 3, 8 * size - 1} if size else ():
            flip(image / name, bit)
            found = await found_in(image)
            assert list(found) == [name]
            with pytest.raises(sa.ImageError):
                async with await sa.Checkpoint.load(image, verify=True):
                    pass
            flip(image / name, bit)
    assert await found_in(image) == {}
    async with await sa.Checkpoint.load(image, verify=True) as checkpoint:
        assert checkpoint.app_state == b"mine"


async def test_what_is_missing_cut_or_foreign(image: Path, tmp_path: Path) -> None:
    memory = sorted((image / "process/memory").iterdir())
    memory[0].unlink()
    os.truncate(memory[1], memory[1].stat().st_size + 4096)
    (image / "thesis.txt").touch()
    (image / "process/threads/1.bin").symlink_to("/etc/passwd")
    os.mkfifo(image / "extended/pipe")
    (image / "folder" / "inner").mkdir(parents=True)
    (image / "app_state.bin").unlink()
    (image / "app_state.bin").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(b"mine")

    found = await found_in(image)

    assert found.keys() == {
        f"process/memory/{memory[0].name}",
        f"process/memory/{memory[1].name}",
        "thesis.txt",
        "process/threads/1.bin",
        "extended/pipe",
        "folder",
        "app_state.bin",
    }
    assert found[f"process/memory/{memory[0].name}"] == "missing"
    assert "instead of" in found[f"process/memory/{memory[1].name}"]


@pytest.mark.parametrize("name", [layout.META, layout.INFO, layout.MANIFEST])
async def test_without_a_file_it_is_still_looked_at(name: str, image: Path) -> None:
    (image / name).unlink()

    found = await found_in(image)

    assert found[name].startswith("missing")


async def test_without_its_sums_an_image_of_ours_is_not_trusted(
    image: Path, tmp_path: Path
) -> None:
    (image / layout.MANIFEST).unlink()
    flip(image / "policy.dat", 80)

    assert not (await sa.verify(image)).ok
    with pytest.raises(sa.ImageCorruptError, match=layout.MANIFEST):
        await sa.Checkpoint.load(image, verify=True)
    with pytest.raises(sa.ImageCorruptError, match=layout.MANIFEST):
        await sa.convert(image, tmp_path / "new", format="v3")
    async with await sa.Checkpoint.load(image) as checkpoint:
        with pytest.raises(sa.ImageCorruptError, match=layout.MANIFEST):
            await checkpoint.save(tmp_path / "new")
    assert os.listdir(tmp_path) == ["it"]


async def test_sandlocks_own_have_their_structure(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "v1" / "sleep", tmp_path / "it")
    whole = await sa.verify(tmp_path / "it")
    assert whole.ok
    assert not whole.has_checksums
    memory = next((tmp_path / "it/process/memory").iterdir())
    memory.write_bytes(b"short")
    assert list(await found_in(tmp_path / "it")) == [f"process/memory/{memory.name}"]


async def test_there_must_be_a_directory(tmp_path: Path) -> None:
    with pytest.raises(sa.CheckpointNotFoundError):
        await sa.verify(tmp_path / "nothing")


async def test_a_damaged_image_is_not_made_a_whole_one(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = next((image / "process/memory").iterdir())
    flip(memory, 77)
    await sa.convert(image, tmp_path / "linked", format="v1")
    assert [*(await found_in(tmp_path / "linked")).values()] == [DAMAGED]

    monkeypatch.setattr("sandlock_async.store.links._share", lambda *_, **__: False)
    with pytest.raises(sa.ImageCorruptError, match=memory.name):
        await sa.convert(image, tmp_path / "copied", format="v1")
    async with await sa.Checkpoint.load(image) as checkpoint:
        with pytest.raises(sa.ImageCorruptError, match=memory.name):
            await checkpoint.save(tmp_path / "saved")
    flip(memory, 77)
    flip(image / layout.INFO, 80)
    with pytest.raises(sa.ImageError):
        await sa.convert(image, tmp_path / "again", format="v1")
    assert sorted(os.listdir(tmp_path)) == ["it", "linked"]


@pytest.mark.parametrize("name", ["policy.dat", layout.APP_STATE, layout.FDS])
@pytest.mark.parametrize("how", ["damaged", "missing"])
async def test_what_is_saved_has_been_compared(
    name: str, how: str, image: Path, tmp_path: Path
) -> None:
    async with await sa.Checkpoint.load(image) as checkpoint:
        if how == "damaged":
            flip(image / name, 3)
        else:
            (image / name).unlink()
        with pytest.raises(sa.ImageCorruptError, match=name):
            await checkpoint.save(tmp_path / "saved")
    assert os.listdir(tmp_path) == ["it"]


@pytest.mark.parametrize("of_child", [False, True])
async def test_what_is_compared_is_what_has_been_read(
    of_child: bool,
    family: "subprocess.Popen[bytes]",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # GIVEN a disk that once says something else than afterwards
    report = await sa.capture_to(family, tmp_path / "it", tree=True, durable=False)
    child = f"children/{report.children[0]}/" if of_child else ""
    victim = tmp_path / "it" / child / "policy.dat"
    content = victim.read_bytes()
    verify_metadata = sa.convert.__globals__["verify_metadata"]

    def put_right(directory: object) -> None:
        victim.write_bytes(content)
        verify_metadata(directory)

    monkeypatch.setitem(sa.convert.__globals__, "verify_metadata", put_right)
    flip(victim, 8 * len(content) - 8)

    with pytest.raises(sa.ImageCorruptError, match="changed while it was read"):
        await sa.convert(tmp_path / "it", tmp_path / "new", format="v1")
    assert os.listdir(tmp_path) == ["it"]


@pytest.mark.parametrize("size", [5000, 4096, 1, 3 << 20, (3 << 20) + 7])
async def test_which_zeros_are_holes_does_not_matter(size: int, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        await sa.capture_to(
            process, tmp_path / "it", app_state=bytes(size), durable=False
        )
        process.kill()
    command = ["cp", "-r", "--sparse=always", tmp_path / "it", tmp_path / "copy"]
    subprocess.run(command, check=True)
    assert await found_in(tmp_path / "copy") == {}


async def test_descendants_have_no_state_of_their_own(
    family: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    report = await sa.capture_to(family, tmp_path / "it", tree=True, durable=False)
    child = tmp_path / "it" / "children" / str(report.children[0])
    (child / layout.APP_STATE).touch()
    os.truncate(child / layout.APP_STATE, 1 << 20)  # a hole costs nothing

    with pytest.raises(sa.ImageCorruptError, match="are too many"):
        await sa.convert(tmp_path / "it", tmp_path / "new", format="v1")


async def test_what_is_linked_is_as_long_as_it_was(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = next((image / "process/memory").iterdir())
    verify_metadata = sa.convert.__globals__["verify_metadata"]

    def cut_then(directory: object) -> None:
        verify_metadata(directory)
        os.truncate(memory, memory.stat().st_size + 4096)

    monkeypatch.setitem(sa.convert.__globals__, "verify_metadata", cut_then)

    with pytest.raises(sa.ImageCorruptError, match="changed since"):
        await sa.convert(image, tmp_path / "new", format="v1")
    assert os.listdir(tmp_path) == ["it"]


async def test_descendants_are_checked_too(
    family: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    report = await sa.capture_to(family, tmp_path / "it", tree=True, durable=False)
    child = tmp_path / "it" / "children" / str(report.children[0])
    assert await found_in(tmp_path / "it") == await found_in(child) == {}

    flip(child / "policy.dat", 3)

    assert await found_in(child) == {"policy.dat": DAMAGED}
    name = f"children/{child.name}/policy.dat"
    assert await found_in(tmp_path / "it") == {name: DAMAGED}


def test_the_command(image: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> "subprocess.CompletedProcess[bytes]":
        command = [sys.executable, "-m", "sandlock_async", "verify", *arguments]
        return subprocess.run(
            list(map(str, command)), capture_output=True, check=False, timeout=60
        )

    whole = run(image, "--json")
    assert whole.returncode == 0
    told = orjson.loads(whole.stdout)
    assert told.keys() == {"path", "ok", "files", "bytes", "findings"}
    assert told["ok"] is True
    assert told["path"] == str(image)

    (image / os.fsdecode(b"bad\xff\n")).touch()
    flip(image / "policy.dat", 0)

    broken, text = run(image, "--json"), run(image)
    assert broken.returncode == text.returncode == 3
    told = orjson.loads(broken.stdout)
    assert told["ok"] is False
    assert {"file": "policy.dat", "problem": DAMAGED} in told["findings"]
    assert len(told["findings"]) == 2
    assert b"policy.dat" in text.stderr
    assert run(tmp_path / "nothing").returncode == 1
