"""A sleeping process: captured, saved, loaded, and compared with the kernel's view."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

import sandlock_async as sa
from sandlock_async.arch import MACHINES
from sandlock_async.image.policy import DEFAULT_V1
from tests.conftest import on_one_cpu, until

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_what_a_capture_holds(sleeper: "subprocess.Popen[bytes]") -> None:
    async with await sa.capture(sleeper) as checkpoint:
        state = checkpoint.process_state
        assert state.arch is not None
        pc = state.regs[MACHINES[state.arch].pc]

        assert pc
        assert any(m.start <= pc < m.end and m.executable for m in state.memory_maps)
        assert state.memory_data
        assert state.pid == sleeper.pid
        assert state.exe == os.readlink(f"/proc/{sleeper.pid}/exe")
        assert state.cwd == os.getcwd()
        (thread,) = state.threads
        assert (thread.tid, thread.regs) == (sleeper.pid, state.regs)
        assert thread.name == "sleep"
        assert [fd.fd for fd in checkpoint.fd_table] == sorted(
            int(fd) for fd in os.listdir(f"/proc/{sleeper.pid}/fd")
        )
        for fd in checkpoint.fd_table:
            assert fd.path == os.readlink(f"/proc/{sleeper.pid}/fd/{fd.fd}")
        assert checkpoint.policy == DEFAULT_V1


async def test_saved_loaded_and_compared(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    async with await sa.capture(
        sleeper, name="web", policy=b"any", app_state=b"\0state"
    ) as checkpoint:
        await checkpoint.save(tmp_path / "store" / "web")

        async with await sa.Checkpoint.load(tmp_path / "store" / "web") as loaded:
            assert loaded == checkpoint
            assert loaded.name == "web"
            with open(f"/proc/{sleeper.pid}/mem", "rb", buffering=0) as memory:
                for segment in loaded.process_state.memory_data:
                    memory.seek(segment.start)
                    assert segment.data == memory.read(len(segment.data))

            await loaded.save(tmp_path / "again")
    assert tree(tmp_path / "again") == tree(tmp_path / "store" / "web")
    assert await sa.list_checkpoints(tmp_path / "store") == ["web"]


def tree(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


@pytest.fixture
def reader() -> Iterator["subprocess.Popen[bytes]"]:
    """A process in read(2): unlike a sleep, it is the same after every stop."""
    with on_one_cpu():
        started = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    with started as process:
        syscall = Path(f"/proc/{process.pid}/syscall")
        comm = Path(f"/proc/{process.pid}/comm")
        until(lambda: comm.read_text() == "cat\n", "cat to be executed")
        until(lambda: syscall.read_text().startswith(("0 ", "63 ")), "cat to read")
        yield process


async def test_streamed_is_the_same_as_saved(
    reader: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    events: list[sa.Event] = []

    report = await sa.capture_to(reader, tmp_path / "a", on_event=events.append)
    async with await sa.capture(reader) as checkpoint:
        await checkpoint.save(tmp_path / "b")

    one, other = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert orjson.loads(one.pop("meta.json"))["name"] == "a"
    assert orjson.loads(other.pop("meta.json"))["name"] == "b"
    # The manifest sums up meta.json, which has the names.
    assert one.pop("extended/manifest.json") != other.pop("extended/manifest.json")
    assert one == other
    assert report.path == tmp_path / "a"
    assert report.written_bytes > 0
    assert report.freeze_ms < report.total_ms
    kinds = [type(event) for event in events if not isinstance(event, sa.Progress)]
    assert kinds == [sa.Frozen, sa.Thawed, sa.Committed]


@pytest.mark.parametrize("umask", [0, 0o777], ids=oct)
async def test_modes_whatever_the_umask(
    umask: int, sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        await sa.capture_to(sleeper, tmp_path / "new" / "it", tree=True)
    finally:
        os.umask(before)

    for path in (tmp_path / "new", *(tmp_path / "new").rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


async def test_an_existing_checkpoint(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    await sa.capture_to(sleeper, tmp_path / "it", app_state=b"old")

    with pytest.raises(FileExistsError) as caught:
        await sa.capture_to(sleeper, tmp_path / "it", app_state=b"new")
    async with await sa.Checkpoint.load(tmp_path / "it") as kept:
        assert kept.app_state == b"old"
        await sa.capture_to(sleeper, tmp_path / "it", app_state=b"new", replace=True)
    async with await sa.Checkpoint.load(tmp_path / "it") as replaced:
        assert replaced.app_state == b"new"

    assert isinstance(caught.value, sa.CheckpointExistsError)
    assert os.listdir(tmp_path) == ["it"]


async def test_what_is_no_checkpoint_is_not_replaced(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "thesis").write_text("years of work")

    with pytest.raises(sa.StoreError, match="no checkpoint"):
        await sa.capture_to(sleeper, folder, replace=True)

    assert (folder / "thesis").read_text() == "years of work"


async def test_dots_in_names_do_not_collide(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    for name in ("web.1", "web.2", "web.tmp"):
        await sa.capture_to(sleeper, tmp_path / name)

    assert await sa.list_checkpoints(tmp_path) == ["web.1", "web.2", "web.tmp"]


async def test_stages_of_the_dead_are_removed(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    left = tmp_path / ".sandlock-async-stage-0123"
    (left / "process").mkdir(parents=True)

    await sa.capture_to(sleeper, tmp_path / "it")

    assert os.listdir(tmp_path) == ["it"]


@pytest.mark.parametrize("limit", [1.5, "5", None, True])
async def test_a_limit_that_is_no_number(limit: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="memory_limit"):
        await sa.capture_to(1, tmp_path / "it", memory_limit=limit)


@pytest.mark.parametrize("place", ["a\0b", "a\0b/it", "\ud800"])
async def test_a_path_that_cannot_be(place: str, tmp_path: Path) -> None:
    for call in (sa.capture_to, sa.check):
        with pytest.raises(ValueError, match="does not name"):
            await call(1, tmp_path / place)


async def test_a_full_disk(sleeper: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mount]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        async with await sa.capture(sleeper) as checkpoint:
            with pytest.raises(sa.NoSpaceError) as late:
                await checkpoint.save(mount / "it")
        with pytest.raises(sa.NoSpaceError) as early:
            await sa.capture_to(sleeper, mount / "it")

        assert late.value.needed > late.value.free
        assert early.value.needed > early.value.free
        assert os.listdir(mount) == []
    finally:
        subprocess.run(["umount", mount], check=True)
    assert sleeper.poll() is None


@pytest.mark.parametrize("path", ["missing", "file"])
async def test_no_checkpoint(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(FileNotFoundError) as caught:
        await sa.Checkpoint.load(tmp_path / path)

    assert str(caught.value) == f"Checkpoint not found: {tmp_path / path}"


async def test_opening_costs_no_descriptor_a_segment(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    await sa.capture_to(sleeper, tmp_path / "it")
    before = len(os.listdir("/proc/self/fd"))

    async with await sa.Checkpoint.load(tmp_path / "it") as checkpoint:
        assert len(os.listdir("/proc/self/fd")) == before + 1
        for segment in checkpoint.process_state.memory_data:
            assert len(segment.data[:16]) == 16
        assert len(os.listdir("/proc/self/fd")) <= before + 1 + 8
