"""Power may fail at any moment: the old checkpoint is there, or the new one, whole."""

import asyncio
import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

import sandlock_async as sa
from sandlock_async.kernel.rename import Rename
from sandlock_async.store import links, stage
from sandlock_async.store.listing import find_checkpoints
from sandlock_async.store.removal import STAGE_PREFIX
from sandlock_async.store.stage import Stage
from tests.conftest import Tracee
from tests.crash import Disk, Named, Synced, Tree, plant

pytestmark = pytest.mark.usefixtures("nothing_left")

Act = Callable[[Path], Awaitable[object]]

PARENT = """
import os, time
if os.fork() == 0:
    time.sleep(60)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def disk_root(tmp_path: Path) -> Path:
    """A folder that is on the disk, and nothing else in it."""
    root = tmp_path / "disk"
    root.mkdir()
    return root


@pytest.fixture
def parent() -> Iterator[int]:
    """A process with a child."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, process_group=0
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid
    os.killpg(process.pid, 9)
    process.communicate()


@pytest.fixture
def acts(
    spawn: Callable[..., Tracee], parent: int, tmp_path: Path
) -> Callable[[str], Awaitable[Act]]:
    """Return what writes a checkpoint, by name; it gets the destination."""
    elsewhere = tmp_path / "elsewhere"

    async def make(name: str) -> Act:
        what, _, how = name.partition(" ")
        if what == "tree":
            return lambda path: sa.capture_to(
                parent, path, tree=True, format="v3", replace=True
            )
        # More than what is written together with others, SMALL_BYTES.
        pid = spawn("big.py", 1 << 20, 3).pid
        if what == "capture":
            return lambda path: sa.capture_to(
                pid,
                path,
                strategy="fork" if how == "fork" else "direct",
                memory_limit=0 if how == "spilled" else 256 << 20,
                replace=True,
                operation_id="this one",
                app_state=b"new",
            )
        if what == "save":
            checkpoint = await sa.capture(pid)
            return lambda path: saved(checkpoint, path)
        await sa.capture_to(pid, elsewhere, durable=False)
        return lambda path: sa.convert(elsewhere, path, format="v3", replace=True)

    return make


async def saved(checkpoint: sa.Checkpoint, path: Path) -> None:
    async with checkpoint:
        await checkpoint.save(path, replace=True)


def reflinked(fd: int, request: int, source: int) -> int:
    """What ext4 cannot do: the bytes are there, and no more of them on the disk."""
    assert request == links.FICLONE
    content = Path(f"/proc/self/fd/{source}").read_bytes()
    os.ftruncate(fd, len(content))
    os.pwrite(fd, content, 0)
    return 0


def broken(
    disk: Disk, path: Path, before: Tree | None, *, without: int | None = None
) -> Iterator[str]:
    """Yield when it is that a crash leaves neither the old nor the new one, if ever."""
    after = disk.tree(path)
    left = () if without is None else (without,)
    total = len(disk.operations)
    for done in range(total, -1, -1):
        for found in disk.crashes(path, done, without=left):
            if found != after and (done == total or found != before):
                yield f"after {done} of {total}: {disk.operations[done - 1 : done]}"


def make_way(store: Path) -> None:
    Stage(store / "other", replace=False, durable=False).discard()


def names_in(tree: Tree) -> Iterator[str]:
    """Yield the paths in it."""
    if isinstance(tree, tuple):
        for name, inner in tree:
            yield name
            yield from (f"{name}/{below}" for below in names_in(inner))


async def check_whole(tree: Tree, path: Path) -> None:
    """Assert that the loader has nothing to say about it."""
    plant(tree, path)
    found = await sa.verify(path)
    assert found.ok, found.findings
    async with await sa.Checkpoint.load(path, verify=True) as checkpoint:
        assert checkpoint.process_state.memory_data


@pytest.mark.parametrize("there", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize(
    "name",
    [
        "capture small",
        "capture spilled",
        "capture fork",
        "tree",
        "save",
        "convert linked",
        "convert cloned",
    ],
)
async def test_the_old_or_the_new_one_is_there(
    name: str,
    there: bool,
    acts: Callable[[str], Awaitable[Act]],
    disk_root: Path,
    sleeper: "subprocess.Popen[bytes]",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = disk_root / "some" / "folder" / "it"
    if there:
        await sa.capture_to(sleeper, path, app_state=b"old")
    act = await acts(name)
    elsewhere = tmp_path / "elsewhere"
    if "cloned" in name:
        for file in elsewhere.rglob("*.bin"):
            file.chmod(0o640)  # or it would be linked
        monkeypatch.setattr(fcntl, "ioctl", reflinked)
    disk = Disk(disk_root)
    if "linked" in name:
        disk.know(elsewhere)
    before = disk.tree(path)

    with disk.recording():
        await act(path)

    after = disk.tree(path)
    assert after is not None
    assert next(broken(disk, path, before), None) is None
    for number, tree in enumerate((before, after)):
        if tree is not None:
            await check_whole(tree, tmp_path / f"planted-{number}")
    assert os.listdir(path.parent) == ["it"]
    # AND each fsync is one that it takes; but of folders that were on the disk before
    changed = {
        folder
        for this in disk.operations
        if isinstance(this, Named)
        for folder, _, _ in this.edits
    }
    needless = [
        this
        for number, this in enumerate(disk.operations)
        if isinstance(this, Synced)
        and (this.node in changed or not this.is_folder)
        and next(broken(disk, path, before, without=number), None) is None
    ]
    assert needless == []


async def test_what_a_crash_leaves_is_no_checkpoint_and_goes(
    sleeper: "subprocess.Popen[bytes]", disk_root: Path, tmp_path: Path
) -> None:
    store = disk_root / "store"
    await sa.capture_to(sleeper, store / "it")
    disk = Disk(disk_root)
    with disk.recording():
        await sa.capture_to(sleeper, store / "it", replace=True)

    seen = set()
    for done in range(len(disk.operations) + 1):
        for tree in disk.crashes(store, done):
            assert tree is not None
            left = tmp_path / "left"
            names = frozenset(name for name in names_in(tree) if name.count("/") < 2)
            if names in seen:
                continue
            seen.add(names)
            plant(tree, left)
            assert await asyncio.to_thread(find_checkpoints, left) == ["it"]
            # WHEN somebody captures to the same folder
            await asyncio.to_thread(make_way, left)
            assert os.listdir(left) == ["it"]
            shutil.rmtree(left)
    assert len(seen) > 10


@pytest.mark.parametrize("which", ["file", "folder"])
async def test_a_missing_fsync_is_found(
    which: str,
    sleeper: "subprocess.Popen[bytes]",
    disk_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = disk_root / "it"
    seen = []

    def fsync(fd: int) -> None:
        is_folder = os.path.isdir(f"/proc/self/fd/{fd}")
        matters = bool(os.listdir(fd)) if is_folder else True
        if is_folder == (which == "folder") and matters and not seen:
            seen.append(fd)
        else:
            once(fd)

    disk = Disk(disk_root)
    with disk.recording():
        once = os.fsync
        monkeypatch.setattr(os, "fsync", fsync)
        await sa.capture_to(sleeper, path, format="v3")
    monkeypatch.undo()

    assert seen
    assert list(broken(disk, path, None))


async def test_nothing_is_synced_that_need_not_be(
    sleeper: "subprocess.Popen[bytes]", disk_root: Path
) -> None:
    disk = Disk(disk_root)
    with disk.recording():
        await sa.capture_to(sleeper, disk_root / "new" / "it", durable=False)

    assert not [this for this in disk.operations if isinstance(this, Synced)]


async def test_made_once_without_and_asked_for_again_with_it(
    sleeper: "subprocess.Popen[bytes]", disk_root: Path
) -> None:
    path = disk_root / "new" / "it"
    disk = Disk(disk_root)
    with disk.recording():
        for durable in (False, True):
            await sa.capture_to(sleeper, path, durable=durable, operation_id="one")

    assert set(disk.crashes(path, len(disk.operations))) == {disk.tree(path)}


async def test_what_a_killed_writer_has_replaced_goes_only_when_that_is_known(
    sleeper: "subprocess.Popen[bytes]", disk_root: Path
) -> None:
    path, old = disk_root / "it", disk_root / f"{STAGE_PREFIX}0"
    await sa.capture_to(sleeper, path, app_state=b"old")
    await sa.capture_to(sleeper, disk_root / "new", app_state=b"new")
    (disk_root / "new").rename(old)
    disk = Disk(disk_root)
    before = disk.tree(path)

    with disk.recording():
        # GIVEN one that has come to here
        stage.renameat2(old, path, Rename.EXCHANGE)
        with pytest.raises(sa.CheckpointExistsError):
            await sa.capture_to(sleeper, path)
        await sa.capture_to(sleeper, disk_root / "other", durable=False)

    assert next(broken(disk, path, before), None) is None
    assert sorted(os.listdir(disk_root)) == ["it", "other"]


async def test_what_is_replaced_stays_when_the_disk_fails(
    sleeper: "subprocess.Popen[bytes]",
    disk_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = disk_root / "it"
    await sa.capture_to(sleeper, path, app_state=b"old")
    disk = Disk(disk_root)
    before = disk.tree(path)

    def fsync(fd: int) -> None:
        if (path / "app_state.bin").read_bytes() == b"new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        once(fd)

    with disk.recording():
        once = os.fsync
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(sa.StoreError, match="may not survive"):
            await sa.capture_to(sleeper, path, app_state=b"new", replace=True)
    monkeypatch.undo()

    left = set(disk.crashes(path, len(disk.operations)))
    assert left == {before, disk.tree(path)}
    # AND the next one removes it
    await sa.capture_to(sleeper, path, replace=True)
    assert os.listdir(disk_root) == ["it"]
